r"""Writes short notations out: `1\pm2`, `|z| \in [0,1)`, `\mathbb{R} \setminus \{0\}`, `[[1,2],[3,4]]`.

Each function returns texts, which `structure.py` reads as shapes.
"""

import itertools
import re

from pubswap_jax.verifier.division import divide
from pubswap_jax.verifier.numerals import readings
from pubswap_jax.verifier.shape import Shape, Unreadable

_COMMA, _SEMICOLON = re.compile(","), re.compile(";")
_PLUS_MINUS, _MINUS_PLUS = re.compile(r"\\pm(?![A-Za-z])"), re.compile(r"\\mp(?![A-Za-z])")
REALS = r"(-\infty,\infty)"


def plus_minus(text: str) -> list[str]:
    r"""`1\pm\sqrt{2}` as `1+\sqrt{2}` and `1-\sqrt{2}`: one text per choice of signs. `\mp` opposes the first `\pm`."""
    if text.count(r"\pm") > 3:
        raise Unreadable("too many plus-minus signs")
    pieces = _PLUS_MINUS.split(text)
    if len(pieces) == 1:
        raise Unreadable("a minus-plus sign alone")
    values = []
    for signs in itertools.product("+-", repeat=len(pieces) - 1):
        value = pieces[0] + "".join(sign + piece for sign, piece in zip(signs, pieces[1:], strict=True))
        values.append(_MINUS_PLUS.sub("-" if signs[0] == "+" else "+", value).strip().removeprefix("+").strip())
    return values


def pieces_without(whole: Shape, points: Shape) -> list[str]:
    r"""Writes all reals without some points, or without one interval, as intervals: without 0 as `(-\infty,0)`, `(0,\infty)`.

    Empty if `whole` is another set than all reals.
    """
    if whole.text != REALS:
        return []
    if points.kind == "tuple" and len(points.items) == 2:
        low, high, mark = points.items[0].text, points.items[1].text, points.marks
        return [rf"(-\infty,{low}{')]'[mark[0] == '(']}", rf"{'(['[mark[1] == ')']}{high},\infty)"]
    values = {item.text: found[0][0] for item in points.items if (found := readings(item.text))}
    if points.kind != "set" or not points.items or len(values) != len(points.items):
        return []
    ends = [r"-\infty", *sorted(values, key=values.get), r"\infty"]
    return [f"({low},{high})" for low, high in zip(ends, ends[1:], strict=False)]


def bounds_of(modulus: str, values: Shape) -> list[str]:
    r"""`|z|` in `[0,1) \cup (2,\infty)` as the inequalities `|z|<1` and `2<|z|`. Empty if the values are not intervals."""
    found = []
    for piece in values.items if values.kind == "union" else (values,):
        if piece.kind != "tuple" or len(piece.items) != 2:
            return []
        (low, high), (left, right) = piece.items, piece.marks
        unbounded = low.text == r"-\infty" or (low.text == "0" and left == "[")  # `|z| >= 0` holds for all z
        below = "" if unbounded else low.text + ("<" if left == "(" else r"\le ")
        above = "" if high.text == r"\infty" else ("<" if right == ")" else r"\le ") + high.text
        found.append(below + modulus + above)
    return found


def matrix_body(inside: str) -> str:
    """The inside of `[[1, 2], [3, 4]]` or `[1, 2; 3, 4]` as the body of a LaTeX matrix; empty for any other text."""
    rows = divide(inside, _SEMICOLON)[0]
    if len(rows) == 1:
        rows = divide(inside, _COMMA)[0]
        if not all(row.startswith("[") and row.endswith("]") for row in rows):
            return ""
        rows = [row[1:-1] for row in rows]
    cells = [divide(row, _COMMA)[0] for row in rows]
    if len(rows) < 2 or len({len(row) for row in cells}) > 1 or len(cells[0]) < 2 or not all(map(all, cells)):
        return ""
    return "\x01".join("&".join(row) for row in cells)
