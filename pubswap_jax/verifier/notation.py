"""Canonical strings: rewrites LaTeX and plain-text answers to one spelling.

Uses only string operations, in linear time. This module does not use sympy and does not decide whether two answers are equal.
"""

import functools
import re

from pubswap_jax.verifier.braces import braced
from pubswap_jax.verifier.characters import folded, spelled
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.rewrites import REWRITES
from pubswap_jax.verifier.wrapping import unwrapped

_ALIGNED_LINES = Pattern(
    r"\\(?:begin|end)\{(?:align(?:ed)?|split|gather(?:ed)?|equation)\*?\}",
    matches=[r"\begin{align*}", r"\end{split}", r"\begin{aligned}"],
    not_=[r"\begin{array}", "align"],
)
_PLAIN_MATRIX = Pattern(
    r"\\([pbBv]?matrix)\s*\{((?:[^{}]|\{[^{}]*\})*)\}",
    matches=[r"\pmatrix{1 & 2 \cr 3 & 4}", r"\bmatrix {\frac{1}{2}}"],
    not_=[r"\begin{pmatrix}1", r"\pmatrix 1"],
)
_HORIZONTAL_LINE = Pattern(r"\\hline(?![A-Za-z])", matches=[r"\hline 1"], not_=[r"\hlines"])
_REPEATED_COLUMNS = Pattern(
    r"\\begin\{array\}\s*\{(?=[^{}]*\{)(?:[^{}]|\{[^{}]*\})*\}",
    matches=[r"\begin{array}{*{20}{c}}"],
    not_=[r"\begin{array}{cc}", r"\begin{pmatrix}"],
)
_TURNED_BRACKETS = Pattern(
    r"([\[\]])([^\[\](),;]+[,;][^\[\](),;]+)([\[\]])", matches=["]2,5[", "]2,5]", r"[0, \infty["], not_=["],[", "] u [", "2,5"]
)
_DEGREE = (
    r"(?:(?<=[0-9])\^\s*(?:o|\{o\})(?![A-Za-z])"
    r"|\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|\\degree)|\\(?:text)?degrees?(?![A-Za-z]))"
)
_DEGREE_SIGN = Pattern(
    _DEGREE, matches=[r"30^\circ", "30^o", r"30\degree", r"x^{\circ}"], not_=["x^o", r"\circ", "30^2", r"\degreex"]
)
_ANGLE = Pattern(rf"([0-9.]+)\s*{_DEGREE}", matches=[r"30^\circ", r"7.5 \degrees"], not_=[r"x^\circ", "30"])
_TRIGONOMETRY = Pattern(
    r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])", matches=[r"\cos 15", "sin(3)", "2tan"], not_=["cost", "cosine", "15"]
)
_ZEROS = {"hundred": "2", "thousand": "3", "million": "6", "billion": "9", "trillion": "12"}
_POWER_OF_TEN = Pattern(
    r"(?<=[0-9]) ?(?:\\text\{ *)?(hundred|thousand|million|billion|trillion)(?: *\}|(?![a-z]))",
    re.IGNORECASE,
    matches=["5 million", r"2.5\text{ billion}", "3hundred"],
    not_=["million", "5 millions", "5 apples"],
)
_PLAIN_INTEGER = Pattern(r"-?[0-9]+", re.ASCII, matches=["5", "-12"], not_=["1.5", "x", "+5", "５"], by=re.Pattern.fullmatch)
_THOUSANDS = Pattern(
    r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])",
    matches=["1,234", "x = 12,345,678.", "$1,234.5"],
    not_=["1,23", "1234,567", "1,2345", "1,234,5"],
)
_SPACE_WITH_MEANING = Pattern(
    r"(\\[A-Za-z]+) (?=[A-Za-z])|(?<=[0-9]) (?=[0-9])", matches=[r"\pi x", "1 2"], not_=["x y", r"\pi 2", "1 + 2"]
)


@functools.lru_cache(1 << 16)
def canonical(text: str) -> str:
    """Rewrites an answer to one spelling. Words stay in `\\text{}`. Removes sizes, thin spaces, degree and currency signs."""
    if _PLAIN_INTEGER.fullmatch(text):
        return text
    text = _rows(spelled(folded(text)))
    text = unwrapped(text.strip())
    for pattern, spelling, needs, _ in REWRITES:
        if needs in text:
            text = pattern.sub(spelling, text)
    text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text) if _TRIGONOMETRY.search(text) else _DEGREE_SIGN.sub(" ", text)
    text = _POWER_OF_TEN.sub(lambda match: r"\times 10^{" + _ZEROS[match[1].lower()] + "}", text)
    if text[:1] == "]" or text[-1:] == "[":  # `]2,5[` is `(2,5)`
        text = _TURNED_BRACKETS.sub(lambda match: "[("[match[1] == "]"] + match[2] + "])"[match[3] == "["], text)
    if "\\" not in text:  # plain `x^10` has the exponent 10; in TeX the exponent would be 1
        text = re.sub(r"\^(-?[0-9]+(?:\.[0-9]+)?)", r"^{\1}", text)
    text = re.sub(r"(\^|_)\{([A-Za-z0-9])\}(?! ?[A-Za-z0-9])", r"\1\2", braced(text))
    return re.sub(r" +", " ", text).strip().rstrip(".").strip()


def radians(text: str) -> str:
    """Rewrites degrees as radians, to compare them with an answer in π: `30^\\circ` -> `(\\frac{30\\pi}{180})`."""
    return _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text.replace("°", r"^\circ"))


def thousands(text: str) -> str:
    """Removes commas between thousands: `1,234 apples` -> `1234 apples`.

    `1,234` may also be a list, so `equality.equal_texts` tries both readings.
    """
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def squeezed(text: str) -> str:
    """A canonical string without the spaces that carry no meaning."""
    if " " not in text:
        return text
    text = _SPACE_WITH_MEANING.sub(lambda m: (m[1] or "") + "\0", text)
    return text.replace(" ", "").replace("\0", " ")


def _rows(text: str) -> str:
    """Marks row ends of a matrix with the character 1. Elsewhere a double backslash is a redundant escape or a line break."""
    if _ALIGNED_LINES.search(text):
        text = _ALIGNED_LINES.sub("", text).replace("&", "")
    if "matrix" in text or "array" in text:
        text = _HORIZONTAL_LINE.sub("", _PLAIN_MATRIX.sub(r"\\begin{\1}\2\\end{\1}", text))
    if r"\begin" in text:
        text = _REPEATED_COLUMNS.sub(r"\\begin{array}{c}", text.replace("{smallmatrix}", "{matrix}"))
        return text.replace(r"\\", "\x01").replace(r"\cr", "\x01")
    return re.sub(r"\\\\(?=[A-Za-z{}%$])", r"\\", text).replace(r"\\", " ")
