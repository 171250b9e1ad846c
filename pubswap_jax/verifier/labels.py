"""What an answer may stand behind: the name of an unknown, a function's value, a measure, a point."""

import re

from pubswap_jax.verifier.notation import closing

_LETTER = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|Delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|ell"
    r"|angle|triangle|Pr|max|min|deg|overline|vec|hat|mathbf|mathbb))"
)
_NAME = re.compile(
    rf"(?:\\text\{{[^{{}}0-9]*\}}|{_LETTER}|_(?:[A-Za-z0-9]|\{{[A-Za-z0-9, \\]*\}})|[/:'{{}} ]|\\frac"
    r"|\([A-Za-z0-9, ]*\)|\^\{?(?:\\prime|-1)\}?)+"
)
_FUNCTION = re.compile(
    r"(?:[fghFGHPENn]|\\(?:phi|psi|Pr|varphi)|\\text\{ ?[A-Za-z]+ ?\})'{0,3}(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9, ]*\}))?\s*\("
)
_SETS = re.compile(r"\\c[au]p(?![A-Za-z])|[A-Z]")
_MEASURE = re.compile(r"\|[A-Z][A-Za-z]?(?:\s*\\c[au]p\s*[A-Z])*\||\[[A-Z]{3,}\]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_POINT = re.compile(r"[A-Z]'?\s*(?=\()")


def is_name(text: str) -> bool:
    """`x`, `f(x)`, `f(-1)`, `P(X=1)`, `|S|`, `[ABC]`, `\\text{Area}`, `V_1:V_2`."""
    if len(text) > 80:
        return False
    if _NAME.fullmatch(text):
        return bool(re.search(r"[A-Za-z]", text))
    return bool(_MEASURE.fullmatch(text)) or _is_value(text)


def _is_value(text: str) -> bool:
    """A function of something: `f(-1)`, `n(A \\cup B)`; but `n(n+1)` is a product."""
    head = _FUNCTION.match(text)
    if not head or closing(text, head.end() - 1) != len(text) - 1:
        return False
    inside, letter = text[head.end() : -1], text[0]
    return bool(inside) and letter not in _COMMAND.sub("", inside) and (letter not in "nNE" or bool(_SETS.search(inside)))


def point(text: str) -> str:
    """`P(1,2)` -> `(1,2)`: a point without its name; anything else as it is."""
    name = _POINT.match(text)
    return text[name.end() :] if name and closing(text, name.end()) == len(text) - 1 and "," in text else text
