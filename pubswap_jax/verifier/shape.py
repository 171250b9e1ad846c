"""The shape of an answer as a value: what `structure.read` returns and `equality.equal` compares."""

import dataclasses


class Undecided(Exception):
    """The fast oracle cannot decide; the symbolic one must be asked."""


class Unreadable(Exception):
    """The answer is not a readable expression."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """An answer or a part of one. `kind` is expr, text, list, set, tuple, union, matrix or relation."""

    kind: str
    text: str  # canonical string of the whole shape
    items: tuple["Shape", ...] = ()
    marks: str | tuple[str, ...] = ""  # brackets of a tuple, operators of a relation, row lengths of a matrix
    unit: str = ""  # as in `units.split_unit`, or `mod 7`


def expressions(shape: Shape) -> list[str]:
    """The canonical strings of all expressions in a shape."""
    if shape.kind == "expr":
        return [shape.text]
    return [text for item in shape.items for text in expressions(item)]
