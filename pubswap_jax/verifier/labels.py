"""Names in front of an answer: an unknown (`x=5`), a function value (`f(-1)=5`), a measure (`|S|=5`), a point (`P(1,2)`)."""

import re

from pubswap_jax.verifier.braces import closing
from pubswap_jax.verifier.pattern import Pattern

_LETTER = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|Delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|ell"
    r"|angle|triangle|Pr|max|min|deg|overline|vec|hat|mathbf|mathbb))"
)
_NAME = Pattern(
    rf"(?:\\text\{{[^{{}}0-9]*\}}|{_LETTER}|_(?:[A-Za-z0-9]|\{{[A-Za-z0-9, \\]*\}})|[/:'{{}} ]|\\frac"
    r"|\([A-Za-z0-9, ]*\)|\^\{?(?:\\prime|-1)\}?)+",
    matches=["x", "x_1", "f(x)", r"\text{Area}", r"\angle ABC", "f^{-1}(x)", r"\frac{NO}{BO}"],
    not_=["2x", "x+y", "x^2", r"\sqrt{x}", r"\text{Area 2}"],
    by=re.Pattern.fullmatch,
)
_FUNCTION = Pattern(
    r"(?:[fghFGHPENn]|\\(?:phi|psi|Pr|varphi)|\\text\{ ?[A-Za-z]+ ?\})'{0,3}(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9, ]*\}))?\s*\(",
    matches=["f(", "P(X=1)", r"\Pr (", "f''_{1}(x)", r"\text{ gcd }("],
    not_=["x(", "f", "af(", "ab("],
    by=re.Pattern.match,
)
_SETS = Pattern(r"\\c[au]p(?![A-Za-z])|[A-Z]", matches=[r"A \cup B", "X", r"\cap b"], not_=[r"\cups", "n+1", r"\cot"])
_MEASURE = Pattern(
    r"\|[A-Z][A-Za-z]?(?:\s*\\c[au]p\s*[A-Z])*\||\[[A-Z]{3,}\]",
    matches=["|S|", "|AB|", r"|A \cup B|", "[ABC]"],
    not_=["|x|", "[AB]", "|S|+1"],
    by=re.Pattern.fullmatch,
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_POINT = re.compile(r"[A-Z]'?\s*(?=\()")


def is_name(text: str) -> bool:
    """Whether a text names a value: `x`, `f(x)`, `f(-1)`, `P(X=1)`, `|S|`, `[ABC]`, `\\text{Area}`, `V_1:V_2`."""
    if len(text) > 80:
        return False
    if _NAME.fullmatch(text):
        return bool(re.search(r"[A-Za-z]", text))
    return bool(_MEASURE.fullmatch(text)) or _is_value(text)


def _is_value(text: str) -> bool:
    """Whether a text is a function value such as `f(-1)` or `n(A \\cup B)`. `n(n+1)` is a product."""
    head = _FUNCTION.match(text)
    if not head or closing(text, head.end() - 1) != len(text) - 1:
        return False
    inside, letter = text[head.end() : -1], text[0]
    return bool(inside) and letter not in _COMMAND.sub("", inside) and (letter not in "nNE" or bool(_SETS.search(inside)))


def point(text: str) -> str:
    """`P(1,2)` -> `(1,2)`: drops the name of a point. Any other text is returned unchanged."""
    name = _POINT.match(text)
    return text[name.end() :] if name and closing(text, name.end()) == len(text) - 1 and "," in text else text
