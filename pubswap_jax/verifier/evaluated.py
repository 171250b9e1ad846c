"""Whether an answer is evaluated: a number, not a calculation that is left to do. `76-25` has the value 51."""

import re

# A plain number: 51, -3, 1,234.5, $0.50, 12 %
_NUMBER = re.compile(r"[-+]?\\?\$?\s*(?:\d[\d,]*)?(?:\.\d+)?\s*(?:\\?%)?")
# An operation between two operands: 76-25, 3 * (4), 14/7, 3\times 4, 3(4), 5^2. The last text after `=` is looked at alone.
_OPERATION = re.compile(
    r"[\d)}]\s*(?:[-+*/^×÷·−–:]|\\(?:times|cdot|div)\b)\s*[-+(\\\d$.]|\d\s*\(|\)\s*[\d(]|\\(?:sqrt|d?frac|tfrac)\b"
)
_FRACTION = re.compile(r"[-+]?\d+\s*/\s*[1-9]\d*")


def is_evaluated(answer: str, gold: str) -> bool:
    """False if the gold is a plain number and the answer is a calculation. Of `76-25=51`, the text after the last = counts."""
    if not _NUMBER.fullmatch(gold.strip()) or not re.search(r"\d", gold):
        return True
    said = answer.rpartition("=")[2].strip() or answer
    return not _OPERATION.search(said) or ("." in gold and bool(_FRACTION.fullmatch(said)))
