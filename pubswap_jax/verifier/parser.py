"""Parses LaTeX into sympy expressions with math-verify's parser, without ever evaluating a string.

Numbers become exact Rationals, so no string reaches sympify. `seal` makes every path from text to `eval` raise.
"""

import functools
import re
from collections.abc import Callable

import sympy
from antlr4 import Token
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from sympy.parsing import sympy_parser

from pubswap_jax.verifier.numerals import number
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.shape import Unreadable

_CONSTANTS = {sympy.Symbol("i"): sympy.I, sympy.Symbol("e"): sympy.E}
# A letter with a numeric power. SLL prediction expects an index after the letter, but not after a letter in braces. f^2(x) and
# x^2_a do not match and are left to the full parser.
_POWER_OF_A_LETTER = Pattern(
    r"(?<![\\A-Za-z_^])([a-df-zA-HJ-Z]|\\pi)(?=\^(?:[0-9]+|\{[0-9]+\})(?![0-9]|\s*[(_^]))",
    re.ASCII,
    matches=["x^2", r"3\pi^{10}", "2b^{3}"],
    not_=["f^2(3)", "x^2_a", "e^x", r"\sin^2", "e^2", "x^y"],
)
# The letter d before a factor. Without braces around the letter, the parser reads `d r` as the differential dr.
_LETTER_D = Pattern(
    r"(?<![\\A-Za-z}_^])d(?= (?:[a-z](?![A-Za-z])|\\cdot))",
    matches=["a + d r", r"d \cdot r"],
    not_=["dr", "2d rad", r"\d r", "x_d r"],
)


class Sealed(RuntimeError):
    """Raised when code tries to evaluate a string in a sealed process."""


@functools.cache
def seal() -> None:
    """Makes `parse_expr` and `sympify` of a string raise in this process, also in modules that imported them earlier."""

    def refuse(*args, **kwargs):
        raise Sealed("a string reached sympy's evaluator")

    sympy_parser.eval_expr = sympy_parser.stringify_expr = sympy_parser.parse_expr = refuse
    for module in (sympy, latex2sympy2):
        module.parse_expr = refuse


class LatexParser(latex2sympy2._Latex2Sympy):
    """math-verify's LaTeX parser, with exact numbers."""

    def __init__(self):
        super().__init__(config=latex2sympy2.ConversionConfig(lowercase_symbols=False))

    def parse_expression(self, text: str) -> sympy.Basic:
        """Parses a single expression by SLL prediction: three times as fast as `parse`, but fails on some texts that parse."""
        parser = self.create_parser(_POWER_OF_A_LETTER.sub(r"{\1}", text))
        parser._interp.predictionMode = PredictionMode.SLL
        tree = parser.expr()
        if parser.getCurrentToken().type != Token.EOF:
            raise Unreadable("more than an expression")
        return self.convert_expr(tree)

    def parse_number(self, text: str) -> sympy.Rational:
        """The exact value of a number. The method that this one overrides would sympify the string."""
        value = number(text.replace(",", ""))
        if value is None:
            raise Unreadable(f"no number: {text[:20]}")
        return sympy.Rational(value[0].numerator, value[0].denominator)


@functools.lru_cache(64)  # enough for the expressions of one answer; `score` caches verdicts of repeated pairs
def parse(text: str) -> sympy.Basic:
    """The sympy expression of a canonical string. Raises Unreadable if there is none."""
    text = text.replace("%", r"\%").replace("\x01", r"\\")
    if r"\int" not in text:
        text = _LETTER_D.sub("(d)", text)
    try:
        parsed = _attempt(LatexParser().parse_expression, text)
    except Unreadable:
        parsed = _attempt(LatexParser().parse, text)
    if not isinstance(parsed, sympy.Basic | sympy.MatrixBase):
        raise Unreadable("no expression")
    return parsed.xreplace(_CONSTANTS)


@functools.lru_cache(4096)
def parse_gold(text: str) -> sympy.Basic:
    """`parse` with a larger cache, because a gold recurs with every answer in its group."""
    return parse(text)


def _attempt(read_as: Callable[[str], sympy.Basic], text: str) -> sympy.Basic:
    """Parses `text` by `read_as`. Every exception but MemoryError becomes Unreadable."""
    try:
        return read_as(text)
    except MemoryError:
        raise
    except Exception as error:  # the generated parser raises bare Exception
        raise Unreadable(type(error).__name__) from None
