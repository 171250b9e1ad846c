"""The shape of an answer (number, list, tuple or interval, set, union, matrix, relation, text), and when two shapes are equal.

Equality of what a shape is made of, its expressions, is asked of an oracle that is passed in: `fast.Quick` answers from
strings and fractions and raises Undecided for the rest, `symbolic.Symbolic` answers by sympy inside a killable worker.
"""

import dataclasses
import itertools
import re

from pubswap_jax.units import split_unit

MAX_ITEMS = 64

_SEMICOLON, _INNER, _EQUALS, _CUP = re.compile(";"), re.compile("[,;]"), re.compile("="), re.compile(r"\\cup(?![A-Za-z])")
_COMMA = re.compile(
    r",|\\text\{[\s,]*(?:and|or)[\s,]*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:land|lor|wedge|vee)(?![A-Za-z])"
)
_OPEN, _CLOSE, _OPEN_ESCAPED, _CLOSE_ESCAPED = tuple("([{"), tuple(")]}"), ("{",), ("}",)
_ARROW = re.compile(r"\\(?:Rightarrow|implies|Longrightarrow|therefore)(?![A-Za-z])|=>")
_WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
_BUILDER = re.compile(r"\||(?<!\\):")
_RELATION = re.compile(r"\\(?:le|ge|neq)(?![A-Za-z])|[<>=]|\\in(?![A-Za-z])|\\approx(?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\{([pbBv]?matrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_LETTER = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|Delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|ell"
    r"|angle|triangle|overline|vec|hat|mathbf|mathbb))"
)
_NAME = re.compile(
    rf"(?:\\text\{{[^{{}}0-9]*\}}|{_LETTER}|_(?:[A-Za-z0-9]|\{{[A-Za-z0-9, ]*\}})|[/:'{{}} ]|\\frac"
    r"|\([A-Za-z0-9, ]*\)|\^\{?(?:\\prime|-1)\}?)+"
)
_WORD = re.compile(r"[A-Za-z]{2,}")
_FIGURES = re.compile(r"[0-9+^=\\]")
_SMALL_WORDS = frozenset(
    (
        "is",
        "of",
        "to",
        "no",
        "it",
        "we",
        "if",
        "so",
        "as",
        "at",
        "by",
        "on",
        "be",
        "in",
        "not",
        "and",
        "the",
        "all",
        "any",
        "are",
    )
)
_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]*\}|\\[A-Za-z]+")


class Undecided(Exception):
    """The oracle cannot tell: somebody who knows more must be asked."""


class Unreadable(Exception):
    """The answer is no expression that can be read."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """kind: expr, text, list, set, tuple, union, matrix, relation. `text` is the canonical string of the whole."""

    kind: str
    text: str
    items: tuple["Shape", ...] = ()
    marks: str | tuple[str, ...] = ""  # brackets of a tuple, operators of a relation, row lengths of a matrix
    unit: str = ""


def divide(text: str, pattern: re.Pattern) -> tuple[list[str], list[str]]:
    """Splits at the matches that stand outside all brackets: (parts, separators)."""
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
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
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
    """`p=5, q=2, p=7, q=2` are two pairs: assignments whose names come round again."""
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
    matrix = _MATRIX.fullmatch(_unwrapped_matrix(text))
    if matrix and matrix[1] != "vmatrix" and r"\begin" not in matrix[2]:
        return _matrix(text, matrix[2])
    parts, operators = divide(text, _RELATION)
    if operators:
        return _relation(text, parts, operators)
    parts, operators = divide(text, _CUP)
    if operators:
        return Shape("union", text, tuple(_single(part) for part in parts))
    if r"\pm" in text or r"\mp" in text:
        return _plus_minus(text)
    if bracketed := _bracketed(text):
        return bracketed
    core, unit = split_unit(text)
    if unit:
        inner = _single(core)
        return dataclasses.replace(inner, unit=unit)
    return Shape("text" if _is_prose(text) else "expr", text)


def _unwrapped_matrix(text: str) -> str:
    """Without the brackets that some put around `array` or `matrix`."""
    if text[:1] in "([" and text[1:].lstrip().startswith(r"\begin") and text[-1:] in ")]":
        return text[1:-1].strip()
    return text


def _matrix(text: str, body: str) -> Shape:
    rows = [row for row in body.split("\x01") if row.strip()]
    cells = [row.split("&") for row in rows]
    items = tuple(_single(cell) for row in cells for cell in row)
    return Shape("matrix", text, items, tuple(str(len(row)) for row in cells))


def _relation(text: str, parts: list[str], operators: list[str]) -> Shape:
    if r"\approx" in operators:
        cut = operators.index(r"\approx")
        head = parts[: cut + 1]
        parts, operators = (parts[cut : cut + 2], ["="]) if cut == 0 and is_name(parts[0]) else (head, operators[:cut])
    if not operators:
        return _single(parts[0])
    if operators[0] == "=" and not parts[0]:
        return _single(text.lstrip(" ="))
    if any(not part for part in parts):
        return Shape("text", text)
    if operators == [r"\in"]:
        return _single(parts[1]) if is_name(parts[0]) or set(parts[0]) <= set("(), xyz") else Shape("text", text)
    if operators[0] == r"\in" or r"\in" in operators:
        return Shape("text", text)
    sides = [read(part) for part in parts]
    if operators == ["="] and sides[0].kind == sides[1].kind == "tuple" and len(sides[0].items) == len(sides[1].items):
        pairs = zip(sides[0].items, sides[1].items, strict=True)
        return Shape("tuple", text, tuple(Shape("relation", f"{a.text}={b.text}", (a, b), ("=",)) for a, b in pairs), "()")
    return Shape("relation", text, tuple(sides), tuple(operators))


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
    """A shape in one pair of brackets: set, tuple or interval, or just a group."""
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
                return read(parts[1])  # {x | x > 3} is x > 3
            inner = read(inside) if inside else Shape("text", "")
            return Shape("set", text, inner.items if inner.kind == "list" else (inner,)) if opener == r"\{" else inner
        parts = divide(inside, _INNER)[0]
        if len(parts) > MAX_ITEMS:
            raise Unreadable("too many items")
        if len(parts) > 1:
            return Shape("tuple", text, tuple(_single(part) for part in parts), opener + closer)
        if opener == "(" and closer == ")" and inside:
            return read(inside)
    return None


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
    """What stands behind the last equals sign: `1` of `\\lim_{x \\to 0} \\frac{\\sin x}{x} = 1`."""
    return divide(text, _EQUALS)[0][-1]


def is_name(text: str) -> bool:
    """What an answer may stand behind: `x`, `f(x)`, `\\text{Area}`, `V_1:V_2`."""
    return len(text) <= 80 and bool(_NAME.fullmatch(text)) and bool(re.search(r"[A-Za-z]", text))


def _is_prose(text: str) -> bool:
    r"""Words rather than mathematics: a \text left over, or a word that is no command and no product of letters."""
    if r"\text" in text:
        return True
    words = _WORD.findall(_COMMAND.sub(" ", text))
    letters = 3 if _FIGURES.search(text) else 2  # abc+1 is a product, abc alone a word
    return any(len(word) > letters or word.lower() in _SMALL_WORDS for word in words)


def plain(text: str) -> str:
    """Text for comparison: no fonts, spaces, stops or case (a single letter keeps its case)."""
    text = re.sub(r"^\s*(?:an?|the)\s", "", _WRAPPED.sub(r"\1", text), flags=re.IGNORECASE)
    text = re.sub(r"[\s.,;:!?\"'`*{}$\\]|^\(|\)$", "", text)
    return text if len(text) == 1 else text.lower()


def expressions(shape: Shape) -> list[str]:
    """The canonical strings of all expressions that a shape is made of."""
    if shape.kind == "expr":
        return [shape.text]
    return [text for item in shape.items for text in expressions(item)]
