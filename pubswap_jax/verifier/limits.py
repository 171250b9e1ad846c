"""Refuses answers that are too long, too deep or too expensive to evaluate, before any parser runs."""

import re

from pubswap_jax.verifier.pattern import Pattern

MAX_CHARACTERS = 4096
MAX_NESTING = 64
MAX_RUN = 256  # adjacent digits
MAX_DIGITS = 2048  # digits of the whole answer
MAX_NODES = 512  # commands, numbers and other symbols
MAX_FACTORIAL = 500  # n of n!
MAX_CHOICE = 5000  # any number in an answer that has a binomial
MAX_POWER_DIGITS = 6000  # decimal digits of a numeric power's value

_LONG_RUN_OF_DIGITS = Pattern(
    rf"[0-9]{{{MAX_RUN + 1},}}",
    re.ASCII,
    matches=["1" * (MAX_RUN + 1)],
    not_=[
        "1" * MAX_RUN,
        "1 " * MAX_RUN,
    ],
)
_DIGITS = re.compile(r"[0-9]", re.ASCII)
_SYMBOL = Pattern(r"\\[A-Za-z]+|[0-9]+|[^\s{}0-9]", re.ASCII, matches=[r"\pi", "12", "x", "+"], not_=["{", " ", "}"])
_HEAVY_COMMAND = Pattern(
    r"\\(?:int|iint|iiint|oint|sum|prod|lim|Gamma|zeta|gcd|lcm|det|partial|def|let|write|input|immediate|csname|newcommand|xrightarrow)(?![a-z])",
    matches=[r"\int x", r"\sum_1", r"\lim", r"\csname"],
    not_=[r"\integer", "sum", r"\summand"],
)
_HEAVY_OPERATOR = Pattern(
    r"\\(?:operatorname|text)\s*\{\s*(?:svd|SVD|eig|rank|eye|zeros|ones|diag|rref|nullspace|orth|det|Res|lambdify|gcd|lcm)",
    matches=[r"\operatorname{rank}", r"\text { det A}", r"\text{gcd}"],
    not_=[r"\operatorname{sin}", "rank", r"\text{ange}"],
)
_DERIVATIVE = Pattern(
    r"\\frac\{d(?:\^[^{}]*|\^\{[^{}]*\})?[^{}]{0,4}\}\{d[a-z]",
    matches=[r"\frac{dy}{dx}", r"\frac{d^2y}{dx^2}", r"\frac{d}{dt}"],
    not_=[r"\frac{d}{2}", r"\frac{x}{dx}", "dx"],
)
_FACTORIAL = Pattern(
    r"([0-9]+|\)|\}|[a-z])\s*!(!?)", re.ASCII, matches=["5!", "n !", "(x+1)!", "5!!"], not_=["!5", "+!", "x+1"]
)
_BINOMIAL = Pattern(r"\\[dt]?binom|\\choose", matches=[r"\binom{5}{2}", r"\dbinom", r"{5 \choose 2}"], not_=["binom", r"\bin"])
# Refuses 2^{3^{4}}, 9^9^9 and every tower of three levels; allows e^{x^2}.
_TOWER_OF_POWERS = Pattern(
    r"\^\s*(?:\{[^{}]*[0-9)}]\s*\^\s*\{?\s*[0-9]|[0-9a-z]\s*\^|\{[^{}]*\^\s*\{[^{}]*\^|\([^()]*\^)",
    re.ASCII,
    matches=["2^{3^{4}}", "9^9^9", "x^(y^z)", "x^{a^{b^c}}"],
    not_=["e^{x^2}", "2^3", "x^2y^2"],
)
_NUMERIC_POWER = Pattern(
    r"([0-9.]+|\)|\})\s*\^\s*(?:\{\s*[+-]?\s*([0-9.]+)[^{}]*\}|([0-9]))",
    re.ASCII,
    matches=["2^3", "(x)^{12}", "1.5 ^ {-2}", "2^{3x}"],
    not_=["x^2", "2^x", "2^{x}"],
)
_MATRIX_POWER = Pattern(
    r"\\end\{[pbBvV]?matrix\}\s*\)?\s*\^\s*\{?\s*([0-9]+)",
    re.ASCII,
    matches=[r"\end{pmatrix}^{5}", r"\end{bmatrix})^2"],
    not_=[r"\end{pmatrix}", r"\end{array}^2", r"\end{pmatrix}^T"],
)
_CODE = Pattern(
    r"__|(?<!\\)lambda\b|\bimport\b|\bexec\b|\beval\b|\bopen\s*\(",
    matches=["__class__", "lambda x", "import os", "open ("],
    not_=[r"\lambda x", "important", "opens("],
)


def refusal(text: str) -> str:
    """The reason for which a canonical answer must not be parsed; empty if it may be parsed."""
    if len(text) > MAX_CHARACTERS:
        return "too long"
    if _LONG_RUN_OF_DIGITS.search(text) or len(_DIGITS.findall(text)) > MAX_DIGITS:
        return "too many digits"
    if len(_SYMBOL.findall(text)) > MAX_NODES:
        return "too many symbols"
    if too_deep(text):
        return "nested too deeply"
    if _CODE.search(text):
        return "a program"
    return _computation(text)


def _computation(text: str) -> str:
    """The reason for which a canonical answer would be too expensive to evaluate; empty if it is not."""
    if _HEAVY_COMMAND.search(text) or _HEAVY_OPERATOR.search(text) or _DERIVATIVE.search(text):
        return "a computation"
    if _TOWER_OF_POWERS.search(text):
        return "a tower of powers"
    for match in _FACTORIAL.finditer(text):
        if match[2] or match[1] in ")}" or (match[1].isdigit() and int(match[1]) > MAX_FACTORIAL):
            return "a large factorial"
    if _BINOMIAL.search(text) and any(int(n) > MAX_CHOICE for n in re.findall(r"[0-9]+", text)):
        return "a large binomial"
    if any(int(match[1]) > 20 for match in _MATRIX_POWER.finditer(text)):
        return "a large power of a matrix"
    for match in _NUMERIC_POWER.finditer(text):
        exponent = match[2] or match[3]
        if not exponent.strip("."):
            continue  # `2^.` is not a power
        base_digits = len(match[1]) if match[1][0] not in ")}" else 8
        if exponent.count(".") > 1 or float(exponent) * base_digits > MAX_POWER_DIGITS:
            return "a large power"
    return ""


def too_deep(text: str) -> bool:
    """Whether a text is nested more deeply than the parser may follow."""
    # Check the length first, because it is fast: each level of nesting takes a character.
    return len(text) > MAX_NESTING and nesting(text) > MAX_NESTING


def nesting(text: str) -> int:
    """The depth of brackets or the longest run of signs, whichever is larger."""
    depth = deepest = run = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        run = run + 1 if char in "-+|!" else (run if char == " " else 0)  # the parser nests at each sign of `--x`
        deepest = max(deepest, depth, run)
    return deepest
