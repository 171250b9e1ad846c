"""Multiple choice: an answer is correct only if its final statement commits to exactly one option, and that option is the gold.

A statement is a box, an `answer_choice` field, a short text as a whole, or a sentence such as "the answer is (B)" or "B is
correct". The first of these kinds that occurs decides, and within a kind the last statement. A sentence that only mentions an
option ("Option C is wrong") is not a statement. A hedge ("A/B", "none of the above", "B or C", "B. No wait, C") commits to no
option, even if it names the gold.
"""

import re
from types import SimpleNamespace

from pubswap_jax.verifier.boxes import last_box
from pubswap_jax.verifier.characters import folded
from pubswap_jax.verifier.keys import lettered
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.phrases import phrases

TAIL = 16384  # characters at the end of a text that are searched for fields and sentences
SHORT = 300  # maximum characters of a text that may be a statement as a whole
REACH = 160  # characters after a letter that are searched for a hedge
_BOLD_LETTER = Pattern(r"\*\*(\(?[A-Za-z]\)?[.:]?)\*\*", matches=["**B**", "**(b).**"], not_=["**Bold**", "*B*"])
# Where a clause ends, so that a denial before this place is not about the letter after it.
_CLAUSE_BREAK = Pattern(
    r"[,;]|\b(?:so|hence|thus|therefore|but)\b", matches=["not A, ", "not A so "], not_=["not A: ", "not A", "also"]
)
_CLAUSE_BREAK_OR_COLON = Pattern(
    r"(?i)\b(?:so|hence|thus|therefore|but)\b|[,;:]", matches=["not A: ", "not A. So "], not_=["not A", "also"]
)
_DENIAL = Pattern(
    r"(?i)\bnot?\b|neither|nor|n['’]t|hardly", matches=["B is not correct", "No B", "isn't"], not_=["B is correct", "know"]
)


def judge(text: str, gold: str, options: dict[str, str] | None) -> tuple[str, str]:
    """Judges a completion of a multiple-choice question: (status, final statement). `gold` is an option's key or letter."""
    text, options, letters = lettered(text.rpartition("</think>")[2], options or {})
    text = _BOLD_LETTER.sub(r"\1", text)
    wanted = letters.get(gold) or _letter_of(gold)
    letter, statement = _commitment(phrases(max("J", wanted, *options)), text, options)
    if not statement.strip():
        return "unparsed", ""
    if not letter:
        return "unparsed", statement[:SHORT].strip()
    return ("correct" if letter == wanted else "wrong"), statement[:SHORT].strip()


def _letter_of(gold: str) -> str:
    """The letter of `(b)` or `\\text{B}`, in upper case; empty if there is none."""
    found = re.search(r"[A-Za-z]", re.sub(r"\\[a-z]+", "", gold))
    return found[0].upper() if found else ""


def _commitment(p: SimpleNamespace, text: str, options: dict[str, str]) -> tuple[str, str]:
    """(letter, final statement) of a text. The letter is empty if the statement commits to no option."""
    if (box := last_box(text)) is not None:
        return _letter(p, folded(box), options), box
    text = folded(text[-TAIL:])
    if fields := list(p.JSON_FIELD.finditer(text)):
        value = next((group for group in fields[-1].groups() if group is not None), "")
        return _letter(p, value, options), value
    short = text.strip()
    if len(short) <= SHORT and (start := p.LETTER.match(short)) and start[2] in options:
        behind = _after_option(short[start.end() :], options[start[2]])
        if behind != short[start.end() :] and p.IS_CORRECT_NEXT.fullmatch(behind):  # "A. Vitamin B is the correct answer"
            return start[2], text
    alone = (
        len(short) <= SHORT
        and not p.LETTER_IS_CORRECT.search(short)
        and all(mark["weak"] for mark in p.INTRODUCTION.finditer(short))
    )
    if alone and (letter := _letter(p, short, options)):
        return letter, text
    return _last_sentence(p, text, options)


def _last_sentence(p: SimpleNamespace, text: str, options: dict[str, str]) -> tuple[str, str]:
    """(letter, statement) of the last sentence that names an option as the answer. The letter is empty if it declines."""
    marks = [*p.INTRODUCTION.finditer(text), *p.LETTER_IS_CORRECT.finditer(text)]
    marks = sorted(marks, key=lambda mark: mark.start() if mark.re is p.LETTER_IS_CORRECT else mark.end())[-64:]
    weak, taken_back = None, False  # a weak "it is C" yields to an earlier answer, unless that is taken back
    for mark in reversed(marks):
        found = _stated(p, text, mark, options)
        if found and (mark.re is p.LETTER_IS_CORRECT or not (mark["weak"] or mark["bare"])):
            return weak if weak and taken_back else found
        if found and found[0] and weak is None:
            weak = found
            taken_back = bool(p.CORRECTION.search(text[max(0, mark.start() - 60) : mark.start()]))
    return weak or _named_last(p, text, options)


def _stated(p: SimpleNamespace, text: str, mark: re.Match, options: dict[str, str]) -> tuple[str, str] | None:
    """(letter, statement) where a match of INTRODUCTION or LETTER_IS_CORRECT names an option; None if it names none.

    A hedge has an empty letter.
    """
    denied = p.DENIAL_BEFORE.search(text[max(0, mark.start() - 40) : mark.start()])
    if mark.re is p.LETTER_IS_CORRECT:
        statement = text[mark.start() :].partition("\n")[0]
        rest = text[mark.end() : mark.end() + REACH]
        question = re.match(r"[^.\n!]*\?", rest)
        if denied and _CLAUSE_BREAK_OR_COLON.search(denied[0]):
            denied = None  # "A and C are not; B is correct": an earlier clause is denied
        spoken = p.BEFORE_A_CLAIM.search(text[max(0, mark.start() - 24) : mark.start()])
        if _DENIAL.search(mark[0]) or denied or question or not spoken:
            return None
        bare = not mark[1] and not mark[3]
        if bare and mark[2] in "AI" and _is_article(p, text[mark.end(3) :], mark[2], options):
            return None
        hedged = p.ALTERNATIVE_NEXT.match(rest) or p.DOUBT.search(_sentence(p, rest))
        return ("" if hedged else _known(mark[2], options)), statement
    statement = text[mark.end() :].lstrip(" *_:\t\n").partition("\n")[0]
    if denied and not _CLAUSE_BREAK.search(denied[0]):
        return None
    letter = _letter(p, statement, options)
    if letter and p.RETRACTION.search(text[mark.end() : mark.end() + 2 * SHORT]):
        return "", statement
    match = p.LETTER.match(statement)
    if match and not match[1] and _is_article(p, statement[match.end() :], match[2], options):
        match = None
    return (letter, statement) if letter or p.NO_OPTION.match(statement) or match else None


def _named_last(p: SimpleNamespace, text: str, options: dict[str, str]) -> tuple[str, str]:
    """(letter, last line) of a text whose last line ends with an option and its letter: `It is a beta blocker (B).`"""
    line = text.strip().rpartition("\n")[2]
    named = p.LETTER_AT_END.search(line[-16:])
    if not named:
        return "", line
    before = line[: line.rindex("(")][-2 * SHORT :]
    option = options.get(named[1], "")
    if not option:
        sure = not options and p.CALLS_IT_BEST.search(before) and not re.search(r"\([A-J]\)", before)
        return (named[1] if sure and not p.DENIAL_BEFORE.search(before) else ""), line
    own = _plain(option) and _plain(before).endswith(_plain(option))
    return (named[1] if own and not p.DENIAL_BEFORE.search(before[: -len(option) - 2]) else ""), line


def _is_article(p: SimpleNamespace, rest: str, letter: str, options: dict[str, str]) -> bool:
    """Whether `A` or `I` is an English word here: a word follows that does not begin the option's own text."""
    if letter not in "AI" or not p.WORD_AFTER_ARTICLE.match(rest):
        return False
    own = _plain(options.get(letter, ""))
    return not (own and _plain(rest[: 2 * len(options[letter]) + 8]).startswith(own))


def _letter(p: SimpleNamespace, statement: str, options: dict[str, str]) -> str:
    """The one option that a statement commits to; empty if it commits to none or to several."""
    said = {_plain(statement), _plain(p.LEADING_ARTICLE.sub("", statement))}
    named = [letter for letter, option in options.items() if _plain(option) and _plain(option) in said]
    if len(named) == 1:
        return named[0]
    if p.SMALL_LETTER_FIRST.match(statement):
        statement = p.SMALL_LETTER.sub(lambda found: found[0].upper(), statement)
    match = p.LETTER.match(statement)
    if not match or p.NO_OPTION.match(statement):
        return ""
    letter, rest = match[2], statement[match.end() :]
    bare = not match[1] and statement[: match.end()].strip() == letter
    if bare and _is_article(p, rest, letter, options):
        return ""
    if letter in options:
        rest = _after_option(rest, options[letter])
    return "" if _hedged(p, rest[: 2 * SHORT]) else _known(letter, options)


def _hedged(p: SimpleNamespace, rest: str) -> bool:
    """Whether the text after a letter denies that letter or names a second one."""
    if p.DENIAL_NEXT.match(rest) or p.DOUBT.search(_sentence(p, rest[:REACH])):
        return True
    if (
        re.match(r"[\s)\]}*]*[.:]?[^.\n]*\?", rest)
        or p.RETRACTION.search(rest)
        or p.LABEL_AT_LINE_START.search(rest.partition("\n")[2])
        or len(set(p.LISTED_LETTER.findall(rest[:REACH]))) > 1
    ):
        return True
    sentence = _sentence(p, rest[:REACH])
    region = p.CLAUSE_START.split(sentence)[0]
    denied = p.DENIAL_LATER.search(re.split(r"[,;]|\b(?:because|since)\b", sentence)[0])
    return bool(p.OTHER_LETTER.search(region) or p.LETTER_NEXT.match(region) or denied or _second(p, rest[: len(sentence) + 6]))


def _second(p: SimpleNamespace, region: str) -> bool:
    """Whether `region` contains another labelled option such as `B. Paris`. `vitamin C. The` is not one."""
    return any(not found["noun"] for found in p.LABELLED_OPTION.finditer(region))


def _sentence(p: SimpleNamespace, rest: str) -> str:
    """The rest of the sentence after an option's letter. A full stop directly after the letter (`B. Paris`) does not end it."""
    first = re.match(r"[\s)\]}*_\"']*[.:]\s*", rest)
    skip = first.end() if first and not p.NEW_SENTENCE_NEXT.match(rest) else 0
    end = p.SENTENCE_END.search(rest, skip)
    return rest[: end.start()] if end else rest


def _known(letter: str, options: dict[str, str]) -> str:
    """The letter if it is one of the options, or if there are no options to compare with; else empty."""
    return letter if not options or letter in options else ""


def _after_option(rest: str, option: str) -> str:
    """`rest` without the option's own text at its start, so that words of the option are not read as a hedge."""
    wanted, seen = _plain(option), ""
    if not wanted or not _plain(rest).startswith(wanted):
        return rest
    for i, char in enumerate(rest):
        seen += _plain(char)
        if seen == wanted:
            return rest[i + 1 :]
    return ""


def _plain(text: str) -> str:
    """A text in the form in which options are compared: lower-case letters, digits and the signs %, <, >, =, +."""
    return re.sub(r"\\[a-z]+|[^a-z0-9%<>=+]", "", text.lower())
