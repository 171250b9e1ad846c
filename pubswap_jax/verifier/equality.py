"""Decides whether two answers, read as shapes (expression, list, interval, ...), are equal. Compares values, not notation.

Order counts in tuples, but not in lists and sets. Open and closed ends of intervals differ. `x=5` equals 5. One side may omit
the unit. An `Oracle` compares the expressions inside the shapes.
"""

import functools
import re
from typing import Protocol

from pubswap_jax.verifier import modulus, regions, units
from pubswap_jax.verifier.labels import is_name
from pubswap_jax.verifier.notation import squeezed, thousands
from pubswap_jax.verifier.numerals import close, readings
from pubswap_jax.verifier.prose import plain
from pubswap_jax.verifier.shape import Shape, Undecided, Unreadable, expressions
from pubswap_jax.verifier.structure import read

_ZERO_ITEM = re.compile(r"(?<=[0-9]),0[0-9]")
_BRACKET = re.compile(r"[(\[{]")


class Oracle(Protocol):
    """What decides whether two expressions are equal. Raises Undecided if it cannot. `equal` asks it for parts of a shape."""

    def expr(self, gold: str, answer: str) -> bool:
        """Whether two expressions have the same value."""

    def multiple(self, gold: tuple[str, str], answer: tuple[str, str], positive: bool) -> bool:
        """Whether gold's left minus right is a constant multiple of the answer's. `positive` demands a positive constant."""


class Quick:
    """The oracle of the fast path: compares plain numbers as exact fractions and raises Undecided for everything else."""

    def expr(self, gold: str, answer: str) -> bool:
        one, other = readings(gold), readings(answer)
        if one is None or other is None:
            raise Undecided
        return any(close(a, b) for a in one for b in other)

    def multiple(self, gold: tuple[str, str], answer: tuple[str, str], positive: bool) -> bool:
        raise Undecided


def plain_numbers(text: str) -> bool:
    """Whether a canonical answer consists only of plain numbers and words, so that no LaTeX parser is needed."""
    try:
        return bool(text) and all(readings(part) for part in expressions(read(text)))
    except Unreadable:
        return False


def has_several(text: str) -> bool:
    """Whether a canonical gold is a list or a set of several values."""
    try:
        return any(shape.kind in ("list", "set") and len(shape.items) > 1 for shape in _readings(text))
    except Unreadable:
        return False


def equal_texts(gold: str, answer: str, oracle: Oracle) -> bool:
    """Whether two canonical strings are equal. A comma between digits may separate items or thousands: tries both."""
    if squeezed(gold) == squeezed(answer):
        return True
    if _is_one_number(gold) and _is_one_number(answer):  # as lists, 1,000 and 1,000,000 would be equal
        return equal(read(thousands(gold)), read(thousands(answer)), oracle)
    return any(equal(g, a, oracle) for g in _readings(gold) for a in _readings(answer))


@functools.lru_cache(4096)
def _readings(text: str) -> tuple[Shape, ...]:
    """The shapes that a canonical string may have.

    `1,234` is a number or a list; `1,000` is only a number: no item starts with 0.
    """
    spellings = dict.fromkeys((text, thousands(text) if "," in text else text))
    return tuple(read(spelling) for spelling in spellings if not _ZERO_ITEM.search(spelling))


def _is_one_number(text: str) -> bool:
    """Whether a text has commas, all of which separate thousands, and no brackets: `1,000,000`, `-12,345.6 cm`."""
    return "," in text and "," not in thousands(text) and not _BRACKET.search(text)


def equal(gold: Shape, answer: Shape, oracle: Oracle) -> bool:
    """Whether gold and answer, read as shapes, are equal. Asks the oracle about the expressions inside them."""
    if units.conflict(gold.unit, answer.unit):
        return False
    if squeezed(gold.text) == squeezed(answer.text):
        return True
    if gold.unit == answer.unit and gold.unit.startswith("mod "):
        gold, answer = modulus.reduced(gold), modulus.reduced(answer)
    gold, answer = _bare_values(gold, answer)
    if regions.needed(gold, answer):
        return any(equal(g, a, oracle) for g in regions.regions(gold) for a in regions.regions(answer))
    if {gold.kind, answer.kind} == {"list", "union"}:
        gold, answer = regions.union_of(gold), regions.union_of(answer)
    if gold.kind == answer.kind == "relation":
        return _relations(gold, answer, oracle)
    if "relation" in (gold.kind, answer.kind):
        return _relation_and_other(gold, answer, oracle)
    gold, answer = _unwrap(gold), _unwrap(answer)
    if "text" in (gold.kind, answer.kind):
        return _texts(gold, answer)
    if gold.kind == answer.kind == "expr" or {gold.kind, answer.kind} == {"expr", "matrix"}:  # `2A` is an expr, `A` a matrix
        return oracle.expr(gold.text, answer.text)
    if {gold.kind, answer.kind} == {"matrix", "tuple"}:
        return _is_vector(gold) and _is_vector(answer) and _ordered(gold, answer, oracle)
    if gold.kind == answer.kind == "matrix":
        return gold.marks == answer.marks and _ordered(gold, answer, oracle)
    if {gold.kind, answer.kind} <= {"list", "set"} or gold.kind == answer.kind == "union":
        return _unordered(gold.items, answer.items, oracle)
    if {gold.kind, answer.kind} <= {"list", "tuple"}:
        marks = {shape.marks for shape in (gold, answer) if shape.kind == "tuple"}
        return len(marks) == 1 and (gold.kind == answer.kind or marks == {"()"}) and _ordered(gold, answer, oracle)
    return False


def _ordered(gold: Shape, answer: Shape, oracle: Oracle) -> bool:
    """Whether two shapes have the same number of items and each item equals the other shape's item at its place."""
    if len(gold.items) != len(answer.items):
        return False
    return all(equal(g, a, oracle) for g, a in zip(gold.items, answer.items, strict=True))


def _unordered(golds: tuple[Shape, ...], answers: tuple[Shape, ...], oracle: Oracle) -> bool:
    """Whether each item of either side equals some item of the other side. Repetitions do not count."""
    known = {squeezed(g.text) for g in golds}, {squeezed(a.text) for a in answers}
    if known[0] == known[1]:
        return True
    lonely_golds = [g for g in golds if squeezed(g.text) not in known[1]]
    lonely_answers = [a for a in answers if squeezed(a.text) not in known[0]]
    if not all(any(equal(g, a, oracle) for a in answers) for g in lonely_golds):
        return False
    return all(any(equal(g, a, oracle) for g in golds) for a in lonely_answers)


def _is_vector(shape: Shape) -> bool:
    """Whether a shape can stand for a vector: a tuple in round brackets, or a matrix with one column."""
    return shape.marks == "()" if shape.kind == "tuple" else set(shape.marks) == {"1"}


def _unwrap(shape: Shape) -> Shape:
    """Replaces a list or set of one item by that item."""
    while shape.kind in ("list", "set") and len(shape.items) == 1:
        shape = shape.items[0]
    return shape


def _texts(gold: Shape, answer: Shape) -> bool:
    """Whether two answers in words are the same words, apart from case, fonts and punctuation."""
    words = plain(gold.text)
    return bool(words) and words == plain(answer.text) and gold.kind in ("text", "expr") and answer.kind in ("text", "expr")


def _value(shape: Shape) -> Shape | None:
    """The value in `x = 5`, `5 = x` or `f(x) = x = 5`; None if the shape does not assign a value to a name."""
    if shape.kind != "relation" or set(shape.marks) != {"="}:
        return None
    first, last = shape.items[0], shape.items[-1]
    if is_name(first.text):
        return last
    return first if len(shape.items) == 2 and is_name(last.text) else None


def _bare_values(gold: Shape, answer: Shape) -> tuple[Shape, Shape]:
    """Drops the names of unknowns where only one side has them: `x=1, y=2` against `(1, 2)` becomes `(1, 2)` on both sides.

    Values of different names form a tuple in their order. Returns gold and answer.
    """
    if gold.kind == answer.kind == "relation":
        return gold, answer
    lists = [shape for shape in (gold, answer) if shape.kind in ("list", "tuple") and shape.items]
    named = [[_value(item) for item in shape.items] for shape in lists]
    full = [all(values) for values in named]
    if len(lists) == 2 and full[0] != full[1] and not any(any(v) for v, f in zip(named, full, strict=True) if not f):
        at = full.index(True)
        names = {squeezed(item.items[0].text) for item in lists[at].items}
        kind = "tuple" if len(names) == len(lists[at].items) else lists[at].kind
        bare = Shape(kind, lists[at].text, tuple(named[at]), "()" if kind == "tuple" else "")
        other = lists[1 - at]
        return (bare, other) if lists[at] is gold else (other, bare)
    gold_value, answer_value = _value(gold), _value(answer)
    return gold_value or gold, answer_value or answer


def _relations(gold: Shape, answer: Shape, oracle: Oracle) -> bool:
    """Whether two equations, inequalities or chains of them are equal: `1<x<2` and `2>x>1`."""
    if len(gold.marks) == len(answer.marks) == 1:
        return _pair(_halves(gold)[0], _halves(answer)[0], oracle)
    golds, answers = _halves(gold), _halves(answer)
    gold_value, answer_value = _value(gold), _value(answer)
    if gold_value and answer_value:  # `x = 2 + 3 = 5` and `x = 5`
        return squeezed(gold.items[0].text) == squeezed(answer.items[0].text) and equal(gold_value, answer_value, oracle)
    if len(golds) != len(answers):
        return False
    return all(any(_pair(g, a, oracle) for a in answers) for g in golds)


def _halves(shape: Shape) -> list[tuple[str, Shape, Shape]]:
    """The relations of a chain as (operator, left, right): `1<x` and `x<2` of `1<x<2`."""
    return list(zip(shape.marks, shape.items, shape.items[1:], strict=False))


def _pair(gold: tuple[str, Shape, Shape], answer: tuple[str, Shape, Shape], oracle: Oracle) -> bool:
    """Whether two relations (operator, left, right) are equal: with sides as they are or exchanged, or as multiples."""
    mark, left, right = gold
    if regions.FLIP.get(answer[0]) != mark and answer[0] != mark:
        return False
    other = answer[1:] if answer[0] == mark else (answer[2], answer[1])
    if mark in ("=", r"\neq") and equal(left, other[1], oracle) and equal(right, other[0], oracle):
        return True
    if mark == "=" and {_is_function(left), _is_function(other[0])} == {True, False} and "y" in (left.text, other[0].text):
        return equal(right, other[1], oracle)  # `f(x) = 2x` and `y = 2x`
    if equal(left, other[0], oracle) and equal(right, other[1], oracle):
        return True
    sides = (left, right, *other)
    if any(side.kind != "expr" for side in sides):
        return False
    return oracle.multiple((left.text, right.text), (other[0].text, other[1].text), mark not in ("=", r"\neq"))


def _relation_and_other(gold: Shape, answer: Shape, oracle: Oracle) -> bool:
    """Whether a relation equals a shape that is none: `x>3` and `(3,oo)`, `10^3 = 1000` and `1000`."""
    relation, other = (gold, answer) if gold.kind == "relation" else (answer, gold)
    if other.kind == "tuple":
        interval = regions.interval(relation)
        return interval is not None and equal(interval, other, oracle)
    if set(relation.marks) != {"="} or other.kind not in ("expr", "text", "list"):
        return False
    if relation.unit.startswith("mod "):  # `2^{10} = 4 (mod 10)` equals 4
        return equal(relation.items[-1], other, oracle)
    # `10^3 = 1000` equals 1000. Compare every side: comparing only the last one would accept the false `10^2 = 1000`.
    sides = [side for side in relation.items if not is_name(side.text)]
    return bool(sides) and all(equal(side, other, oracle) for side in sides)


def _is_function(shape: Shape) -> bool:
    """Whether a shape is a function of one letter, such as `f(x)`."""
    return len(shape.text) == 4 and shape.text[1::2] == "()"
