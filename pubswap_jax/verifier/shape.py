"""`Shape`, an answer read as a value: what `structure.read` returns and `equality.equal` compares."""

import dataclasses


class Undecided(Exception):
    """Raised by the fast oracle when string rules cannot decide, so that the symbolic one must be asked."""


class Unreadable(Exception):
    """Raised when an answer is not a readable expression."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """An answer or a part of one. `kind` is expr, text, list, set, tuple, union, matrix or relation."""

    kind: str
    text: str  # canonical string of the whole shape
    items: tuple["Shape", ...] = ()
    marks: str | tuple[str, ...] = ""  # brackets of a tuple, operators of a relation, row lengths of a matrix
    unit: str = ""  # as in `units.split_unit`, or `mod 7`


def expressions(shape: Shape) -> list[str]:
    """All mathematical expressions inside a shape, as canonical strings."""
    if shape.kind == "expr":
        return [shape.text]
    return [text for item in shape.items for text in expressions(item)]
