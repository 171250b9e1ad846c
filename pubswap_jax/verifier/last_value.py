"""Finds the value in a completion without a box or an "answer is": in the last line, else the last formula or number."""

import re

from pubswap_jax.verifier.boxes import with_percent
from pubswap_jax.verifier.formulas import FORMULA, FORMULA_JOINT, NUMBER, content, whole_formulas
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.wording import ASIDE, HEDGE, NOT_BE, OPERATION_BEFORE, OPERATION_NEXT, VERB, no_prose

SHORT = 200  # maximum characters of a text that may be an answer as a whole

# "not 5, but 6" names a value after the hedge.
_VALUE_AFTER_HEDGE = Pattern(
    r"(?i)[,;=]|\b(?:but|so|hence|and|only)\b", matches=["not 5, 6", "not 5 but 6", "x = 5"], not_=["not 5", "butter"]
)
# The beginning of a reason or of a rejected alternative, which may contain numbers that are not the answer.
_REASON = Pattern(
    r"(?i)[\s,(]\b(?:because|rather\s+than|instead\s+of)\b",
    matches=[" because x", "(because x", ", instead of 5"],
    not_=["because x", " since x", " rather 5"],
)
_DENIAL_BEFORE = Pattern(
    r"(?i)(?:\b(?:not|never|cannot|nor|neither|except|excluding|unlikely|impossible)|n['’]t)\b(?!\s+only)",
    matches=["it is not ", "isn't ", "never ", "except "],
    not_=["not only ", "notable ", "it is "],
)
_DENIAL_NEXT = Pattern(
    r"(?i)\s*(?:(?:is|was|are|would be|seems)\s+(?:\w+ly\s+)?(?:not\b|wrong|incorrect|extraneous|rejected|invalid|impossible)"
    r"|(?:is|was|does|do|are)n['’]t\b|cannot\b|can't\b|fails\b|does\s+not\b)",
    matches=[" is wrong", " isn't so", " cannot be", " was clearly not", " fails"],
    not_=[" is right", "so is wrong", " failsafe"],
    by=re.Pattern.match,
)
_I_HOPE = Pattern(r"\bI hope\b", matches=["5. I hope so"], not_=["we hope", "I hoped"])
_ABOUT_BEFORE = Pattern(
    r"(?:\babout|\bapprox\w*|\broughly|\bnearly|≈)\.?\s*$",
    matches=["is about ", "approx. ", "approximately ", "≈"],
    not_=["about x ", "gabout "],
)
# Text that makes the next number an operand: `x/` of `x/12`, `sqrt(` of `sqrt(12`, `13 + ` of `13 + 12`.
_OPERATOR_BEFORE = Pattern(
    r"(?:[A-Za-z0-9)\]]\s*[\^*/_]|[a-z]{2,}\(|[0-9)]\s*[-+×÷*/]\s*)$",
    matches=["x/", "sqrt(", "13 + ", "2^"],
    not_=["x ", "(", "x + ", "= "],
)
# The part of a calculation that ends at a number: `13 + ` of `x = 13 + 12`. It may be empty, so the pattern is always found.
_RUN_BEFORE = Pattern(r"(?:[^\s=,;:]{0,80}|[-+*/×÷0-9.()\s]{0,80})$", matches=["x = 13 + ", "sqrt(", ""], not_=[])
_CLAUSE_BREAK = Pattern(
    r"[,;:=\n]|\.\s|\b(?:so|but|hence|thus|therefore|then)\b",
    matches=["a, b", "a. b", "a so b", "a=b", "a\nb"],
    not_=["also b", "a.b", "a b"],
)


def last_value(tail: str) -> str:
    """Finds the answer in the end of a completion: the value that its last line states, else its last formula or number."""
    stripped = tail.strip()
    if (joined := whole_formulas(stripped)) is not None:
        return joined
    leading = NUMBER.match(stripped)
    hedged = leading and OPERATION_NEXT.match(stripped, leading.end())
    if len(stripped) <= SHORT and "\n" not in stripped and (hedged or no_prose(stripped.strip("$"))):
        return stripped
    line = _I_HOPE.split(stripped.rpartition("\n")[2])[0].rstrip(". ")
    reason = _REASON.search(line) if len(line) <= SHORT else None
    if reason and re.search(r"[0-9\\]", line[: reason.start()]):
        return last_value(line[: reason.start()])
    stated = VERB.split(line)[-1] if len(line) <= SHORT and VERB.search(line) else ""
    denied = stated and NOT_BE.search(line[: len(line) - len(stated)][-40:])
    stated = stated.strip("* `").rstrip(".")
    if denied:
        if NUMBER.match(stated):
            return ""
        stated = ""
    if stated and HEDGE.match(stated) and not _VALUE_AFTER_HEDGE.search(stated):
        return ""
    leading = NUMBER.match(stated)
    if leading and ASIDE.match(stated, leading.end()):
        return leading[0]
    if re.search(r"[0-9\\]", stated) and "$" not in stated and no_prose(stated):
        return stated
    return _last_formula_or_number(tail)


def _last_formula_or_number(tail: str) -> str:
    """The number after the last formula, else the last formulas; of a text without both, the text itself if it is short."""
    formulas = list(FORMULA.finditer(tail))
    numbers = list(NUMBER.finditer(tail, formulas[-1].end() if formulas else 0))
    if numbers and not (formulas and _ABOUT_BEFORE.search(tail[: numbers[-1].start()])):
        return _in_place(tail, numbers[-1])
    if not formulas:
        return tail.strip() if len(tail.strip()) <= SHORT else ""
    start = len(formulas) - 1
    while start > 0 and FORMULA_JOINT.fullmatch(tail, formulas[start - 1].end(), formulas[start].start()):
        start -= 1
    return with_percent(", ".join(content(match) for match in formulas[start:]), tail, formulas[-1].end())


def _in_place(tail: str, number: re.Match) -> str:
    """The last number of a text, with its sign and an operation applied to it; empty if the text denies the number."""
    before, after = tail[max(0, number.start() - 80) : number.start()], tail[number.end() : number.end() + 80]
    clause = _CLAUSE_BREAK.split(before)[-1]
    if _DENIAL_BEFORE.search(clause[-40:]) or _DENIAL_NEXT.match(after):
        return ""
    if re.search(r"(?i)\b(?:negative|minus)\s+$", clause) and not re.search(r"[0-9]", clause):
        return "-" + number[0]
    if done := OPERATION_BEFORE.search(clause):
        return done[0].strip() + " " + number[0]
    operation = OPERATION_NEXT.match(after)
    if (operation and not after[:1].isspace()) or _OPERATOR_BEFORE.search(before):
        behind = re.match(r"[^\s=,;]*", after)[0].rstrip(".:!?*") if operation else after[: after.startswith(")")]
        return (_RUN_BEFORE.search(before)[0] + number[0] + behind).strip(" *")
    return number[0]
