"""The shape of an answer: expression, text, list, set, tuple or interval, union, matrix, relation.

`read` splits a canonical string into nested shapes by string rules alone. `equality.py` compares shapes and asks an oracle to
compare the expressions in them: `equality.Quick` compares plain numbers and raises Undecided for the rest, `symbolic.Symbolic`
uses sympy in a killable worker.
"""

import dataclasses
import itertools
import re

from pubswap_jax.verifier.labels import is_name, point
from pubswap_jax.verifier.numerals import readings
from pubswap_jax.verifier.prose import is_prose
from pubswap_jax.verifier.units import split_unit

MAX_ITEMS = 64

_PLAIN_COMMA = re.compile(",")
_SEMICOLON, _INNER, _EQUALS, _CUP = re.compile(";"), re.compile("[,;]"), re.compile("="), re.compile(r"\\cup(?![A-Za-z])")
_WITHOUT = re.compile(r"\\(?:setminus|backslash)(?![A-Za-z])")
_COMMA = re.compile(
    r",|\\text\{[\s,]*(?:and|or)[\s,]*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:land|lor|wedge|vee)(?![A-Za-z])"
)
_OPEN, _CLOSE, _OPEN_ESCAPED, _CLOSE_ESCAPED = tuple("([{"), tuple(")]}"), ("{",), ("}",)
_ARROW = re.compile(r"\\(?:Rightarrow|implies|Longrightarrow|therefore)(?![A-Za-z])|=>")
_INTEGER = re.compile(
    r"(?<=[^\s(,;])\s*[,;(]\s*(?:\\text\{\s*(?:for|where|with)?\s*\}\s*)?[a-z]\s*\\in\s*(?:\\mathbb\s*\{?\s*Z\s*\}?|\(-\\infty,\\infty\))\s*\)?$"
)
_WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
_MODULUS, _REMAINDER = re.compile(r"\\pmod\{([0-9A-Za-z]+)\}"), re.compile(r"\\bmod\{([0-9]+)\}")
_NO_SOLUTION = re.compile(r"\\emptyset|(?:there\s+(?:is|are)\s+)?no\s+solutions?(?:\s+exists?)?", re.IGNORECASE)
_BUILDER = re.compile(r"\||(?<!\\):")
_RELATION = re.compile(r"\\(?:le|ge|neq)(?![A-Za-z])|[<>=]|\\in(?![A-Za-z])|\\approx(?![A-Za-z])")
_AROUND_MATRIX = re.compile(r"(?:[(\[{]|\\\{)\s*([(\[{\s]*\\begin.*\\end\{[A-Za-z]+\}[)\]}\s]*)(?:[)\]}]|\\\})", re.DOTALL)
_INEQUALITY = re.compile(r"\\(?:le|ge)(?![A-Za-z])|[<>]")
_MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)


class Undecided(Exception):
    """The fast oracle cannot decide; the symbolic one must be asked."""


class Unreadable(Exception):
    """The answer is not a readable expression."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """kind: expr, text, list, set, tuple, union, matrix, relation. `text` is the canonical string of the whole."""

    kind: str
    text: str
    items: tuple["Shape", ...] = ()
    marks: str | tuple[str, ...] = ""  # brackets of a tuple, operators of a relation, row lengths of a matrix
    unit: str = ""


def divide(text: str, pattern: re.Pattern) -> tuple[list[str], list[str]]:
    """Splits at the matches outside all brackets: (parts, separators)."""
    depths, depth, i = [], 0, 0
    while i < len(text):
        escaped = text[i] == "\\"
        char = text[i + 1 : i + 2] if escaped else text[i]
        depths += [depth] * (1 + escaped)
        depth += (char in _OPEN_ESCAPED) - (char in _CLOSE_ESCAPED) if escaped else (char in _OPEN) - (char in _CLOSE)
        i += 1 + escaped
    parts, separators, start = [], [], 0
    for match in pattern.finditer(text):
        if depths[match.start()] <= 0:
            parts.append(text[start : match.start()].strip())
            separators.append(match[0].strip())
            start = match.end()
    return [*parts, text[start:].strip()], separators


def read(text: str) -> Shape:
    """The shape of a canonical string."""
    text = _ARROW.split(text)[-1].strip()
    text = _INTEGER.sub("", text) or text
    if r"\pmod" in text and (modulus := _MODULUS.search(text)):
        return dataclasses.replace(read(_MODULUS.sub("", text).strip() or "?"), unit=f"mod {modulus[1]}")
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
    if _NO_SOLUTION.fullmatch(text):
        return Shape("set", r"\emptyset")
    groups = [group for group in divide(text, _SEMICOLON)[0] if group]
    if len(groups) > 1:
        shapes = [read(group) for group in groups]
        return Shape(
            "list",
            text,
            _flat(tuple(dataclasses.replace(s, kind="tuple", marks="()") if s.kind == "list" else s for s in shapes)),
        )
    parts = [part for part in divide(text, _COMMA)[0] if part]
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    if len(parts) > 1:
        return Shape("list", text, _systems(_flat(tuple(_single(part) for part in parts))))
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


def _flat(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    return tuple(itertools.chain.from_iterable(s.items if s.kind == "list" else (s,) for s in shapes))


def _single(text: str) -> Shape:
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
    parts, operators = divide(text, _WITHOUT)
    if len(parts) == 2 and all(parts) and (holes := _without(text, *map(_single, parts))):
        return holes
    if r"\pm" in text or r"\mp" in text:
        return _plus_minus(text)
    if bracketed := _bracketed(point(text)):
        return bracketed
    if text.endswith("'") and readings(text.rstrip("'")):  # `5'` is not the number 5
        return Shape("text", text)
    core, unit = split_unit(text)
    if unit:
        inner = _single(core)
        return dataclasses.replace(inner, unit=unit)
    return Shape("text" if is_prose(text) else "expr", text)


def _union(text: str, parts: tuple[Shape, ...]) -> Shape:
    if all(part.kind == "set" for part in parts):
        return Shape("set", text, tuple(item for part in parts for item in part.items))
    return Shape("union", text, parts)


def _without(text: str, whole: Shape, points: Shape) -> Shape | None:
    """All reals without points or one interval, as a union of intervals: `(-oo,oo) \\setminus \\{0\\}`. None for other sets."""
    if points.kind == "tuple" and len(points.items) == 2 and whole.text == r"(-\infty,\infty)":
        low, high, mark = points.items[0].text, points.items[1].text, points.marks
        return Shape(
            "union",
            text,
            (_single(rf"(-\infty,{low}{')]'[mark[0] == '(']}"), _single(rf"{'(['[mark[1] == ')']}{high},\infty)")),
        )
    values = {item.text: found[0][0] for item in points.items if (found := readings(item.text))}
    if points.kind != "set" or whole.text != r"(-\infty,\infty)" or not points.items or len(values) != len(points.items):
        return None
    ends = [r"-\infty", *sorted(values, key=values.get), r"\infty"]
    pieces = zip(ends, ends[1:], strict=False)
    return Shape("union", text, tuple(_single(f"({low},{high})") for low, high in pieces))


def _unwrapped_matrix(text: str) -> str:
    """Removes redundant brackets around `array` or `matrix`."""
    while match := _AROUND_MATRIX.fullmatch(text):
        text = match[1].strip()
    return text


def _matrix(text: str, body: str) -> Shape:
    rows = [row for row in body.split("\x01") if row.strip()]
    cells = [row.split("&") for row in rows]
    items = tuple(_single(cell) for row in cells for cell in row)
    return Shape("matrix", text, items, tuple(str(len(row)) for row in cells))


def _relation(text: str, parts: list[str], operators: list[str]) -> Shape:
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
    if operators == [r"\in"] and re.fullmatch(r"\|[a-zA-Z]\|", parts[0]):
        return _modulus_in(text, parts[0], _single(parts[1]))
    if operators == [r"\in"]:
        return _single(parts[1]) if is_name(parts[0]) or set(parts[0]) <= set("(), xyz") else Shape("text", text)
    if operators[0] == r"\in" or r"\in" in operators:
        return Shape("text", text)
    sides = [read(part) for part in parts]
    if operators == ["="] and sides[0].kind == sides[1].kind == "tuple" and len(sides[0].items) == len(sides[1].items):
        pairs = zip(sides[0].items, sides[1].items, strict=True)
        return Shape("tuple", text, tuple(Shape("relation", f"{a.text}={b.text}", (a, b), ("=",)) for a, b in pairs), "()")
    return Shape("relation", text, tuple(sides), tuple(operators))


def _modulus_in(text: str, modulus: str, values: Shape) -> Shape:
    """`|z| \\in [0,1) \\cup (2,\\infty)` as the inequalities |z| < 1 and |z| > 2."""
    found = []
    for piece in values.items if values.kind == "union" else (values,):
        if piece.kind != "tuple" or len(piece.items) != 2:
            return Shape("text", text)
        (low, high), (left, right) = piece.items, piece.marks
        below = (
            []
            if low.text in ("0", r"-\infty") and (left == "[" or low.text != "0")
            else [low.text, "<" if left == "(" else r"\le "]
        )
        above = [] if high.text == r"\infty" else ["<" if right == ")" else r"\le ", high.text]
        found.append(_single("".join([*below, modulus, *above])))
    return found[0] if len(found) == 1 else Shape("list", text, tuple(found))


def _plus_minus(text: str) -> Shape:
    if text.count(r"\pm") > 3:
        raise Unreadable("too many plus-minus signs")
    pieces = re.split(r"\\pm(?![A-Za-z])", text)
    if len(pieces) == 1:
        raise Unreadable("a minus-plus sign alone")
    values = []
    for signs in itertools.product("+-", repeat=len(pieces) - 1):
        value = pieces[0] + "".join(sign + piece for sign, piece in zip(signs, pieces[1:], strict=True))
        value = re.sub(r"\\mp(?![A-Za-z])", "-" if signs[0] == "+" else "+", value)
        values.append(_single(value.strip().removeprefix("+")))
    return Shape("list", text, tuple(values))


def _bracketed(text: str) -> Shape | None:
    """The shape of a text in one pair of brackets: set, tuple or interval, or the group's content. None without brackets."""
    for opener, closer in ((r"\{", r"\}"), ("{", "}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if not (text.startswith(opener) and text.endswith(closer) and len(text) >= len(opener) + len(closer)):
            continue
        inside = text[len(opener) : -len(closer)].strip()
        if not _balanced(inside):
            continue
        if opener in (r"\{", "{"):
            if not inside and opener == r"\{":
                return Shape("set", text)
            parts, _ = divide(inside, _BUILDER)
            if opener == r"\{" and len(parts) == 2 and is_name(re.split(r"\\in(?![A-Za-z])", parts[0])[0]):
                return read(parts[1])  # `{x | x > 3}` is `x > 3`
            inner = read(inside) if inside else Shape("text", "")
            return Shape("set", text, inner.items if inner.kind == "list" else (inner,)) if opener == r"\{" else inner
        if opener + closer == "[]" and (rows := _rows_of_brackets(inside)):
            return _matrix(text, rows)
        parts = divide(inside, _INNER)[0]
        if len(parts) > MAX_ITEMS:
            raise Unreadable("too many items")
        if len(parts) > 1:
            return Shape("tuple", text, tuple(_single(part) for part in parts), opener + closer)
        if opener == "(" and closer == ")" and inside:
            return read(inside)
    return None


def _rows_of_brackets(inside: str) -> str:
    """The inside of `[[1, 2], [3, 4]]` or `[1, 2; 3, 4]` as the body of a LaTeX matrix; empty for any other text."""
    rows = divide(inside, _SEMICOLON)[0]
    if len(rows) == 1:
        rows = divide(inside, _PLAIN_COMMA)[0]
        if not all(row.startswith("[") and row.endswith("]") for row in rows):
            return ""
        rows = [row[1:-1] for row in rows]
    cells = [divide(row, _PLAIN_COMMA)[0] for row in rows]
    if len(rows) < 2 or len({len(row) for row in cells}) > 1 or len(cells[0]) < 2 or not all(map(all, cells)):
        return ""
    return "\x01".join("&".join(row) for row in cells)


def _balanced(inside: str) -> bool:
    depth, i = 0, 0
    while i < len(inside):
        char = inside[i]
        if char == "\\":
            escaped = inside[i + 1 : i + 2]
            depth += (escaped == "{") - (escaped == "}")
            i += 2
        else:
            depth += (char in "([{") - (char in ")]}")
            i += 1
        if depth < 0:
            return False
    return depth == 0


def result(text: str) -> str:
    """The text after the last equals sign: `1` of `\\lim_{x \\to 0} \\frac{\\sin x}{x} = 1`."""
    return divide(text, _EQUALS)[0][-1]


def expressions(shape: Shape) -> list[str]:
    """The canonical strings of all expressions in a shape."""
    if shape.kind == "expr":
        return [shape.text]
    return [text for item in shape.items for text in expressions(item)]
