"""Formulas and numbers in a completion: `$x$`, `\\[x\\]`, `$1$ and $2$`, `-1,234.5`."""

import re
from typing import NamedTuple

from pubswap_jax.verifier.boxes import PERCENT, with_percent
from pubswap_jax.verifier.pattern import Pattern

FORMULA = Pattern(
    r"\$\$([^$]+)\$\$|(?<!\\)\$((?:\\.|[^$\\])+)\$|\\\[((?:(?!\\\]|\\\[)[\s\S])+)\\\]|\\\(((?:(?!\\\)|\\\()[\s\S])+)\\\)",
    matches=["$x$", "$$x$$", r"\[x\]", r"\(x\)", r"$\$5$"],
    not_=[r"\$5", "$$", r"\(x", "x"],
)
FORMULA_JOINT = Pattern(
    r"\s*,?\s*(?:and|or|,)\s*,?\s*", matches=[" and ", ", ", ", or ", "and,"], not_=[" ", ";", " but "], by=re.Pattern.fullmatch
)
_AMOUNT = r"[0-9]+(?:[, ][0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+"
NUMBER = Pattern(
    rf"(?<![\w.^\\])[-+]?[$£€]?(?:{_AMOUNT})(?:\s[0-9]+/[0-9]+|\s?/\s?[0-9]+)?(?:\s*(?:%|\\%|per\s?cent\b))?(?![0-9])",
    re.ASCII,
    matches=["12", "-3.5", "$1,234", "1 1/2", "50%", ".5", "3/4"],
    not_=["x2", "a.b", r"\1", "x^2", "１"],
)


class Joined(NamedTuple):
    """Adjacent formulas as one answer, and the place in the text where they stand."""

    text: str
    start: int
    end: int


def joined_formulas(text: str) -> Joined | None:
    """The first formulas that only commas, "and" or "or" separate; None if the text has no formula."""
    first = FORMULA.search(text)
    if not first:
        return None
    parts, end = [content(first)], first.end()
    while joint := FORMULA_JOINT.match(text, end):
        following = FORMULA.match(text, joint.end())
        if not following:
            break
        parts.append(content(following))
        end = following.end()
    return Joined(with_percent(", ".join(parts), text, end), first.start(), end)


def content(match: re.Match) -> str:
    """The formula of a match of FORMULA, without its delimiters."""
    return next(group for group in match.groups() if group is not None).strip()


def whole_formulas(text: str) -> str | None:
    """The formulas of a text that consists only of formulas, separators and a percent sign; None for any other text."""
    joined = joined_formulas(text) if text.startswith(("$", r"\(", r"\[")) else None
    if joined is None:
        return None
    rest = FORMULA_JOINT.sub("", FORMULA.sub("", text)).strip()
    return joined.text if not rest or PERCENT.fullmatch(rest) else None
