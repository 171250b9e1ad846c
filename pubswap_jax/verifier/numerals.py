"""Exact numbers read from canonical strings, and the rule by which two numbers count as equal."""

import re
from fractions import Fraction

from pubswap_jax.verifier.notation import squeezed
from pubswap_jax.verifier.pattern import Pattern

DIGITS = 6  # significant digits to which a decimal must agree with the other value
MAX_CHARACTERS = 600
Number = tuple[Fraction, int | None]  # (value, decimal places); None if exact, such as an integer or a fraction

_DECIMAL = Pattern(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]+(?:,[0-9]{3})*|)(?:\.(?P<part>[0-9]*))?",
    re.ASCII,
    matches=["12", "-1.5", "1,234.5", ".5", "5."],
    not_=["1,23", "x", "1.2.3", "１"],
    by=re.Pattern.fullmatch,
)
_REPEATING = Pattern(
    r"([+-]?)([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\{?([0-9]+)\}?",
    re.ASCII,
    matches=[r"0.\overline{3}", r"1.2\bar{34}", r"-.\dot3"],
    not_=["0.3", r"\overline{3}", r"0.\overline{a}"],
    by=re.Pattern.fullmatch,
)
_RATIO = Pattern(
    r"([+-]?)(?:\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}|([0-9]+)/([+-]?[0-9]+|\([+-]?[0-9]+\)))",
    re.ASCII,
    matches=["1/2", r"-\frac{1}{2}", "3/(-4)", r"\frac{-1}{2}"],
    not_=["1/x", "1/2/3", r"\frac{1}{2}3", "1.5/2"],
    by=re.Pattern.fullmatch,
)
_MIXED = Pattern(
    r"([+-]?)([0-9]+) ?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))",
    re.ASCII,
    matches=["1 1/2", r"2\frac{1}{3}", r"-1 \frac{1}{2}"],
    not_=["11/2", "1/2", r"1.5\frac{1}{2}"],
    by=re.Pattern.fullmatch,
)
_SCIENTIFIC = Pattern(
    r"([+-]?[0-9]*\.?[0-9]*)(?:\\(?:times|cdot)10\^(?:\{([+-]?[0-9]{1,3})\}|([0-9]))|[eE]([+-]?[0-9]{1,3}))",
    re.ASCII,
    matches=[r"1.5\times10^{3}", r"2\cdot10^5", "1e-5", r"-3\times10^{-12}"],
    not_=["1.5", r"1.5\times10^12", "10^{3}", "1e1234"],
    by=re.Pattern.fullmatch,
)


def number(text: str) -> Number | None:
    """The number that the whole string spells: decimal, fraction, mixed, repeating or scientific; None if it is no number."""
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        return None
    if match := _DECIMAL.fullmatch(text):
        return _decimal(match)
    if match := _RATIO.fullmatch(text):
        sign, a, b, c, d = match.groups()
        top, bottom = int(a or c), int((b or d).strip("()"))
        return (Fraction(-top if sign == "-" else top, bottom), None) if bottom else None
    if match := _MIXED.fullmatch(text):
        top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
        value = int(match[2]) + Fraction(top, bottom) if bottom else None
        return None if value is None else (-value if match[1] == "-" else value, None)
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    if match := _SCIENTIFIC.fullmatch(squeezed(text)):
        return _scientific(match)
    return None


def _decimal(match: re.Match) -> Number | None:
    """The number of a match of _DECIMAL. Zeros alone behind the point do not make a decimal: `5.00` is exact."""
    whole, part = match["whole"].replace(",", ""), match["part"]
    if not whole and not part:
        return None
    value = Fraction(int(whole or "0")) + (Fraction(int(part), 10 ** len(part)) if part else 0)
    return (-value if match["sign"] == "-" else value), (len(part) if part and part.strip("0") else None)


def _repeating(sign: str, whole: str, part: str, period: str) -> Number:
    """The number of a repeating decimal: 1.2343434... has whole 1, part 2 and period 34."""
    value = int(whole or "0") + (int(part or "0") + Fraction(int(period), 10 ** len(period) - 1)) / 10 ** len(part)
    return (-value if sign == "-" else value), None


def _scientific(match: re.Match) -> Number | None:
    """The number of a match of _SCIENTIFIC, such as `1.5\\times10^{3}`."""
    base = _decimal(found) if (found := _DECIMAL.fullmatch(match[1])) else None
    if not base:
        return None
    power = int(match[2] or match[3] or match[4])
    decimals = None if base[1] is None or base[1] <= power else base[1] - power
    return base[0] * Fraction(10) ** power, decimals


def readings(text: str) -> list[Number] | None:
    """The values that a plain number may stand for, such as 10 and 0.1 for `10%`. None if the text is no plain number."""
    percent = text.endswith("%")
    value = number(text.removesuffix("%") if percent else text)
    if value is None or not percent:
        return None if value is None else [value]
    exact, places = value
    return [value, (exact / 100, None if places is None else places + 2)]


def close(one: Number, other: Number) -> bool:
    """Whether two numbers are equal, or one is a decimal of at least six digits that rounds or truncates the other."""
    (a, a_places), (b, b_places) = one, other
    if a == b:
        return True
    known = [places for places in (a_places, b_places) if places is not None]
    if not known:
        return False
    error, size = abs(a - b), min(abs(a), abs(b))
    if max(known) >= 9 and error <= size / 10**9:  # rounding error of binary floats: 0.30000000000000004
        return True
    reach = Fraction(1, 10 ** min(known) * len(known))  # one unit of the last place; half a unit if both are decimals
    return error < reach and error < size / 10 ** (DIGITS - 1) and len(str(int(size * 10 ** min(known)))) >= DIGITS
