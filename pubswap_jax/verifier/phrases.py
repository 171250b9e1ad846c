"""Regular expressions of `choice.py`: how a text states its choice among the options A to J, or A to a later letter.

A name that ends in NEXT is matched at the start of the text that follows a letter. Names that end in BEFORE are searched in the
text before a letter.
"""

import functools
import re
from types import SimpleNamespace

from pubswap_jax.verifier.pattern import Pattern

JSON_FIELD = Pattern(
    r"""["']?(?:answer_choice|answer|choice|final_answer)["']\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"?|'((?:[^'\\\n]|\\.)*)'?|([^",}\n]*))""",
    matches=['{"answer_choice": "B"}', "{'answer': 'C', 'why'", '"choice": B}'],
    not_=["answer: B", '"question": "B"'],
)
_ADVERB = (
    r"(?:\s+(?:most\s+likely|likely|probably|definitely|therefore|thus|clearly|still|surely|certainly|indeed|for\s+sure))?"
)
_VERB = r"(?:is|would\s+be|should\s+be|must\s+be|will\s+be)"
_NOUN = r"(?:\s+(?:choice|letter|option))?(?:\s+(?:here|to\s+the\s+question|for\s+this\s+question))?"
# Phrases that introduce an answer. `bare` and `weak` yield to an earlier answer. After `bare`, the letter must end the line.
INTRODUCTION = Pattern(
    rf"####|(?i:\banswer{_NOUN}(?:\s+{_VERB})?{_ADVERB}\s*[:=-]?"
    rf"|\b(?:choice|option|letter){_NOUN}(?:\s+{_VERB}{_ADVERB}\s*[:=-]?|\s*[:=](?!\s*\(?[A-J]\)?\s*:))"
    r"|\b(?:choose|select|pick|go\s+(?:with|for)))|(?:答案|正确选项)\s*(?:应该|应)?(?:是|为|:|=)\s*:?"
    rf"|(?P<bare>(?i:\b(?:choice|option|so|hence|thus|therefore)\b,?\s)(?=\W{{0,4}}[A-J]\W{{0,4}}(?:\n|$)))"
    rf"|(?P<weak>(?i:\bit(?:['’]s|\s+(?:is|must\s+be|should\s+be)){_ADVERB}))",
    matches=["The answer is B", "the correct option: C", "We choose B", "#### B", "正确选项是B", "so B.", "it must be D"],
    not_=["B and C differ", "unanswered", "so Bob", "option A: Paris"],
)
_GAP = r"(?:(?!\b(?:so|hence|thus|therefore)\b|[ (][A-J]\)? (?:is|seems|must|would|fits)\b)[^.\n]){0,120}"
LETTER_IS_CORRECT = Pattern(
    rf"(?<![A-Za-z0-9'’/&,])(\(?)([A-J])(\)?)((?:[.:]?\s{_GAP})?)"
    r"\s(?:(?:is|would be|must be|seems)\s+(?:to be\s+)?(?:the\s+)?(?i:correct|right|best|answer|most likely)|fits\s+best)",
    matches=["B is correct", "(C) Rome is the best", "D fits best", "A must be right"],
    not_=["B is wrong", "He is right", "B. so this is right", "vitaminB is correct"],
)
_WRAP = r"[\s\"'`({\[*_$]*(?:\\[(\[]\s*)?(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{[\s({*]*)?"
LETTER = Pattern(
    rf"(?:(?i:so|hence|thus|therefore|then)\b,?\s*)?{_WRAP}((?i:option|choice|answer|letter)\s*:?\s*{_WRAP})?"
    r"([A-J])(?![A-Za-z0-9'’%+^]|-[A-Z]?(?![A-Z][a-z])[a-z]|-[A-Z](?![a-z]))(?!\s+(?:am|do|don|would|have|think)\b)",
    matches=["B", "(B)", "option B", "So, B", r"\text{B}", "[C]"],
    not_=["Beta", "B12", "I am", "A-level", "A's", "C+"],
    by=re.Pattern.match,
)
# A lower-case letter alone or before a bracket: `(b)`, `b) beta blocker`. If a statement starts with one, SMALL_LETTER finds
# the other lower-case letters of that statement: `(a) or b`.
SMALL_LETTER_FIRST = Pattern(
    rf"{_WRAP}(?:(?i:option|choice|answer|letter)\s*:?\s*{_WRAP})?[a-j](?=\)|[\s\]}}*_.\"'`$]*$)",
    matches=["(b)", "b", "option b", "b) beta blocker", "*b*."],
    not_=["beta", "b blocker", "k"],
    by=re.Pattern.match,
)
SMALL_LETTER = Pattern(
    r"(?<![A-Za-z0-9'’])(?:[b-j]|a(?=\)|\W*$))(?![A-Za-z0-9'’])",
    matches=["b", "(a)", "or c", "a."],
    not_=["a cat", "ab", "b12"],
)
LEADING_ARTICLE = Pattern(
    r"(?i)^\s*(?:an?|the)\s+", matches=["the answer", "a cat", " An apple"], not_=["then", "cat", "in a"], by=re.Pattern.match
)
WORD_AFTER_ARTICLE = Pattern(
    r"\s+(?:[0-9]+-[a-z]|(?!(?:is|was|because|since|as|for|and|or|but|would|seems|over|not|nor|vs|versus|to|plus|with|then|however)\b)[a-z])",
    matches=[" cat", " 12-lead"],
    not_=[" is", " because", " Cat", "."],
    by=re.Pattern.match,
)
# Words or a question mark that deny the letter before them.
DENIAL_NEXT = Pattern(
    r"[\s)\]}*\"':,(.-]*(?:\?|[✗✘❌×]|(?:(?:is|was|would be|seems)\s+)(?:\w+ly\s+)?(?:not|wrong|incorrect|false|unlikely|out)\b"
    r"|(?:is|was)n['’]t\b|[^.\n]{0,25}\b(?:excluded|eliminated|ruled\s+out|rejected|discarded)\b)|[\s)\]}*\"':,(-]*(?:wrong|incorrect|not\s+correct|no\b(?=\s*(?:[,.;\n]|$)))",
    matches=[" is wrong", "?", ": incorrect", ") isn't", " ✗", " can be ruled out", " no."],
    not_=[" is right", " now"],
    by=re.Pattern.match,
)
LETTER_NEXT = Pattern(
    r"[\s)\]}*_\"'.,]*[A-J](?=[\s.,)]*$|\s+[A-J]\b)",
    matches=[", C", ") D.", " B C"],
    not_=[" Cat", ", C4", " and C"],
    by=re.Pattern.match,
)
ALTERNATIVE_NEXT = Pattern(
    r"[\s,]*(?:\b(?:or|and|but)\b(?:\s+so\s+is)?|[/&])\s*\(?[A-J](?![A-Za-z0-9'’])",
    matches=[" or C", "/C", ", and (D)", " and so is B", " & D"],
    not_=[" or Cat", " C", " or c"],
    by=re.Pattern.match,
)
LABEL_AT_LINE_START = Pattern(
    r"^\s*(?:(?:Option|Choice)\s+)?\(?[A-J]\s*(?:[):]|\.\s+(?=[A-Z0-9(])|$)",
    re.MULTILINE,
    matches=["B) text", "Option C:", "so\n(D) x", "A. Paris"],
    not_=["But", "is B) so", "B. paris"],
)
_NOUN_BEFORE = r"(?i:vitamin|hepatitis|type|group|class|stage|factor|protein|influenza|schedule|grade)"
LABELLED_OPTION = Pattern(
    rf"(?P<noun>\b{_NOUN_BEFORE}\s+)?(?<![A-Za-z0-9'’])[A-J][.)]\s+[A-Z0-9]",
    matches=["C. Rome", "vitamin C. The", "D) 12"],
    not_=["C. rome", "C Rome", "BC. Rome"],
)
DENIAL_LATER = Pattern(
    r"(?<![\s(][A-J])\s(?:is|are|was)\s+(?:\w+ly\s+)?(?:incorrect|wrong|not\s+(?:correct|right|the\s+(?:answer|best|correct|right)))\b",
    matches=["London is wrong", "they are clearly incorrect", "this is not the best"],
    not_=[" A is wrong", "London is right"],
)
BEFORE_A_CLAIM = Pattern(
    r"(?i)(?:^|[^A-Za-z\s]\s*|\b(?:option|choice|answer|letter|so|therefore|thus|hence|that|and|but|think|believe|say|then|is|clearly|conclude"
    r"|because|since|as|only|statement|see|now)\s+)[\"'(*]*$",
    matches=["so ", "I think ", "", "Rome. ", "Option (", "therefore "],
    not_=["vitamin ", "hepatitis ", "type "],
)
LISTED_LETTER = Pattern(r"(?:^|[\s(])([A-J])[.):](?=\s|$)", matches=["B. x", "(C) x", "A: x"], not_=["B12. ", "AB. x", "B.x"])
CLAUSE_START = Pattern(
    r"(?i)\b(?:not(?!\s+(?:sure|certain))|can't|cannot|isn't|aren't|rather|instead|because|since|(?<!well\s)as(?!\s+well)|while|whereas|which"
    r"|(?:al)?though|unlike|over|than|whilst|and\s+[A-J]\s+is)\b",
    matches=[" because", ", not B", " rather than C", " as it", " and C is"],
    not_=[" not sure", " as well", " well as", "class"],
)
SENTENCE_END = Pattern(
    r"[.!]\s+(?!(?:No|Wait|Actually|Or|But|Maybe|Perhaps|However|Hmm|Correction|Sorry|Rather|Option|Choice)\b)"
    r"(?=[A-Z][a-z]|[A-J]\s+(?:is|was)\s|I\s+[a-z])|\n\s*\n?(?=[A-Z][a-z])|[.!]\s+(?=(?:Option|Choice)\s)",
    matches=[". The", "! Rome", ". C is x", "\n\nRome", ". Option B"],
    not_=[". No wait", ". the", "e.g. x"],
)
NEW_SENTENCE_NEXT = Pattern(
    r"[\s)\]}*_\"']*[.!]\s+(?:(?:Explanation|Reason|Rationale|Note|This|It|Because|Since|Here|Option|Choice|The\s+(?:other|rest)|I)\b"
    r"|[A-J]\s+(?:is|was)\s)",
    matches=[". Explanation", ". B is so", "). The other", "! It"],
    not_=[". Paris", " Explanation", ". B and"],
    by=re.Pattern.match,
)
_BETWEEN = (
    r"(?:\b(?:or|and|vs\.?|versus|to|plus|no|nope|wait|maybe|possibly|perhaps|actually|then|however|also|both|even|either|be|is"
    r"|option|choice|answer|nor|with|well\s+as|but|alternatively)\b|[^\sA-Za-z0-9'’]|^)"
)
OTHER_LETTER = Pattern(
    rf"(?i:{_BETWEEN})\s*\(?(?<![A-Za-z0-9'’])([A-J])(?![A-Za-z0-9'’-])(?!(?<=[AI])\s+[a-z])"
    r"(?!\s+(?:is|was|are)\s+(?!(?:also|equally|both|just|possible|plausible|right|correct|better|best|the\s+(?:right|correct|best))\b))",
    matches=["or C", ", C", "maybe (D)", "and B", "vs. E"],
    not_=["or Cat", "or A cat", "vitamin C", ", C is wrong", "or C-x"],
)
DOUBT = Pattern(
    r"(?i:\bnot\s+(?:sure|certain)\b|\bunsure\b|\bno\s+idea\b|\bor\s+(?:none|neither)\b)"
    r"|(?<![A-Za-z0-9'’])[A-J]\s+(?:(?i:could|might|may)\s+(?:also|be)\b|(?:is|are)\s+(?i:also|equally|just as|both)\b)"
    r"|(?i:\b(?:could|might|may|can)\s+(?:also\s+)?be\b)[^.\n]{0,40}?(?<![A-Za-z0-9'’])\(?[A-J](?![A-Za-z0-9'’])",
    matches=["not sure", "C could be", "no idea", "B is also", "might be D", "or none"],
    not_=["sure", "could it be", "B is"],
)
RETRACTION = Pattern(
    r"(?:[.\n!?]\s*|^)(?i:no,?\s+wait|wait|actually|correction|scratch\s+that|hmm|sorry|alternatively)\b[^.\n]{0,60}?(?<![A-Za-z0-9'’])\(?(?:[B-J](?=[\s.,;:!)*]|$)|A(?=[.,;:!)*]|$))",
    matches=["Wait, C.", ". Actually it is (D)", "! No wait, B"],
    not_=["Wait, cats", "await C.", "Wait. Then C."],
)
DENIAL_BEFORE = Pattern(
    r"(?i:\b(?:not|never|nor|neither|cannot|avoid|unlikely|doubt|hardly|wrong|incorrect|reject|exclude|eliminate|discard|rule\s+out)\b|n['’]t\b)[^.\n]*$",
    matches=["not ", "I doubt ", "isn't ", "never say "],
    not_=["not. ", "knot ", "note "],
)
NO_OPTION = Pattern(
    r"[\s\"'`({\[*_]*(?:\\text\{)?(?i:none|neither|either|both|cannot|can't|can not|could not|unable|unknown|anything|other|"
    r"(?:\w+ly\s+)?not\b|no\b|nor\b|unclear|undetermined|impossible|insufficient|all of|all but|any of|I don|I do not|I am)",
    matches=["none of them", "Neither", "(both)", "I don't", "cannot", r"\text{None", "clearly not"],
    not_=["A none", "nothing", "north"],
    by=re.Pattern.match,
)
CALLS_IT_BEST = Pattern(
    r"(?i)\b(?:most|best|correct|right|answer)\b.*\s(?:is|are|be)\s",
    matches=["the best choice is B", "the right drugs are x", "Most likely it is x"],
    not_=["the choice is B", "it is best"],
)
IS_CORRECT_NEXT = Pattern(
    r"[\s.\"')*]*\s(?:is|would\s+be|seems)\s+(?:the\s+)?(?:correct|right|best|most\s+likely)\b[^.\n]{0,30}[.!*\s]*$",
    matches=[" is correct.", ". would be the best one", " seems right"],
    not_=[" is wrong.", "is correct", " is not correct"],
    by=re.Pattern.fullmatch,
)
CORRECTION = Pattern(
    r"(?i)\b(?:no|wait|actually|correction|sorry|hmm|scratch that)\b[^\n]{0,40}$",
    matches=["wait, ", "no, it is ", "Scratch that: "],
    not_=["await", "wait\nso", "know "],
)
LETTER_AT_END = Pattern(
    r"\(([A-J])\)[\s.*]*$", matches=["blocker (B).", "Rome (C)", "(D) **"], not_=["blocker (B) or", "B", "(b)"]
)


@functools.cache
def phrases(last: str = "J") -> SimpleNamespace:
    """All compiled patterns by name, as in `phrases().LETTER`, for options from A to `last`, at least to J."""
    found = {name: pattern.compiled for name, pattern in globals().items() if isinstance(pattern, Pattern)}
    if last > "J":
        found = {name: re.compile(_widened(pattern.pattern, last), pattern.flags) for name, pattern in found.items()}
    return SimpleNamespace(**found)


def _widened(pattern: str, last: str) -> str:
    """The regular expression with the ranges A-J and B-J, also in lower case, extended to `last`."""
    for first in "ABab":
        end = "J" if first.isupper() else "j"
        pattern = pattern.replace(f"{first}-{end}", f"{first}-{last if first.isupper() else last.lower()}")
    return pattern
