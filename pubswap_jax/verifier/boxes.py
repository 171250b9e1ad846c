r"""Finds the content of `\boxed{...}` in a completion, where a model puts its final answer."""

import re

from pubswap_jax.verifier.braces import closing
from pubswap_jax.verifier.characters import folded
from pubswap_jax.verifier.pattern import Pattern

TAIL = 16384  # characters at the end of a completion that are searched for adjacent boxes
MAX_BOXES = 64  # boxes tried, starting with the last one
MAX_CONTENT = 8192  # characters of a box's content

_BOX = Pattern(
    r"\\f?boxed\s*(?=\{)|\\fbox\s*(?=\{)",
    matches=[r"\boxed{1}", r"\fbox {1}", r"\fboxed{1}"],
    not_=[r"\boxed 1", "boxed{1}"],
    by=re.Pattern.match,
)
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$\\]+)")
# Text between two boxes of one answer: a separator, formula delimiters and a variable name, as in `$ and $x_2 =`.
_BETWEEN_BOXES = Pattern(
    r"(?=[\s\S]{0,60}(?:[,;&]|\b(?:and|or)\b))"
    r"(?:[\s$*,;&]|\\[()\[\],; ]|\\q?quad|\\text\s*\{[\s,]*(?:and|or)[\s,]*\}|\b(?:and|or)\b"
    r"|\b[A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?\s*=(?!=)){1,60}",
    matches=["$ and $", ", ", r"\) or \(", r" \text{ and } ", "$, $x_2 = ", ";"],
    not_=["", " ", ". And ", " and not ", " is wrong, ", " == and ", "and so "],
    by=re.Pattern.fullmatch,
)
PERCENT = Pattern(
    r"\s*(?:\\?%|per\s?cent(?:age)?\b|pct\b)",
    matches=["%", r" \%", " percent", "per centage", " pct"],
    not_=["percents", "5%", " x%"],
    by=re.Pattern.match,
)


def last_box(text: str) -> str | None:
    """The content of the last balanced box, the innermost one if boxes are nested; None if there is none."""
    starts = []
    position = len(text)
    while len(starts) < MAX_BOXES:
        position = max(text.rfind(r"\boxed", 0, position), text.rfind(r"\fbox", 0, position))
        if position < 0:
            break
        starts.append(position)
    for start in starts:
        match = _BOX.match(text, start)
        if match and (end := closing(text, match.end(), MAX_CONTENT)) > 0:
            return with_percent(text[match.end() + 1 : end].strip(), text, end + 1)
        if bare := _BARE_BOX.match(text, start):
            return bare[1]
    return None


def boxes_together(text: str) -> str | None:
    """The contents of the last boxes that only commas, "and" or "or" separate; None if the last box stands alone."""
    text = folded(text.rpartition("</think>")[2])
    starts = list(_BOX.finditer(text, max(0, len(text) - TAIL)))[-MAX_BOXES:]
    parts, begin = [], len(text)
    for match in reversed(starts):
        end = closing(text, match.end(), MAX_CONTENT)
        if end < 0 or (parts and not (end < begin and _BETWEEN_BOXES.fullmatch(text, end + 1, begin))):
            break
        parts.append(with_percent(text[match.end() + 1 : end].strip(), text, end + 1))
        begin = match.start()
    return ", ".join(reversed(parts)) if len(parts) > 1 else None


def with_percent(inside: str, text: str, end: int) -> str:
    r"""Appends `\%` to a box's content if the sign or the word "percent" follows, as in `$\boxed{5}\%$` and `$5$ percent`."""
    if inside and not inside.endswith("%") and PERCENT.match(text[end : end + 24].lstrip("$ \\)]")):
        return inside + r"\%"
    return inside
