"""Words around a value in a sentence: verbs, hedges, denials, asides, operations. Used by `statement.py` and `last_value.py`.

A name that ends in NEXT is matched at the start of the text after a value. Names that end in BEFORE are searched in the text
before a value.
"""

import re

from pubswap_jax.verifier.pattern import Pattern

VERB = Pattern(
    r"\s*\b(?:is|are|equals|be|was)\b:?\s*", matches=["it is: 5", "x equals 5", "was"], not_=["this", "areas", "has"]
)
# A statement that starts with these words names no single value: a denial, a bound, a choice between values.
HEDGE = Pattern(
    r"(?i)(?:\w+ly\s+)?(?:not|either|neither|none|never|cannot|can't|between|unknown|unclear|undefined|one of|at least|at most"
    r"|(?:more|less|greater|bigger|larger|smaller|fewer|higher|lower)\s+than|above|below|over|under|up to|no)\b",
    matches=["not 5", "at least 5", "more than 5", "clearly not 5", "no 5", "between 1 and 2"],
    not_=["5 or not", "nothing", "5"],
    by=re.Pattern.match,
)
# Words that apply an operation to the next number, so that this number is not the value: `half of 12`.
OPERATION_BEFORE = Pattern(
    r"(?i)\b(?:twice|thrice|double|triple|(?:half|third|quarter|square|cube|reciprocal|inverse|opposite|logarithm|factorial|root)\s+of"
    r"|log|ln|sqrt|adding|multiplying|dividing|subtracting)\s*(?:[a-z]+\s+){0,2}$",
    matches=["twice ", "half of ", "the square of the ", "log ", "adding "],
    not_=["half ", "catalog ", "twice a big red old "],
)
# Text that applies an operation to the preceding number: `12 squared`, `12 + x`.
OPERATION_NEXT = Pattern(
    r"[\s,]*(?:\\text\{\s*)?(?:(?:hundred|thousand|million|billion|trillion|dozen|or|but|squared|cubed|factorial|plus|minus|divided"
    r"|multiplied|mod(?:ulo)?|(?:more|less|fewer)\s+than|hal(?:f|ves)|thirds?|fourths?|fifths?|tenths?|hundredths?|below\s+zero)\b"
    r"|times\s+(?:the|as|[0-9x])|(?:over|choose)\s+[0-9a-z]\b|to\s+the\s+(?:\w+\s+)?power|and\s+a\s+(?:half|third|quarter)\b"
    r"|if\b[^.\n]*\b(?:else|otherwise)\b)"
    r"|\s*(?:[*/+×÷-]\s*(?:[0-9(\\]|[a-z]\b)|[\^√π]|\\(?:cdot|times|pi|sqrt|frac)|(?:sqrt|pi|log|ln)\b)|(?-i:[xyzijknab](?![A-Za-z0-9]))",
    re.IGNORECASE,
    matches=[" squared", " million", "/4", " + 5", " times the", "x", r"\cdot 3", " and a half", "^2", r" \text{ more than"],
    not_=[" apples", ".", " x y", " and a dog", " times"],
    by=re.Pattern.match,
)
# The beginning of a reason or of a rejected alternative: `5 because ...`, `6, not 5`.
ASIDE = Pattern(
    r"(?i)[\s,(]*\b(?:because|since|rather\s+than|instead\s+of|whereas|although|compared|namely|i\.e\.|not)\b",
    matches=[" because x", ", rather than 5", " (since x", " not 5"],
    not_=["5 because x", "notable", " becauseof"],
    by=re.Pattern.match,
)
# A denial before a value: `it cannot be 5`.
NOT_BE = Pattern(
    r"(?i)(?:\b(?:not|never|cannot)|n['’]t)\s+(?:\w+\s+)?be\s+$",
    matches=["cannot be ", "not really be ", "can't be "],
    not_=["be ", "not be so", "not be"],
)


def no_prose(line: str) -> bool:
    """Whether a line is mathematics, or a single word, and not a sentence."""
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", line)
    if VERB.search(line):
        return False
    return not words or len(words) == 1 == len(line.split()) or all(w in ("sqrt", "and", "pct", "percent") for w in words)
