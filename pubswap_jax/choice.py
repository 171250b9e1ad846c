"""Multiple choice: right only where the final statement commits to exactly one option, and that is the gold.

A statement is a box, an `answer_choice` field, a sentence such as "the answer is (B)" or "B is correct", or a short text as a
whole. The last one counts, and what merely speaks of an option ("Option C is wrong") is none. A hedge ("A/B", "none of the
above", "B or C", "B. No wait, C") commits to nothing, even where it names the gold.
"""

import re

from pubswap_jax.answers import last_box
from pubswap_jax.notation import folded

TAIL = 16384
SHORT = 300  # characters of a text that may be a statement as a whole
REACH = 160  # characters behind a letter in which a hedge is looked for

_FIELD = re.compile(
    r"""["']?(?:answer_choice|answer|choice|final_answer)["']\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"?|'((?:[^'\\\n]|\\.)*)'?|([^",}\n]*))"""
)
_ADVERB = (
    r"(?:\s+(?:most\s+likely|likely|probably|definitely|therefore|thus|clearly|still|surely|certainly|indeed|for\s+sure))?"
)
_VERB = r"(?:is|would\s+be|should\s+be|must\s+be|will\s+be)"
_NOUN = r"(?:\s+(?:choice|letter|option))?(?:\s+(?:here|to\s+the\s+question|for\s+this\s+question))?"
# Statements of an answer. `bare` and `weak` give way to an answer before them; behind `bare` the letter must end the line.
_MARK = re.compile(
    rf"####|(?i:\banswer{_NOUN}(?:\s+{_VERB})?{_ADVERB}\s*[:=-]?"
    rf"|\b(?:choice|option|letter){_NOUN}(?:\s+{_VERB}{_ADVERB}\s*[:=-]?|\s*[:=](?!\s*\(?[A-J]\)?\s*:))"
    r"|\b(?:choose|select|pick|go\s+(?:with|for)))|(?:答案|正确选项)\s*(?:应该|应)?(?:是|为|:|=)\s*:?"
    rf"|(?P<bare>(?i:\b(?:choice|option|so|hence|thus|therefore)\b,?\s)(?=\W{{0,4}}[A-J]\W{{0,4}}(?:\n|$)))"
    rf"|(?P<weak>(?i:\bit(?:['’]s|\s+(?:is|must\s+be|should\s+be)){_ADVERB}))"
)
_GAP = r"(?:(?!\b(?:so|hence|thus|therefore)\b|[ (][A-J]\)? (?:is|seems|must|would|fits)\b)[^.\n]){0,120}"
_REVERSED = re.compile(
    rf"(?<![A-Za-z0-9'’/&,])(\(?)([A-J])(\)?)((?:[.:]?\s{_GAP})?)"
    r"\s(?:(?:is|would be|must be|seems)\s+(?:to be\s+)?(?:the\s+)?(?i:correct|right|best|answer|most likely)|fits\s+best)"
)
_WRAP = r"[\s\"'`({\[*_$]*(?:\\[(\[]\s*)?(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{[\s({*]*)?"
_LETTER = re.compile(
    rf"(?:(?i:so|hence|thus|therefore|then)\b,?\s*)?{_WRAP}((?i:option|choice|answer|letter)\s*:?\s*{_WRAP})?"
    r"([A-J])(?![A-Za-z0-9'’%+^]|-[A-Z]?(?![A-Z][a-z])[a-z]|-[A-Z](?![a-z]))(?!\s+(?:am|do|don|would|have|think)\b)"
)
# A small letter alone, or before a bracket: `(b)`, `b) beta blocker`. Then the others beside it count too: `(a) or b`
_SMALL = re.compile(rf"{_WRAP}(?:(?i:option|choice|answer|letter)\s*:?\s*{_WRAP})?[a-j](?=\)|[\s\]}}*_.\"'`$]*$)")
_SMALLS = re.compile(r"(?<![A-Za-z0-9'’])(?:[b-j]|a(?=\)|\W*$))(?![A-Za-z0-9'’])")
_LEADING = re.compile(r"(?i)^\s*(?:an?|the)\s+")
_ARTICLE = re.compile(
    r"\s+(?:[0-9]+-[a-z]|(?!(?:is|was|because|since|as|for|and|or|but|would|seems|over|not|nor|vs|versus|to|plus|with|then|however)\b)[a-z])"
)
# Behind the letter: words that deny it, a question mark, another letter
_DENIED = re.compile(
    r"[\s)\]}*\"':,(.-]*(?:\?|[✗✘❌×]|(?:(?:is|was|would be|seems)\s+)(?:\w+ly\s+)?(?:not|wrong|incorrect|false|unlikely|out)\b"
    r"|(?:is|was)n['’]t\b|[^.\n]{0,25}\b(?:excluded|eliminated|ruled\s+out|rejected|discarded)\b)|[\s)\]}*\"':,(-]*(?:wrong|incorrect|not\s+correct|no\b(?=\s*(?:[,.;\n]|$)))"
)
_NEXT = re.compile(r"[\s)\]}*_\"'.,]*[A-J](?=[\s.,)]*$|\s+[A-J]\b)")
_TOO = re.compile(r"[\s,]*(?:\b(?:or|and|but)\b(?:\s+so\s+is)?|[/&])\s*\(?[A-J](?![A-Za-z0-9'’])")
_LABEL = re.compile(r"^\s*(?:(?:Option|Choice)\s+)?\(?[A-J]\s*(?:[):]|\.\s+(?=[A-Z0-9(])|$)", re.MULTILINE)
_NOUN_BEFORE = r"(?i:vitamin|hepatitis|type|group|class|stage|factor|protein|influenza|schedule|grade)"
_SECOND = re.compile(rf"(?P<noun>\b{_NOUN_BEFORE}\s+)?(?<![A-Za-z0-9'’])[A-J][.)]\s+[A-Z0-9]")
_DENIED_LATER = re.compile(
    r"(?<![\s(][A-J])\s(?:is|are|was)\s+(?:\w+ly\s+)?(?:incorrect|wrong|not\s+(?:correct|right|the\s+(?:answer|best|correct|right)))\b"
)
_SPEAKER = re.compile(
    r"(?i)(?:^|[^A-Za-z\s]\s*|\b(?:option|choice|answer|letter|so|therefore|thus|hence|that|and|but|think|believe|say|then|is|clearly|conclude"
    r"|because|since|as|only|statement|see|now)\s+)[\"'(*]*$"
)
_LISTED = re.compile(r"(?:^|[\s(])([A-J])[.):](?=\s|$)")
_CLAUSE = re.compile(
    r"(?i)\b(?:not(?!\s+(?:sure|certain))|can't|cannot|isn't|aren't|rather|instead|because|since|(?<!well\s)as(?!\s+well)|while|whereas|which"
    r"|(?:al)?though|unlike|over|than|whilst|and\s+[A-J]\s+is)\b"
)
_END = re.compile(
    r"[.!]\s+(?!(?:No|Wait|Actually|Or|But|Maybe|Perhaps|However|Hmm|Correction|Sorry|Rather|Option|Choice)\b)"
    r"(?=[A-Z][a-z]|[A-J]\s+(?:is|was)\s|I\s+[a-z])|\n\s*\n?(?=[A-Z][a-z])|[.!]\s+(?=(?:Option|Choice)\s)"
)
_ANOTHER = re.compile(
    r"[\s)\]}*_\"']*[.!]\s+(?:(?:Explanation|Reason|Rationale|Note|This|It|Because|Since|Here|Option|Choice|The\s+(?:other|rest)|I)\b"
    r"|[A-J]\s+(?:is|was)\s)"
)
_BETWEEN = (
    r"(?:\b(?:or|and|vs\.?|versus|to|plus|no|nope|wait|maybe|possibly|perhaps|actually|then|however|also|both|even|either|be|is"
    r"|option|choice|answer|nor|with|well\s+as|but|alternatively)\b|[^\sA-Za-z0-9'’]|^)"
)
_OTHER = re.compile(
    rf"(?i:{_BETWEEN})\s*\(?(?<![A-Za-z0-9'’])([A-J])(?![A-Za-z0-9'’-])(?!(?<=[AI])\s+[a-z])"
    r"(?!\s+(?:is|was|are)\s+(?!(?:also|equally|both|just|possible|plausible|right|correct|better|best|the\s+(?:right|correct|best))\b))"
)
_UNSURE = re.compile(
    r"(?i:\bnot\s+(?:sure|certain)\b|\bunsure\b|\bno\s+idea\b|\bor\s+(?:none|neither)\b)"
    r"|(?<![A-Za-z0-9'’])[A-J]\s+(?:(?i:could|might|may)\s+(?:also|be)\b|(?:is|are)\s+(?i:also|equally|just as|both)\b)"
    r"|(?i:\b(?:could|might|may|can)\s+(?:also\s+)?be\b)[^.\n]{0,40}?(?<![A-Za-z0-9'’])\(?[A-J](?![A-Za-z0-9'’])"
)
_RETRACTED = re.compile(
    r"(?:[.\n!?]\s*|^)(?i:no,?\s+wait|wait|actually|correction|scratch\s+that|hmm|sorry|alternatively)\b[^.\n]{0,60}?(?<![A-Za-z0-9'’])\(?(?:[B-J](?=[\s.,;:!)*]|$)|A(?=[.,;:!)*]|$))"
)
_BEFORE = re.compile(
    r"(?i:\b(?:not|never|nor|neither|cannot|avoid|unlikely|doubt|hardly|wrong|incorrect|reject|exclude|eliminate|discard|rule\s+out)\b|n['’]t\b)[^.\n]*$"
)
_NONE = re.compile(
    r"[\s\"'`({\[*_]*(?:\\text\{)?(?i:none|neither|either|both|cannot|can't|can not|could not|unable|unknown|anything|other|"
    r"(?:\w+ly\s+)?not\b|no\b|nor\b|unclear|undetermined|impossible|insufficient|all of|all but|any of|I don|I do not|I am)"
)
_LIKELY = re.compile(r"(?i)\b(?:most|best|correct|right|answer)\b.*\s(?:is|are|be)\s")
_RIGHT = re.compile(
    r"[\s.\"')*]*\s(?:is|would\s+be|seems)\s+(?:the\s+)?(?:correct|right|best|most\s+likely)\b[^.\n]{0,30}[.!*\s]*$"
)
_TAKES_BACK = re.compile(r"(?i)\b(?:no|wait|actually|correction|sorry|hmm|scratch that)\b[^\n]{0,40}$")
_NAMED = re.compile(r"\(([A-J])\)[\s.*]*$")


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
        return _letter(folded(box), options), box
    text = folded(text[-TAIL:])
    if fields := list(_FIELD.finditer(text)):
        value = next((group for group in fields[-1].groups() if group is not None), "")
        return _letter(value, options), value
    short = text.strip()
    if len(short) <= SHORT and (start := _LETTER.match(short)) and start[2] in options:
        behind = _after_option(short[start.end() :], options[start[2]])
        if behind != short[start.end() :] and _RIGHT.fullmatch(behind):  # "A. Vitamin B is the correct answer"
            return start[2], text
    alone = len(short) <= SHORT and not _REVERSED.search(short) and all(mark["weak"] for mark in _MARK.finditer(short))
    if alone and (letter := _letter(short, options)):
        return letter, text
    return _last_sentence(text, options)


def _last_sentence(text: str, options: dict[str, str]) -> tuple[str, str]:
    """The last sentence that names an option as the answer, or declines to."""
    marks = [*_MARK.finditer(text), *_REVERSED.finditer(text)]
    marks = sorted(marks, key=lambda mark: mark.start() if mark.re is _REVERSED else mark.end())[-64:]
    weak, taken_back = None, False  # "it is C" counts only where no answer stands before, or where that is taken back
    for mark in reversed(marks):
        found = _stated(text, mark, options)
        if found and (mark.re is _REVERSED or not (mark["weak"] or mark["bare"])):
            return weak if weak and taken_back else found
        if found and found[0] and weak is None:
            weak = found
            taken_back = bool(_TAKES_BACK.search(text[max(0, mark.start() - 60) : mark.start()]))
    return weak or _named_last(text, options)


def _stated(text: str, mark: re.Match, options: dict[str, str]) -> tuple[str, str] | None:
    """(letter or nothing, statement) of one mark; None where it states nothing, or denies."""
    denied = _BEFORE.search(text[max(0, mark.start() - 40) : mark.start()])
    if mark.re is _REVERSED:
        statement = text[mark.start() :].partition("\n")[0]
        rest = text[mark.end() : mark.end() + REACH]
        question = re.match(r"[^.\n!]*\?", rest)
        if denied and re.search(r"(?i)\b(?:so|hence|thus|therefore|but)\b|[,;:]", denied[0]):
            denied = None  # A and C are not; B is correct
        spoken = _SPEAKER.search(text[max(0, mark.start() - 24) : mark.start()])
        if re.search(r"(?i)\bnot?\b|neither|nor|n['’]t|hardly", mark[0]) or denied or question or not spoken:
            return None
        bare = not mark[1] and not mark[3]
        if bare and mark[2] in "AI" and _is_article(text[mark.end(3) :], mark[2], options):
            return None
        hedged = _TOO.match(rest) or _UNSURE.search(_sentence(rest))
        return ("" if hedged else _known(mark[2], options)), statement
    statement = text[mark.end() :].lstrip(" *_:\t\n").partition("\n")[0]
    if denied and not re.search(r"[,;]|\b(?:so|hence|thus|therefore|but)\b", denied[0]):
        return None
    letter = _letter(statement, options)
    if letter and _RETRACTED.search(text[mark.end() : mark.end() + 2 * SHORT]):
        return "", statement
    match = _LETTER.match(statement)
    if match and not match[1] and _is_article(statement[match.end() :], match[2], options):
        match = None
    return (letter, statement) if letter or _NONE.match(statement) or match else None


def _named_last(text: str, options: dict[str, str]) -> tuple[str, str]:
    """`The best drug is a beta blocker (B).`: the last line ends with an option's text and its letter."""
    line = text.strip().rpartition("\n")[2]
    named = _NAMED.search(line[-16:])
    if not named:
        return "", line
    before = line[: line.rindex("(")][-2 * SHORT :]
    option = options.get(named[1], "")
    if not option:
        sure = not options and _LIKELY.search(before) and not re.search(r"\([A-J]\)", before)
        return (named[1] if sure and not _BEFORE.search(before) else ""), line
    own = _plain(option) and _plain(before).endswith(_plain(option))
    return (named[1] if own and not _BEFORE.search(before[: -len(option) - 2]) else ""), line


def _is_article(rest: str, letter: str, options: dict[str, str]) -> bool:
    """Whether `A` or `I` is a word of English here: a word follows that is not the option's own text."""
    if letter not in "AI" or not _ARTICLE.match(rest):
        return False
    own = _plain(options.get(letter, ""))
    return not (own and _plain(rest[: 2 * len(options[letter]) + 8]).startswith(own))


def _letter(statement: str, options: dict[str, str]) -> str:
    """The one option that a statement commits to; empty where there is none or several."""
    said = {_plain(statement), _plain(_LEADING.sub("", statement))}
    named = [letter for letter, option in options.items() if _plain(option) and _plain(option) in said]
    if len(named) == 1:
        return named[0]
    if _SMALL.match(statement):
        statement = _SMALLS.sub(lambda found: found[0].upper(), statement)
    match = _LETTER.match(statement)
    if not match or _NONE.match(statement):
        return ""
    letter, rest = match[2], statement[match.end() :]
    bare = not match[1] and statement[: match.end()].strip() == letter
    if bare and _is_article(rest, letter, options):
        return ""
    if letter in options:
        rest = _after_option(rest, options[letter])
    return "" if _hedged(rest[: 2 * SHORT]) else _known(letter, options)


def _hedged(rest: str) -> bool:
    """Whether what follows a letter denies it or names another one beside it."""
    if _DENIED.match(rest) or _UNSURE.search(_sentence(rest[:REACH])):
        return True
    if (
        re.match(r"[\s)\]}*]*[.:]?[^.\n]*\?", rest)
        or _RETRACTED.search(rest)
        or _LABEL.search(rest.partition("\n")[2])
        or len(set(_LISTED.findall(rest[:REACH]))) > 1
    ):
        return True
    sentence = _sentence(rest[:REACH])
    region = _CLAUSE.split(sentence)[0]
    denied = _DENIED_LATER.search(re.split(r"[,;]|\b(?:because|since)\b", sentence)[0])
    return bool(_OTHER.search(region) or _NEXT.match(region) or denied or _second(rest[: len(sentence) + 6]))


def _second(region: str) -> bool:
    """A second labelled option, `B. Paris`, behind the first; `vitamin C. The` is none."""
    return any(not found["noun"] for found in _SECOND.finditer(region))


def _sentence(rest: str) -> str:
    """The sentence that goes on behind a letter, its own full stop (`B. Paris`) included."""
    first = re.match(r"[\s)\]}*_\"']*[.:]\s*", rest)
    skip = first.end() if first and not _ANOTHER.match(rest) else 0
    end = _END.search(rest, skip)
    return rest[: end.start()] if end else rest


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
