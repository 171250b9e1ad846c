"""Says whether an answer is a finished number. `76-25` has the value 51, but leaves the calculation to do."""

import re

from pubswap_jax.verifier.pattern import Pattern

_NUMBER = Pattern(
    r"[-+]?\\?\$?\s*(?:\d[\d,]*)?(?:\.\d+)?\s*(?:\\?%)?",
    matches=["51", "-3", "1,234.5", "$0.50", "12 %", r"12\%"],
    not_=["x", "76-25", "1/2", "51 apples"],
    by=re.Pattern.fullmatch,
)
# An operation between two operands. The text after the last `=` is looked at alone.
_OPERATION = Pattern(
    r"[\d)}]\s*(?:[-+*/^×÷·−–:]|\\(?:times|cdot|div)\b)\s*[-+(\\\d$.]|\d\s*\(|\)\s*[\d(]|\\(?:sqrt|d?frac|tfrac)\b",
    matches=["76-25", "3 * (4)", "14/7", r"3\times 4", "3(4)", "5^2", r"\frac{1}{2}", r"\sqrt{4}"],
    not_=["51", "-51", "5-year plan", "the 51st", "1,251"],
)
_FRACTION = Pattern(
    r"[-+]?(?:\d+\s*/\s*[1-9]\d*|\\[dt]?frac\s*\{\s*\d+\s*\}\s*\{\s*[1-9]\d*\s*\})",
    matches=["1/2", "-3 / 4", r"\frac{1}{2}", r"\dfrac { 3 } { 10 }"],
    not_=["1/0", "1/2+3", "0.5", r"\frac{1}{x}"],
    by=re.Pattern.fullmatch,
)


def is_evaluated(answer: str, gold: str) -> bool:
    """Whether an answer is finished: False if the gold is a plain number and the answer is a calculation.

    Of `76-25=51`, the text after the last = counts.
    """
    if not _NUMBER.fullmatch(gold.strip()) or not re.search(r"\d", gold):
        return True
    said = answer.rpartition("=")[2].strip() or answer
    return not _OPERATION.search(said) or ("." in gold and bool(_FRACTION.fullmatch(said.strip(" $"))))
