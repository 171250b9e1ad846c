"""Regular expressions of `choice.py`: how a text states its choice among the options A to J, or A to a later letter."""

import functools
import re
from types import SimpleNamespace

_FIELD = re.compile(
    r"""["']?(?:answer_choice|answer|choice|final_answer)["']\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"?|'((?:[^'\\\n]|\\.)*)'?|([^",}\n]*))"""
)
_ADVERB = (
    r"(?:\s+(?:most\s+likely|likely|probably|definitely|therefore|thus|clearly|still|surely|certainly|indeed|for\s+sure))?"
)
_VERB = r"(?:is|would\s+be|should\s+be|must\s+be|will\s+be)"
_NOUN = r"(?:\s+(?:choice|letter|option))?(?:\s+(?:here|to\s+the\s+question|for\s+this\s+question))?"
# Phrases that introduce an answer. `bare` and `weak` yield to an earlier answer. After `bare`, the letter must end the line.
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
# _SMALL: a lower-case letter alone or before a bracket: `(b)`, `b) beta blocker`. If it matches, _SMALLS finds the other
# lower-case letters: `(a) or b`.
_SMALL = re.compile(rf"{_WRAP}(?:(?i:option|choice|answer|letter)\s*:?\s*{_WRAP})?[a-j](?=\)|[\s\]}}*_.\"'`$]*$)")
_SMALLS = re.compile(r"(?<![A-Za-z0-9'’])(?:[b-j]|a(?=\)|\W*$))(?![A-Za-z0-9'’])")
_LEADING = re.compile(r"(?i)^\s*(?:an?|the)\s+")
_ARTICLE = re.compile(
    r"\s+(?:[0-9]+-[a-z]|(?!(?:is|was|because|since|as|for|and|or|but|would|seems|over|not|nor|vs|versus|to|plus|with|then|however)\b)[a-z])"
)
# After the letter: words that deny the letter, a question mark, or another letter.
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


@functools.cache
def phrases(last: str = "J") -> SimpleNamespace:
    """All patterns by name, as in `phrases().MARK`. The options go from A to `last`, and at least to J."""
    found = {name[1:]: pattern for name, pattern in globals().items() if isinstance(pattern, re.Pattern)}
    if last > "J":
        found = {name: re.compile(_widened(pattern.pattern, last), pattern.flags) for name, pattern in found.items()}
    return SimpleNamespace(**found)


def _widened(pattern: str, last: str) -> str:
    for first in "ABab":
        end = "J" if first.isupper() else "j"
        pattern = pattern.replace(f"{first}-{end}", f"{first}-{last if first.isupper() else last.lower()}")
    return pattern
