"""Multiple choice: right only where the final statement commits to exactly one option, and that is the gold."""

import re

from pubswap_jax.answers import last_box

TAIL = 16384

_FIELD = re.compile(r"""["']?answer_choice["']?\s*:\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(\[[^\]]*\]|[^",}\n]*))""")
_MARK = re.compile(
    r"(?i:\b(?:final|correct|best)?\s*(?:answer|choice|option)\s*(?:choice|letter|option)?\s*(?:is|:|=|would be|should be|must be)\s*:?)|####"
)
_LETTER = r"[\"'`(\[{*_\\\s$]*(?:\\text(?:bf)?\{|\\mathrm\{|\\boxed\{)?\(?(?-i:([A-J]))(?![A-Za-z0-9'’])\)?"
_FIRST = re.compile(rf"(?:(?i:option|choice|answer|letter)\s*:?\s*)?{_LETTER}")
_OTHER = re.compile(r"(?<![A-Za-z0-9'’])([A-J])(?![A-Za-z0-9'’])")
_HEDGE = re.compile(r"(?i)\b(?:none|neither|either|both|cannot|can't|unable|unknown|not|no|unclear|undetermined|or|and|nor|all|any|maybe)\b|[/&|?]")


def judge(text: str, gold: str, options: dict[str, str] | None) -> tuple[str, str]:
    """(status, the statement that was read)."""
    text = text.rpartition("</think>")[2]
    statement, bare = _final_statement(text[-TAIL:])
    if not statement.strip():
        return "unparsed", ""
    chosen = _chosen(statement, options, bare)
    if not chosen:
        return "unparsed", statement[:200]
    return ("correct" if chosen == gold.strip().strip("().").strip() else "wrong"), statement[:200]


def _final_statement(text: str) -> tuple[str, bool]:
    """The last statement of an answer and whether it stands alone there: a box, a field, a marked line, or the whole text."""
    box = last_box(text)
    if box is not None:
        return box, True
    fields = list(_FIELD.finditer(text))
    if fields:
        return next((group for group in fields[-1].groups() if group is not None), "").strip(), True
    marks = list(_MARK.finditer(text))
    if marks:
        rest = text[marks[-1].end() :].lstrip(" *_:\t\n")
        return rest.partition("\n")[0].strip(), True
    stripped = text.strip()
    return (stripped, True) if len(stripped) <= 200 else (stripped.splitlines()[-1], False)


def _chosen(statement: str, options: dict[str, str] | None, bare: bool) -> str:
    """The one letter that a statement commits to; empty where it commits to none or to several."""
    letters = set(options) if options else None
    if options:
        named = [letter for letter, option in options.items() if _plain(option) and _plain(option) == _plain(statement)]
        if len(named) == 1:
            return named[0]
    first = _FIRST.match(statement)
    if not first:
        return ""
    letter = first[1]
    rest = statement[first.end() :]
    if letters is not None and letter not in letters:
        return ""
    if options and _same_option(rest, options[letter]):
        return letter
    others = {m[1] for m in _OTHER.finditer(rest)} - {letter}
    if letters is not None:
        others &= letters
    head = rest[:40]
    if others and _near(head, others) or _HEDGE.search(rest[:12]):
        return ""
    return letter


def _near(head: str, others: set[str]) -> bool:
    return any(m[1] in others for m in _OTHER.finditer(head))


def _same_option(rest: str, option: str) -> bool:
    return bool(_plain(option)) and _plain(rest).startswith(_plain(option))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9%<>=+]", "", text.lower())
