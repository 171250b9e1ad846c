"""Inequalities as intervals: `x > 3` is (3, oo), `|x - 2| >= 3` is the union of (-oo, -1] and [5, oo)."""

import dataclasses
import re
from fractions import Fraction

from pubswap_jax.verifier.numerals import readings
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.shape import Shape
from pubswap_jax.verifier.structure import read

FLIP = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\neq": r"\neq"}
_ENDS = {"<": "()", r"\le": "[]"}
_LOW, _HIGH = Shape("expr", r"-\infty"), Shape("expr", r"\infty")
_FACTOR = r"(?:[0-9]+(?:\.[0-9]+)?|\\frac\{[0-9]+\}\{[0-9]+\})?"
_MODULUS = Pattern(r"\|([^|]+)\|", matches=["|x|", "|2x-1|"], not_=["|x", "||", "2|x|"], by=re.Pattern.fullmatch)
# Linear terms in an absolute value, such as `2x-1` (_UNKNOWN_FIRST) and `1-2x` (_CONSTANT_FIRST).
_CONSTANT = r"(?:\\(?:frac|sqrt|pi)|[^a-zA-Z\\])"
_UNKNOWN_FIRST = Pattern(
    rf"(-?{_FACTOR}) ?([a-zA-Z])((?: ?[+-]{_CONSTANT}+)?)",
    matches=["x", "2x-1", "-3 x", r"\frac{1}{2}x + 5", r"x - \sqrt{2}"],
    not_=["1-x", "xy", "x^2", "2"],
    by=re.Pattern.fullmatch,
)
_CONSTANT_FIRST = Pattern(
    rf"({_CONSTANT}+?) ?([+-] ?{_FACTOR}) ?([a-zA-Z])",
    matches=["1-x", "3 + 2x", r"\frac{1}{2}-x"],
    not_=["x-1", "x", "1-x^2", "y-x"],
    by=re.Pattern.fullmatch,
)


def needed(gold: Shape, answer: Shape) -> bool:
    """Whether two answers must be compared as sets of numbers: one is `|x - 2| >= 3` or `x != 3`, the other has no such form.

    The other side may then be an interval or a union, which `regions` compares with it.
    """
    if not any("|" in shape.text or r"\neq" in shape.text for shape in (gold, answer)):
        return False
    holes = [shape for shape in (gold, answer) if shape.kind == "list" and all(map(_of_hole, shape.items))]
    if len(holes) == 1:
        return True
    unlike = [shape for shape in (gold, answer) if _of_modulus(shape) or _of_hole(shape)]
    return len(unlike) == 1 or (len(unlike) == 2 and any(map(_of_modulus, unlike)) and not all(map(_of_modulus, unlike)))


def regions(shape: Shape) -> list[Shape]:
    """Reads an inequality, interval or union as the sets it may stand for, each an interval or a union; empty for other shapes.

    `1 < |z| < 2` has two readings: z is real, or |z| is itself the unknown.
    """
    if shape.kind in ("tuple", "union", "set"):
        return [shape]
    if shape.kind == "list":
        if all(map(_of_hole, shape.items)):  # x != -1, x != 2
            points = ",".join(item.items[1].text for item in shape.items)
            return [read(rf"(-\infty,\infty)\setminus\{{{points}\}}")]
        joined = union_of(shape)
        return [joined] if joined.kind == "union" else []
    if shape.kind != "relation":
        return []
    if _of_hole(shape):
        value = shape.items[1]
        return [Shape("union", shape.text, (_tuple(_LOW, value, "()"), _tuple(value, _HIGH, "()")))]
    if _of_modulus(shape):
        found = [_solved(shape), interval(_named(shape)) if len(shape.items) == 3 else None]
    else:
        found = [interval(shape)]
    return [region for region in found if region]


def interval(relation: Shape) -> Shape | None:
    """The interval of an inequality: `1 < x \\le 2` is (1, 2]. None unless it is a single letter with one or two bounds."""
    marks, items = _ascending(relation)
    if not marks:
        return None
    if len(items) == 3 and is_letter(items[1]):
        return _tuple(items[0], items[2], _ENDS[marks[0]][0] + _ENDS[marks[1]][1])
    if len(items) == 2 and is_letter(items[0]):
        return _tuple(_LOW, items[1], "(" + _ENDS[marks[0]][1])
    if len(items) == 2 and is_letter(items[1]):
        return _tuple(items[0], _HIGH, _ENDS[marks[0]][0] + ")")
    return None


def union_of(shape: Shape) -> Shape:
    """A list of inequalities as a union of intervals: `x < -1 or x > 1`. The shape itself if an item is not an interval."""
    intervals = [interval(item) if item.kind == "relation" else None for item in shape.items]
    return Shape("union", shape.text, tuple(intervals)) if all(intervals) else shape


def is_letter(shape: Shape) -> bool:
    """Whether a shape is a single letter."""
    return len(shape.text) == 1 and shape.text.isalpha()


def _tuple(low: Shape, high: Shape, marks: str) -> Shape:
    """Makes the shape of the interval from `low` to `high`, with the brackets `marks`."""
    return Shape("tuple", f"{marks[0]}{low.text},{high.text}{marks[1]}", (low, high), marks)


def _ascending(relation: Shape) -> tuple[tuple[str, ...], tuple[Shape, ...]]:
    """A chain of at most two inequalities with the smallest item first: (signs, items); both empty for other relations."""
    marks, items = relation.marks, relation.items
    if not marks or len(items) > 3 or any(mark not in ("<", ">", r"\le", r"\ge") for mark in marks):
        return (), ()
    if marks[0] in (">", r"\ge"):
        marks, items = tuple(FLIP[mark] for mark in reversed(marks)), items[::-1]
    return ((), ()) if any(mark not in _ENDS for mark in marks) else (marks, items)


def _of_modulus(shape: Shape) -> bool:
    """Whether a shape is a relation with exactly one side that is an absolute value."""
    return shape.kind == "relation" and sum(bool(_MODULUS.fullmatch(item.text)) for item in shape.items) == 1


def _of_hole(shape: Shape) -> bool:
    """Whether a shape is `x \\neq 3` for some letter and value."""
    return shape.kind == "relation" and shape.marks == (r"\neq",) and is_letter(shape.items[0])


def _named(relation: Shape) -> Shape:
    """Replaces an absolute value by a letter: `1 < |z| < 2` as `1 < z < 2`, where the new z stands for |z|."""
    letter = Shape("expr", "z")
    items = tuple(letter if re.fullmatch(r"\|[a-zA-Z]\|", item.text) else item for item in relation.items)
    return dataclasses.replace(relation, items=items)


def _solved(relation: Shape) -> Shape | None:
    """The real solutions of an inequality with one absolute value, as an interval or union; None if the value is not linear."""
    marks, items = _ascending(relation)
    at = next((i for i, item in enumerate(items) if _MODULUS.fullmatch(item.text)), None)
    linear = None if at is None else _linear(_MODULUS.fullmatch(items[at].text)[1].strip())
    if linear is None or any(_is_negative(item.text) for i, item in enumerate(items) if i != at):
        return None
    # lower and upper bound of the absolute value, each with the brackets of an interval that ends at the bound
    inner = (items[0].text, _ENDS[marks[0]]) if at else None
    outer = (items[-1].text, _ENDS[marks[-1]]) if at + 1 < len(items) else None
    low, low_mark = (_end(linear, "-", outer[0]), outer[1][0]) if outer else (_LOW, "(")
    high, high_mark = (_end(linear, "+", outer[0]), outer[1][1]) if outer else (_HIGH, ")")
    if inner is None:
        return _tuple(low, high, low_mark + high_mark)
    left = _tuple(low, _end(linear, "-", inner[0]), low_mark + inner[1][1])
    right = _tuple(_end(linear, "+", inner[0]), high, inner[1][0] + high_mark)
    return Shape("union", relation.text, (left, right))


def _is_negative(bound: str) -> bool:
    """Whether a bound is a negative number, or an expression that starts with a minus sign."""
    found = readings(bound)
    return found[0][0] < 0 if found else bound.startswith("-")


def _linear(text: str) -> tuple[Fraction, Fraction | str] | None:
    """(k, c) of `kx + c` with k > 0; None if not linear. For negative k both signs are flipped: |kx + c| stays the same."""
    if match := _UNKNOWN_FIRST.fullmatch(text):
        factor, constant = match[1], match[3].replace(" ", "").removeprefix("+") or "0"
    elif match := _CONSTANT_FIRST.fullmatch(text):
        factor, constant = match[2].replace(" ", "").removeprefix("+"), match[1].strip()
    else:
        return None
    found = readings(factor + "1" if factor in ("", "-") else factor)
    if not found or not found[0][0]:
        return None
    value, known = found[0][0], readings(constant)
    constant = known[0][0] if known else constant
    if value > 0:
        return value, constant
    return -value, -constant if known else f"-({constant})"


def _end(linear: tuple[Fraction, Fraction | str], sign: str, bound: str) -> Shape:
    """The x at which kx + c equals `sign` bound: a fraction if c and the bound are plain numbers, else an expression."""
    factor, constant = linear
    given = readings(bound)
    if given and isinstance(constant, Fraction):
        return Shape("expr", str(((given[0][0] if sign == "+" else -given[0][0]) - constant) / factor))
    return Shape("expr", rf"\frac{{{sign}({bound})-({constant})}}{{{factor}}}")
