"""Reads the shape of an answer: expression, text, list, set, tuple or interval, union, matrix, relation.

`read` splits a canonical string into nested shapes by string rules alone. `equality.py` compares shapes and asks an oracle to
compare the expressions in them: `equality.Quick` compares plain numbers and raises Undecided for the rest, `symbolic.Symbolic`
uses sympy in a killable worker.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable

from pubswap_jax.verifier.division import balanced, divide
from pubswap_jax.verifier.expansion import bounds_of, matrix_body, pieces_without, plus_minus
from pubswap_jax.verifier.labels import is_name, point
from pubswap_jax.verifier.numerals import readings
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.prose import is_prose
from pubswap_jax.verifier.shape import Shape, Unreadable
from pubswap_jax.verifier.units import split_unit

MAX_ITEMS = 64

_SEMICOLON, _COMMA_OR_SEMICOLON, _CUP = re.compile(";"), re.compile("[,;]"), re.compile(r"\\cup(?![A-Za-z])")
_WITHOUT = re.compile(r"\\(?:setminus|backslash)(?![A-Za-z])")
_BUILDER, _IN = re.compile(r"\||(?<!\\):"), re.compile(r"\\in(?![A-Za-z])")
_WRAPPED, _MODULUS_OF_A_LETTER = re.compile(r"\\text\{([^{}]*)\}"), re.compile(r"\|[a-zA-Z]\|")
_MODULUS = Pattern(r"\\pmod\{([0-9A-Za-z]+)\}", matches=[r"3 \pmod{7}", r"\pmod{m}"], not_=[r"\bmod{7}", r"\pmod{n+1}"])
_REMAINDER = Pattern(r"\\bmod\{([0-9]+)\}", matches=[r"17 \bmod{12}"], not_=[r"\bmod{n}", r"\pmod{7}"])
_ITEM_SEPARATOR = Pattern(
    r",|\\text\{[\s,]*(?:and|or)[\s,]*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:land|lor|wedge|vee)(?![A-Za-z])",
    matches=["1,2", "1 and 2", r"1\text{ or }2", r"a \lor b"],
    not_=["sand", r"\text{andy}", "1;2", r"\order"],
)
_ARROW = Pattern(
    r"\\(?:Rightarrow|implies|Longrightarrow|therefore)(?![A-Za-z])|=>",
    matches=[r"x \Rightarrow y", "x => y", r"\therefore x"],
    not_=[r"x \rightarrow y", "x >= y", r"\impliesx"],
)
_INTEGER_CONDITION = Pattern(
    r"(?<=[^\s(,;])\s*[,;(]\s*(?:\\text\{\s*(?:for|where|with)?\s*\}\s*)?[a-z]\s*\\in\s*(?:\\mathbb\s*\{?\s*Z\s*\}?|\(-\\infty,\\infty\))\s*\)?$",
    matches=[r"2\pi k, k \in \mathbb{Z}", r"2k (k\in \mathbb Z)", r"x;\text{ for }n\in(-\infty,\infty)"],
    not_=[r"k \in \mathbb{Z}", r"2k, k\in \mathbb{Q}", "2k, k > 0"],
)
_NO_SOLUTION = Pattern(
    r"\\emptyset|(?:there\s+(?:is|are)\s+)?no\s+solutions?(?:\s+exists?)?",
    re.IGNORECASE,
    matches=[r"\emptyset", "no solution", "There are no solutions", "no solutions exist"],
    not_=["no", "one solution", "no solution x"],
    by=re.Pattern.fullmatch,
)
_RELATION = Pattern(
    r"\\(?:le|ge|neq)(?![A-Za-z])|[<>=]|\\in(?![A-Za-z])|\\approx(?![A-Za-z])",
    matches=["x=1", r"x \le 2", r"x\in S", r"\pi\approx 3", "x<1"],
    not_=[r"\left(", r"x \inf", "x+1"],
)
_INEQUALITY = Pattern(r"\\(?:le|ge)(?![A-Za-z])|[<>]", matches=["x<1", r"\le 2", r"x \ge 3"], not_=[r"\left", "x=1"])
_AROUND_MATRIX = Pattern(
    r"(?:[(\[{]|\\\{)\s*([(\[{\s]*\\begin.*\\end\{[A-Za-z]+\}[)\]}\s]*)(?:[)\]}]|\\\})",
    re.DOTALL,
    matches=[r"[\begin{matrix}1\end{matrix}]", r"\{ (\begin{a}1\end{a}) \}"],
    not_=[r"\begin{a}1\end{a}", "[1]"],
    by=re.Pattern.fullmatch,
)
_MATRIX = Pattern(
    r"\\begin\{([pbBv]?matrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\1\}",
    re.DOTALL,
    matches=[r"\begin{pmatrix}1\end{pmatrix}", r"\begin{array}{cc|c}1&2\end{array}"],
    not_=[r"\begin{pmatrix}1\end{bmatrix}", r"2\begin{pmatrix}1\end{pmatrix}"],
    by=re.Pattern.fullmatch,
)


def read(text: str) -> Shape:
    """Reads a canonical string into its shape: expression, text, list, set, tuple, union, matrix or relation."""
    text = _ARROW.split(text)[-1].strip()
    text = _INTEGER_CONDITION.sub("", text) or text
    if r"\pmod" in text and (modulus := _MODULUS.search(text)):
        return dataclasses.replace(read(_MODULUS.sub("", text).strip() or "?"), unit=f"mod {modulus[1]}")
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
    if _NO_SOLUTION.fullmatch(text):
        return Shape("set", r"\emptyset")
    groups = [group for group in divide(text, _SEMICOLON)[0] if group]
    if len(groups) > 1:
        rows = (read(group) for group in groups)
        return Shape("list", text, _flat(_as_tuple(row) if row.kind == "list" else row for row in rows))
    parts = [part for part in divide(text, _ITEM_SEPARATOR)[0] if part]
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    if len(parts) > 1:
        return Shape("list", text, _systems(_flat(map(_single, parts))))
    return _single(parts[0] if parts else text)


def _systems(items: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Groups assignments whose names repeat in the same order: `p=5, q=2, p=7, q=2` is two pairs."""
    if any(item.kind != "relation" or item.marks != ("=",) or not is_name(item.items[0].text) for item in items):
        return items
    names = [item.items[0].text for item in items]
    size = len(set(names))
    if not 1 < size < len(names) or names != names[:size] * (len(names) // size):
        return items
    rows = [items[i : i + size] for i in range(0, len(items), size)]
    return tuple(Shape("tuple", ",".join(item.text for item in row), row, "()") for row in rows)


def _flat(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Flattens lists one level: the shapes, with the items of a list in place of the list."""
    return tuple(itertools.chain.from_iterable(shape.items if shape.kind == "list" else (shape,) for shape in shapes))


def _as_tuple(shape: Shape) -> Shape:
    """Turns a list into a tuple in round brackets; used where an order counts, as in a point."""
    return dataclasses.replace(shape, kind="tuple", marks="()")


def _single(text: str) -> Shape:
    """The shape of a text that is not a list of several items."""
    text = text.strip()
    matrix = _MATRIX.fullmatch(_unwrapped_matrix(text)) if r"\begin" in text else None
    if matrix and matrix[1] != "vmatrix" and r"\begin" not in matrix[2]:
        return _matrix(text, matrix[2])
    unions, cups = divide(text, _CUP) if r"\cup" in text else ([text], [])
    if cups and all(divide(part, _INEQUALITY)[1] for part in unions):  # `|z| < 1 \cup |z| > 2`
        return Shape("list", text, tuple(_single(part) for part in unions))
    parts, operators = divide(text, _RELATION)
    if operators:
        return _relation(text, parts, operators)
    parts, operators = unions, cups
    if operators:
        return _union(text, tuple(_single(part) for part in parts))
    if r"\setminus" in text or r"\backslash" in text:
        parts = divide(text, _WITHOUT)[0]
        if len(parts) == 2 and all(parts) and (pieces := pieces_without(*map(_single, parts))):
            return Shape("union", text, tuple(map(_single, pieces)))
    if r"\pm" in text or r"\mp" in text:
        return Shape("list", text, tuple(map(_single, plus_minus(text))))
    if bracketed := _bracketed(point(text)):
        return bracketed
    if text.endswith("'") and readings(text.rstrip("'")):  # `5'` is not the number 5
        return Shape("text", text)
    core, unit = split_unit(text)
    if unit:
        return dataclasses.replace(_single(core), unit=unit)
    return Shape("text" if is_prose(text) else "expr", text)


def _union(text: str, parts: tuple[Shape, ...]) -> Shape:
    """The shape of parts joined by a union sign: one set if all parts are sets, else a union."""
    if all(part.kind == "set" for part in parts):
        return Shape("set", text, tuple(item for part in parts for item in part.items))
    return Shape("union", text, parts)


def _unwrapped_matrix(text: str) -> str:
    """Removes redundant brackets around `array` or `matrix`."""
    while match := _AROUND_MATRIX.fullmatch(text):
        text = match[1].strip()
    return text


def _matrix(text: str, body: str) -> Shape:
    """A matrix from its body, in which the character 1 ends rows and & separates cells."""
    rows = [row for row in body.split("\x01") if row.strip()]
    cells = [row.split("&") for row in rows]
    items = tuple(_single(cell) for row in cells for cell in row)
    return Shape("matrix", text, items, tuple(str(len(row)) for row in cells))


def _relation(text: str, parts: list[str], operators: list[str]) -> Shape:
    """The shape of `parts` with `operators` between them: `x=5`, `1<x\\le 2`, `x \\in [0,1]`, `17 \\bmod{7} = 3`."""
    if r"\approx" in operators:
        cut = operators.index(r"\approx")
        if cut == 0 and not parts[0] and len(parts) == 2:
            return _single(parts[1])
        head = parts[: cut + 1]
        parts, operators = (parts[cut : cut + 2], ["="]) if cut == 0 and is_name(parts[0]) else (head, operators[:cut])
    if not operators:
        return _single(parts[0])
    if operators[0] == "=" and not parts[0]:
        return _single(text.lstrip(" ="))
    if any(not part for part in parts):
        return Shape("text", text)
    if set(operators) == {"="} and (remainder := _REMAINDER.search(parts[-2])) and not _REMAINDER.search(parts[-1]):
        return dataclasses.replace(_single(parts[-1]), unit=f"mod {remainder[1]}")  # `17 mod 7 = 3`
    if r"\in" in operators:
        return _membership(text, *parts) if len(parts) == 2 else Shape("text", text)
    sides = [read(part) for part in parts]
    if operators == ["="] and sides[0].kind == sides[1].kind == "tuple" and len(sides[0].items) == len(sides[1].items):
        pairs = zip(sides[0].items, sides[1].items, strict=True)
        return Shape("tuple", text, tuple(Shape("relation", f"{a.text}={b.text}", (a, b), ("=",)) for a, b in pairs), "()")
    return Shape("relation", text, tuple(sides), tuple(operators))


def _membership(text: str, element: str, values: str) -> Shape:
    """The shape of `element \\in values`: `x \\in [0,1]` is the interval, `|z| \\in [0,1)` is the inequality |z| < 1."""
    if _MODULUS_OF_A_LETTER.fullmatch(element):
        found = tuple(map(_single, bounds_of(element, _single(values))))
        return Shape("list", text, found) if len(found) > 1 else found[0] if found else Shape("text", text)
    return _single(values) if is_name(element) or set(element) <= set("(), xyz") else Shape("text", text)


def _bracketed(text: str) -> Shape | None:
    """The shape of a text in one pair of brackets: set, tuple or interval, or the group's content. None without brackets."""
    for opener, closer in ((r"\{", r"\}"), ("{", "}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if not (text.startswith(opener) and text.endswith(closer) and len(text) >= len(opener) + len(closer)):
            continue
        inside = text[len(opener) : -len(closer)].strip()
        if not balanced(inside):
            continue
        if opener in (r"\{", "{"):
            return _braced(text, inside, is_set=opener == r"\{")
        if opener + closer == "[]" and (rows := matrix_body(inside)):
            return _matrix(text, rows)
        parts = divide(inside, _COMMA_OR_SEMICOLON)[0]
        if len(parts) > MAX_ITEMS:
            raise Unreadable("too many items")
        if len(parts) > 1:
            return Shape("tuple", text, tuple(_single(part) for part in parts), opener + closer)
        if opener == "(" and closer == ")" and inside:
            return read(inside)
    return None


def _braced(text: str, inside: str, is_set: bool) -> Shape | None:
    """The shape of `{inside}`, or of the set `\\{inside\\}`. `\\{x | x > 3\\}` is `x > 3`."""
    if is_set and not inside:
        return Shape("set", text)
    parts = divide(inside, _BUILDER)[0]
    if is_set and len(parts) == 2 and is_name(_IN.split(parts[0])[0]):
        return read(parts[1])
    inner = read(inside) if inside else Shape("text", "")
    if not is_set:
        return inner
    return Shape("set", text, inner.items if inner.kind == "list" else (inner,))
