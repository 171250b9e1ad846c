"""Finds the answer in a completion: the last box, else the last "answer is" statement, else the last formula or number.

Uses only string operations, in time linear in the length of the text.
"""

import re
from typing import NamedTuple

from pubswap_jax.verifier.notation import closing, folded
from pubswap_jax.verifier.units import unglued

TAIL = 16384  # characters at the end of a completion that are searched for an answer without a box
SHORT = 200  # maximum characters of a text that may be an answer as a whole
MAX_LINE = 4096  # maximum characters of a statement
MAX_BOXES = 64  # boxes tried, starting with the last one

_CHAT_END = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end|assistant|user)\|>|</s>|\[/?INST\]")
_BOX = re.compile(r"\\f?boxed\s*(?=\{)|\\fbox\s*(?=\{)")
_MARK = re.compile(
    r"(?:(?i:\b(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|solution|result)\s*(?:is|are|:|=)\s*:?)"
    r"|(?:答案|结果)\s*(?:应该|应)?(?:是|为|:|=)\s*:?|####|^[ \t]*A:)[*_]*\s*",
    re.MULTILINE,
)
_LEAD = re.compile(
    r"(?i:(?:(?:final\s+)?answer\s*:|(?:therefore|thus|so|hence)\b,?|the\s+(?:final\s+)?answer\s+is:?|(?:approximately|about|exactly|simply|just)\b"
    r"|equal\s+to\b|[~≈])\s*)+"
)
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$((?:\\.|[^$\\])+)\$|\\\[((?:(?!\\\]|\\\[)[\s\S])+)\\\]|\\\(((?:(?!\\\)|\\\()[\s\S])+)\\\)"
)
_JOIN = re.compile(r"\s*,?\s*(?:and|or|,)\s*,?\s*")
# Text between two boxes of one answer: a separator, formula delimiters and a variable name, as in `$ and $x_2 =`.
_BETWEEN_BOXES = re.compile(
    r"(?=[\s\S]{0,60}(?:[,;&]|\b(?:and|or)\b))"
    r"(?:[\s$*,;&]|\\[()\[\],; ]|\\q?quad|\\text\s*\{[\s,]*(?:and|or)[\s,]*\}|\b(?:and|or)\b"
    r"|\b[A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?\s*=(?!=)){1,60}"
)
_PERCENT_AFTER = re.compile(r"\s*(?:\\?%|per\s?cent(?:age)?\b|pct\b)")
_VERB = re.compile(r"\s*\b(?:is|are|equals|be|was)\b:?\s*")
# A statement that starts with these words names no single value: a denial, a bound, a choice between values.
_HEDGE = re.compile(
    r"(?i)(?:\w+ly\s+)?(?:not|either|neither|none|never|cannot|can't|between|unknown|unclear|undefined|one of|at least|at most"
    r"|(?:more|less|greater|bigger|larger|smaller|fewer|higher|lower)\s+than|above|below|over|under|up to|no)\b"
)
# Words that apply an operation to the next number, so that this number is not the value: `half of 12`.
_DONE_TO = re.compile(
    r"(?i)\b(?:twice|thrice|double|triple|(?:half|third|quarter|square|cube|reciprocal|inverse|opposite|logarithm|factorial|root)\s+of"
    r"|log|ln|sqrt|adding|multiplying|dividing|subtracting)\s*(?:[a-z]+\s+){0,2}$"
)
_HEDGED_LATER = re.compile(r"(?i)[,;=]|\b(?:but|so|hence|and|only)\b")  # "not 5, but 6" names a value after the hedge
_ASIDE = re.compile(r"(?i)[\s,(]*\b(?:because|since|rather\s+than|instead\s+of|whereas|although|compared|namely|i\.e\.|not)\b")
_REASON = re.compile(r"(?i)[\s,(]\b(?:because|rather\s+than|instead\s+of)\b")
_NEGATIVE = re.compile(r"(?i)(?:negative|minus)\s+(?=[0-9.$\\])")
_DENIED_BEFORE = re.compile(
    r"(?i)(?:\b(?:not|never|cannot|nor|neither|except|excluding|unlikely|impossible)|n['’]t)\b(?!\s+only)"
)
_NOT_BE = re.compile(r"(?i)(?:\b(?:not|never|cannot)|n['’]t)\s+(?:\w+\s+)?be\s+$")
_DENIED_AFTER = re.compile(
    r"(?i)\s*(?:(?:is|was|are|would be|seems)\s+(?:\w+ly\s+)?(?:not\b|wrong|incorrect|extraneous|rejected|invalid|impossible)"
    r"|(?:is|was|does|do|are)n['’]t\b|cannot\b|can't\b|fails\b|does\s+not\b)"
)
_HOPE = re.compile(r"\bI hope\b")
_ABOUT = re.compile(r"(?:\babout|\bapprox\w*|\broughly|\bnearly|≈)\.?\s*$")
# Text that applies an operation to the preceding number: `12 squared`, `12 + x`.
_GOES_ON = re.compile(
    r"[\s,]*(?:\\text\{\s*)?(?:(?:hundred|thousand|million|billion|trillion|dozen|or|but|squared|cubed|factorial|plus|minus|divided"
    r"|multiplied|mod(?:ulo)?|(?:more|less|fewer)\s+than|hal(?:f|ves)|thirds?|fourths?|fifths?|tenths?|hundredths?|below\s+zero)\b"
    r"|times\s+(?:the|as|[0-9x])|(?:over|choose)\s+[0-9a-z]\b|to\s+the\s+(?:\w+\s+)?power|and\s+a\s+(?:half|third|quarter)\b"
    r"|if\b[^.\n]*\b(?:else|otherwise)\b)"
    r"|\s*(?:[*/+×÷-]\s*(?:[0-9(\\]|[a-z]\b)|[\^√π]|\\(?:cdot|times|pi|sqrt|frac)|(?:sqrt|pi|log|ln)\b)|(?-i:[xyzijknab](?![A-Za-z0-9]))",
    re.IGNORECASE,
)
# Text that makes the next number an operand: `x/` of `x/12`, `sqrt(` of `sqrt(12`, `13 + ` of `13 + 12`.
_OPERATED = re.compile(r"(?:[A-Za-z0-9)\]]\s*[\^*/_]|[a-z]{2,}\(|[0-9)]\s*[-+×÷*/]\s*)$")
_RUN = re.compile(r"(?:[^\s=,;:]{0,80}|[-+*/×÷0-9.()\s]{0,80})$")
_CLAUSE = re.compile(r"[,;:=\n]|\.\s|\b(?:so|but|hence|thus|therefore|then)\b")
_STOP = re.compile(r"\.(?=\s|$)|\n|(?i:\bI hope\b)")
_AMOUNT = r"[0-9]+(?:[, ][0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"(?<![\w.^\\])[-+]?[$£€]?(?:{_AMOUNT})(?:\s[0-9]+/[0-9]+|\s?/\s?[0-9]+)?(?:\s*(?:%|\\%|per\s?cent\b))?(?![0-9])", re.ASCII
)


def extract(text: str) -> str:
    """The answer's text as written; empty if there is none."""
    text = folded(text.rpartition("</think>")[2])
    box = last_box(text)
    if box is not None:
        return box
    tail = text[-TAIL:]
    tail = _first_reply(tail)
    statement = _statement(tail)
    found = _last_value(tail) if statement is None else statement
    return unglued(found)  # `5m` in a sentence is a length; in a box it may be a product


def gold_answer(gold: str) -> str:
    """The answer in a gold, which is a bare expression, formulas in dollars, or a whole solution with a box."""
    box = last_box(gold)
    if box is not None:
        return box
    joined = _whole_formulas(gold.strip())
    return joined if joined is not None else gold.strip()


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
        if match and (end := closing(text, match.end(), 8192)) > 0:
            return _with_percent(text[match.end() + 1 : end].strip(), text, end + 1)
        if bare := re.compile(r"\\boxed\s+([^\s{}$\\]+)").match(text, start):
            return bare[1]
    return None


def boxes_together(text: str) -> str | None:
    """The contents of the last boxes that only commas, "and" or "or" separate; None if the last box stands alone."""
    text = folded(text.rpartition("</think>")[2])
    starts = list(_BOX.finditer(text, max(0, len(text) - TAIL)))[-MAX_BOXES:]
    parts, begin = [], len(text)
    for match in reversed(starts):
        end = closing(text, match.end(), 8192)
        if end < 0 or (parts and not (end < begin and _BETWEEN_BOXES.fullmatch(text, end + 1, begin))):
            break
        parts.append(_with_percent(text[match.end() + 1 : end].strip(), text, end + 1))
        begin = match.start()
    return ", ".join(reversed(parts)) if len(parts) > 1 else None


def _with_percent(inside: str, text: str, end: int) -> str:
    if inside and not inside.endswith("%") and _PERCENT_AFTER.match(text[end : end + 24].lstrip("$ \\)]")):
        return inside + r"\%"
    return inside


def _first_reply(text: str) -> str:
    """The first non-empty turn: drops chat turns that a model invents after its own."""
    parts = [part for part in _CHAT_END.split(text) if part.strip()]
    return parts[0] if parts else ""


def _statement(tail: str) -> str | None:
    """The value stated after the last "answer is", `####` or `A:`; None if there is no such mark."""
    marks = list(_MARK.finditer(tail))
    for mark in reversed(marks[-8:]):
        rest = tail[mark.end() :].lstrip("* \t\n:")
        if not rest.strip():
            continue
        return _value_of_statement(rest)
    return None


def _value_of_statement(rest: str) -> str:
    """The value that a sentence states: "The volume of $ABCD$ is 120" states 120. A hedging sentence is returned whole."""
    if (joined := _joined_formulas(rest)) and joined.start == 0 and not _VERB.match(rest, joined.end):
        return joined.text
    stop = _STOP.search(rest)
    line = rest[: stop.start()] if stop else rest
    line = line.strip(" *_`")
    line = line[lead.end() :].strip() if (lead := _LEAD.match(line)) else line
    if (negative := _NEGATIVE.match(line)) and len(line) <= MAX_LINE:
        value = _value_of_statement(line[negative.end() :])
        return line if value.startswith("-") else "-" + value
    line = _without_aside(line)
    if len(line) > MAX_LINE or _no_prose(line) or _HEDGE.match(line):
        return line
    leading = _NUMBER.match(line)
    if leading and re.match(r"\s*[(;]", line[leading.end() :]):
        return leading[0]
    verbs = list(_VERB.finditer(line))
    if verbs and _NOT_BE.search(line[: verbs[-1].end()][-40:]):
        return line
    if verbs and line[verbs[-1].end() :].strip():
        return _value_of_statement(line[verbs[-1].end() :].strip())
    if leading:
        done_to = _GOES_ON.match(line, leading.end())
        return line.rpartition("=")[2].strip() if done_to else leading[0]
    first = _NUMBER.search(line)
    if joined is None and (not first or ("=" not in line and _DONE_TO.search(line[: first.start()][-80:]))):
        return line
    if joined or first:
        return _last_value(line)
    return line


def _without_aside(line: str) -> str:
    """`x = 6 rather than 5` -> `x = 6`: cuts a rejected alternative or a reason after the value."""
    for aside in _ASIDE.finditer(line):
        if re.search(r"[0-9\\]", line[: aside.start()]):
            return line[: aside.start()].strip()
    return line


def _no_prose(line: str) -> bool:
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", line)
    if _VERB.search(line):
        return False
    return not words or len(words) == 1 == len(line.split()) or all(w in ("sqrt", "and", "pct", "percent") for w in words)


class _Joined(NamedTuple):
    text: str
    start: int
    end: int


def _joined_formulas(text: str) -> _Joined | None:
    """The first formulas that only commas, "and" or "or" separate; None if the text has no formula."""
    first = _FORMULA.search(text)
    if not first:
        return None
    parts, end = [_content(first)], first.end()
    while joint := _JOIN.match(text, end):
        following = _FORMULA.match(text, joint.end())
        if not following:
            break
        parts.append(_content(following))
        end = following.end()
    return _Joined(_with_percent(", ".join(parts), text, end), first.start(), end)


def _content(match: re.Match) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _whole_formulas(text: str) -> str | None:
    """The formulas of a text that consists only of formulas, separators and a percent sign; None for any other text."""
    joined = _joined_formulas(text) if text.startswith(("$", r"\(", r"\[")) else None
    if joined is None:
        return None
    rest = _JOIN.sub("", _FORMULA.sub("", text)).strip()
    return joined.text if not rest or _PERCENT_AFTER.fullmatch(rest) else None


def _last_value(tail: str) -> str:
    """The value that the last line of a completion states, else the last formula or number."""
    stripped = tail.strip()
    if (joined := _whole_formulas(stripped)) is not None:
        return joined
    leading = _NUMBER.match(stripped)
    hedged = leading and _GOES_ON.match(stripped, leading.end())
    if len(stripped) <= SHORT and "\n" not in stripped and (hedged or _no_prose(stripped.strip("$"))):
        return stripped
    line = _HOPE.split(stripped.rpartition("\n")[2])[0].rstrip(". ")
    reason = _REASON.search(line) if len(line) <= SHORT else None
    if reason and re.search(r"[0-9\\]", line[: reason.start()]):
        return _last_value(line[: reason.start()])
    stated = _VERB.split(line)[-1] if len(line) <= SHORT and _VERB.search(line) else ""
    denied = stated and _NOT_BE.search(line[: len(line) - len(stated)][-40:])
    stated = stated.strip("* `").rstrip(".")
    if denied:
        if _NUMBER.match(stated):
            return ""
        stated = ""
    if stated and _HEDGE.match(stated) and not _HEDGED_LATER.search(stated):
        return ""
    leading = _NUMBER.match(stated)
    if leading and _ASIDE.match(stated, leading.end()):
        return leading[0]
    if re.search(r"[0-9\\]", stated) and "$" not in stated and _no_prose(stated):
        return stated
    formulas = list(_FORMULA.finditer(tail))
    numbers = list(_NUMBER.finditer(tail, formulas[-1].end() if formulas else 0))
    if numbers and not (formulas and _ABOUT.search(tail[: numbers[-1].start()])):
        return _in_place(tail, numbers[-1])
    if not formulas:
        return stripped if len(stripped) <= SHORT else ""
    start = len(formulas) - 1
    while start > 0 and _JOIN.fullmatch(tail, formulas[start - 1].end(), formulas[start].start()):
        start -= 1
    return _with_percent(", ".join(_content(match) for match in formulas[start:]), tail, formulas[-1].end())


def _in_place(tail: str, number: re.Match) -> str:
    """The last number of a text, with its sign and the operation on it; empty if the text denies the number."""
    before, after = tail[max(0, number.start() - 80) : number.start()], tail[number.end() : number.end() + 80]
    clause = _CLAUSE.split(before)[-1]
    if _DENIED_BEFORE.search(clause[-40:]) or _DENIED_AFTER.match(after):
        return ""
    if re.search(r"(?i)\b(?:negative|minus)\s+$", clause) and not re.search(r"[0-9]", clause):
        return "-" + number[0]
    if done := _DONE_TO.search(clause):
        return done[0].strip() + " " + number[0]
    operation = _GOES_ON.match(after)
    if (operation and not after[:1].isspace()) or _OPERATED.search(before):
        behind = re.match(r"[^\s=,;]*", after)[0].rstrip(".:!?*") if operation else after[: after.startswith(")")]
        return (_RUN.search(before)[0] + number[0] + behind).strip(" *")
    return number[0]
