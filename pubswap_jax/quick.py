"""The fast oracle: decides from strings, exact fractions and floats, and raises Undecided for everything else."""

from fractions import Fraction

from pubswap_jax.notation import number, squeezed
from pubswap_jax.shapes import Undecided, Unreadable, expressions, read

DIGITS = 5  # a decimal must agree with the other value to that many digits


class Quick:
    """True and False only where numbers are plain; no parser, no sympy."""

    def expr(self, gold: str, answer: str) -> bool:
        one, other = readings(gold), readings(answer)
        if one is None or other is None:
            if squeezed(gold) == squeezed(answer):
                return True
            raise Undecided
        return any(close(a, b) for a in one for b in other)

    def multiple(self, gold: tuple[str, str], answer: tuple[str, str], positive: bool) -> bool:
        raise Undecided


def readings(text: str) -> list[tuple[Fraction, int | None]] | None:
    """The values that a plain number may stand for: `10%` is 10 and 0.1."""
    percent = text.endswith("%")
    value = number(text.removesuffix("%").removesuffix("\\").rstrip() if percent else text)
    if value is None:
        return None
    if not percent:
        return [value]
    exact, decimals = value
    return [value, (exact / 100, None if decimals is None else decimals + 2)]


def plain_numbers(text: str) -> bool:
    """Whether a canonical answer is made of plain numbers and words alone, so that no parser is needed to read it."""
    try:
        return bool(text) and all(readings(part) for part in expressions(read(text)))
    except Unreadable:
        return False


def close(one: tuple[Fraction, int | None], other: tuple[Fraction, int | None]) -> bool:
    """Equal; or a decimal of at least five digits that rounds or cuts the other value at its last place."""
    (a, a_places), (b, b_places) = one, other
    if a == b:
        return True
    if a_places is None and b_places is None:
        return False
    if max(a_places or 0, b_places or 0) >= 9 and abs(a - b) <= Fraction(1, 10**9) * min(abs(a), abs(b)):
        return True
    if a_places is not None and b_places is not None:
        places = min(a_places, b_places)
        reach = Fraction(1, 2 * 10**places)
    else:
        places = a_places if a_places is not None else b_places
        reach = Fraction(1, 10**places)
    error = abs(a - b)
    return error < reach and error < max(abs(a), abs(b)) / 10 ** (DIGITS - 1) and _digits(min(abs(a), abs(b)), places) >= DIGITS


def _digits(value: Fraction, places: int) -> int:
    """Significant digits of a value written to so many places."""
    return len(str(int(value * 10**places)))
