"""Finds the value in the text after "the answer is": a formula, a number, or a sentence that states it."""

import re

from pubswap_jax.verifier.formulas import NUMBER, joined_formulas
from pubswap_jax.verifier.last_value import last_value
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.wording import ASIDE, HEDGE, NOT_BE, OPERATION_BEFORE, OPERATION_NEXT, VERB, no_prose

MAX_LINE = 4096  # characters of a sentence; a longer one is returned whole

_LEAD_IN = Pattern(
    r"(?i:(?:(?:final\s+)?answer\s*:|(?:therefore|thus|so|hence)\b,?|the\s+(?:final\s+)?answer\s+is:?|(?:approximately|about|exactly|simply|just)\b"
    r"|equal\s+to\b|[~≈])\s*)+",
    matches=["Answer: 5", "Therefore, the answer is: 5", "approximately 5", "≈ 5"],
    not_=["The sum is 5", "5 about"],
    by=re.Pattern.match,
)
_NEGATIVE_WORD = Pattern(
    r"(?i)(?:negative|minus)\s+(?=[0-9.$\\])",
    matches=["negative 5", "Minus $5$", r"minus \frac12"],
    not_=["negative x", "5 minus 3", "minus5"],
    by=re.Pattern.match,
)
_STATEMENT_END = Pattern(r"\.(?=\s|$)|\n|(?i:\bI hope\b)", matches=["5. So", "5\n", "5 I hope it", "5."], not_=["5.5", "x"])


def value_of_statement(rest: str) -> str:
    """The value that a sentence states: "The volume of $ABCD$ is 120" states 120. A hedging sentence is returned whole."""
    if (joined := joined_formulas(rest)) and joined.start == 0 and not VERB.match(rest, joined.end):
        return joined.text
    stop = _STATEMENT_END.search(rest)
    line = rest[: stop.start()] if stop else rest
    line = line.strip(" *_`")
    line = line[lead.end() :].strip() if (lead := _LEAD_IN.match(line)) else line
    if (negative := _NEGATIVE_WORD.match(line)) and len(line) <= MAX_LINE:
        value = value_of_statement(line[negative.end() :])
        return line if value.startswith("-") else "-" + value
    line = _without_aside(line)
    if len(line) > MAX_LINE or no_prose(line) or HEDGE.match(line):
        return line
    leading = NUMBER.match(line)
    if leading and re.match(r"\s*[(;]", line[leading.end() :]):
        return leading[0]
    verbs = list(VERB.finditer(line))
    if verbs and NOT_BE.search(line[: verbs[-1].end()][-40:]):
        return line
    if verbs and line[verbs[-1].end() :].strip():
        return value_of_statement(line[verbs[-1].end() :].strip())
    if leading:
        operation = OPERATION_NEXT.match(line, leading.end())
        return line.rpartition("=")[2].strip() if operation else leading[0]
    first = NUMBER.search(line)
    if joined is None and (not first or ("=" not in line and OPERATION_BEFORE.search(line[: first.start()][-80:]))):
        return line
    if joined or first:
        return last_value(line)
    return line


def _without_aside(line: str) -> str:
    """`x = 6 rather than 5` -> `x = 6`: cuts a rejected alternative or a reason after the value."""
    for aside in ASIDE.finditer(line):
        if re.search(r"[0-9\\]", line[: aside.start()]):
            return line[: aside.start()].strip()
    return line
