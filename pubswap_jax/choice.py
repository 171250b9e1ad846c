"""Multiple choice: right only where the final statement commits to exactly one option, and that is the gold.

A statement is a box, an `answer_choice` field, a sentence such as "the answer is (B)" or "B is correct", or a short text as a
whole. The last one counts. A hedge ("A/B", "none of the above", "B or C") commits to nothing, even where it names the gold.
"""

import re

from pubswap_jax.answers import last_box

TAIL = 16384
SHORT = 300  # characters of a text that may be a statement as a whole

_FIELD = re.compile(
    r"""["']?(?:answer_choice|answer|choice|final_answer)["']\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"?|'((?:[^'\\\n]|\\.)*)'?|([^",}\n]*))"""
)
_ADVERB = r"most\s+likely|likely|probably|definitely|therefore|thus|clearly|still|surely|certainly|indeed|for\s+sure"
_MARK = re.compile(
    r"####|(?i:\bit(?:['’]s|\s+is|\s+must\s+be|\s+should\s+be)"
    r"|\b(?:answer|choice|option|choose|select|pick|go with)(?:\s+(?:choice|letter|option))?"
    r"(?:\s+(?:here|to\s+the\s+question|for\s+this\s+question))?(?:\s+(?:is|would\s+be|should\s+be|must\s+be|will\s+be))?"
    rf"(?:\s+(?:{_ADVERB}))?\s*[:=-]?)"
)
_REVERSED = re.compile(
    r"(?<![A-Za-z0-9'’/&,])\(?([A-J])\)?(?:[.:]?\s[^.\n]{0,120})?"
    r"\s(?:is|would be|must be|seems)\s+(?:the\s+)?(?i:correct|right|best|answer|most likely)"
)
_WRAP = r"[\s\"'`({\[*_$]*(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{[\s({*]*)?"
_LETTER = re.compile(
    rf"{_WRAP}(?:(?i:option|choice|answer|letter)\s*:?\s*{_WRAP})?([A-J])(?![A-Za-z0-9'’])(?!\s+(?:am|do|don|would|have|think)\b)"
)
_NEXT = r"(?:(?:maybe|possibly|perhaps|also|both|even|option|choice|either)\s+)*\(?[A-J](?![A-Za-z0-9'’])(?!\s+[a-z])"
_HEDGED = re.compile(
    rf"[\s)\]}}*_\"'.]*(?:\?|(?:[,/&|+;]|\(?\s*\b(?:or|and|and/or)\b)\s*{_NEXT}|\(\s*[A-J]\s*\)|\s[A-J](?=[\s.,)]*$))"
)
_DENIED = re.compile(r"[\s)\]}*\"']*\s(?:is|was|would be|seems)\s+(?:not|wrong|incorrect|false|unlikely)\b")
_DOUBT = re.compile(
    r"(?i:\b(?:could|might|may|can)\s+(?:also\s+)?be\b|\bor\b|\beither\b|\bbut\b)[^.\n]{0,40}?"
    r"(?<![A-Za-z0-9'’])\(?[A-J](?![A-Za-z0-9'’])"
)
_CLAUSE = re.compile(r"(?i)\b(?:not|can't|cannot|isn't|aren't|rather|instead|because|since|as|while|whereas|which)\b")
_NONE = re.compile(
    r"[\s\"'`({\[*_]*(?:\\text\{)?(?i:none|neither|either|both|cannot|can't|can not|could not|unable|unknown|"
    r"not\b|no\b|nor\b|unclear|undetermined|impossible|insufficient|all of|any of|I don|I do not|I am|not?ne)"
)


def judge(text: str, gold: str, options: dict[str, str] | None) -> tuple[str, str]:
    """(status, the statement that was read)."""
    text = text.rpartition("</think>")[2]
    wanted = re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+", "", gold))
    letter, statement = _commitment(text, options or {})
    if not statement.strip():
        return "unparsed", ""
    if not letter:
        return "unparsed", statement[:SHORT].strip()
    return ("correct" if wanted and letter == wanted[0].upper() else "wrong"), statement[:SHORT].strip()


def _commitment(text: str, options: dict[str, str]) -> tuple[str, str]:
    """(letter or nothing, statement) of the last statement of a text."""
    if (box := last_box(text)) is not None:
        return _letter(box, options), box
    text = text[-TAIL:]
    if fields := list(_FIELD.finditer(text)):
        value = next((group for group in fields[-1].groups() if group is not None), "")
        return _letter(value, options), value
    if len(text.strip()) <= SHORT and (letter := _letter(text.strip(), options)) and not _MARK.search(text):
        return letter, text
    return _last_sentence(text, options)


def _last_sentence(text: str, options: dict[str, str]) -> tuple[str, str]:
    """The last sentence that names an option as the answer, or declines to."""
    reversed_marks = {match.start(): match for match in _REVERSED.finditer(text)}
    marks = sorted([*reversed_marks, *(match.end() for match in _MARK.finditer(text))])
    for position in reversed(marks[-32:]):
        statement = text[position:].lstrip(" *_:\t\n").partition("\n")[0]
        if position in reversed_marks and not re.search(
            r"(?i:\bnot?\b|neither|nor)", text[max(0, position - 12) : reversed_marks[position].end()]
        ):
            return _known(reversed_marks[position][1], options), statement
        letter = _letter(statement, options)
        if letter or _NONE.match(statement) or _LETTER.match(statement):
            return letter, statement
    return "", text.strip().rpartition("\n")[2]


def _letter(statement: str, options: dict[str, str]) -> str:
    """The one option that a statement commits to; empty where there is none or several."""
    named = [letter for letter, option in options.items() if _plain(option) and _plain(option) == _plain(statement)]
    if len(named) == 1:
        return named[0]
    match = _LETTER.match(statement)
    if not match or _NONE.match(statement):
        return ""
    letter, rest = match[1], statement[match.end() :]
    if options and letter in options:
        rest = _after_option(rest, options[letter])
    elif letter in "AI" and re.match(r"\s+[a-z]", rest):  # a word of English, not an option
        return ""
    if _DENIED.match(rest) or _HEDGED.match(rest) or _DOUBT.search(_CLAUSE.split(rest[:120])[0]):
        return ""
    return _known(letter, options)


def _known(letter: str, options: dict[str, str]) -> str:
    return letter if not options or letter in options else ""


def _after_option(rest: str, option: str) -> str:
    """What follows the option's own text, so that words in it are no hedge."""
    wanted, seen = _plain(option), ""
    if not wanted or not _plain(rest).startswith(wanted):
        return rest
    for i, char in enumerate(rest):
        seen += _plain(char)
        if seen == wanted:
            return rest[i + 1 :]
    return ""


def _plain(text: str) -> str:
    return re.sub(r"\\[a-z]+|[^a-z0-9%<>=+]", "", text.lower())
