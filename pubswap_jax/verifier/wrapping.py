"""Words and marks around an answer: quotes, labels, sentences, currency codes; and numbers written as words."""

import re

from pubswap_jax.verifier.braces import closing
from pubswap_jax.verifier.pattern import Pattern

_ANSWER_LABEL = Pattern(
    r"(?:the\s+)?(?:(?:final|correct|total|whole|exact)\s+)*(?:answer|solution|result|total|value|sum|area|volume|probability|length"
    r"|remainder|quotient|percentage)"
    r"\s*(?::|=|\bis\b:?|\bequals\b)\s*",
    re.IGNORECASE,
    matches=["The final answer is 5", "Area: 5", "solution = 5", "The value equals 5"],
    not_=["the area 5", "x = 5", "Height: 5"],
    by=re.Pattern.match,
)
_SENTENCE_BEFORE_VALUE = Pattern(
    r"\\text\{\s*(?:The|So|Thus|Therefore|Hence)\b[^{}]*\}(?:(?!\bnot\b).)*\\text\{(?:(?!\bnot\b)[^{}])*\b(?:is|equals):?\s*\}\s*(?=\S)",
    matches=[r"\text{The sum of } 2 \text{ and } 3 \text{ is } 5"],
    not_=[r"\text{The sum } 5", r"\text{The } x \text{ is not } 5"],
    by=re.Pattern.match,
)
_NEGATIVE_WORD = Pattern(
    r"(?:\\text\{\s*)?\b(?:negative|minus)\s*\}?\s*(?=[0-9.\\])",
    re.IGNORECASE,
    matches=["negative 5", r"\text{minus }5", r"Minus \frac12"],
    not_=["5 minus 3", "negative x"],
    by=re.Pattern.match,
)
_CURRENCY_CODE = Pattern(
    r"(?:\\text\{\s*)?\b(?:USD|EUR|GBP|INR|CNY|RMB|US|Rs)\b\.?\s*\}?\s*(?=[0-9.\\$])",
    matches=["USD 5", r"\text{Rs. }5", r"US\$5"],
    not_=["5 USD", "USD x", "US x"],
    by=re.Pattern.match,
)
_ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: str(number) for number, word in enumerate(["zero", *_ONES.split(), "seventeen", "eighteen", "nineteen"])} | {
    ten + (joint + one if one else ""): str(10 * tens + ones)
    for tens, ten in enumerate(_TENS.split(), 2)
    for ones, one in enumerate(["", *_ONES.split()[:9]])
    for joint in "- "
}


def unwrapped(text: str) -> str:
    """Removes marks and labels around an answer, and reads a number word: `**15**`, `\\text{Answer: }15`, `fifteen`."""
    for mark in ("**", '"', "`", "'"):
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark) and text.count(mark) == 2:
            text = text[len(mark) : -len(mark)].strip()
    if text.startswith(r"\text{") and (end := closing(text, 5)) > 0:
        inside, rest = text[6:end].strip(), text[end + 1 :].strip()
        if sentence := _SENTENCE_BEFORE_VALUE.match(text):
            return text[sentence.end() :]
        if rest and _ANSWER_LABEL.fullmatch(inside):
            return rest
        if not rest and (label := _ANSWER_LABEL.match(inside)) and label.end() < len(inside):
            return inside[label.end() :].strip()
    elif (label := _ANSWER_LABEL.match(text)) and "=" not in label[0]:
        return text[label.end() :].strip() or text
    if _NEGATIVE_WORD.match(text) or _CURRENCY_CODE.match(text):
        return _NEGATIVE_WORD.sub("-", _CURRENCY_CODE.sub("", text, count=1), count=1)
    return _WORDS.get(text.removeprefix(r"\text{").removesuffix("}").strip().lower(), text)
