"""The slow oracle, used only in worker processes: math-verify's parser reads the LaTeX, and values are compared to 50 digits.

No string reaches sympify: numbers are converted to exact Rationals, and `seal` makes every path from text to `eval` raise.
"""

import functools
import itertools
import os
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import sympy
from antlr4 import Token
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from sympy.parsing import sympy_parser

from pubswap_jax.verifier.equality import equal_texts
from pubswap_jax.verifier.numerals import Number, close, number, readings
from pubswap_jax.verifier.structure import Unreadable, expressions, read
from pubswap_jax.verifier.warmup import FORMS

DIGITS = 50
MAX_BITS = 1 << 15
_CONSTANTS = {sympy.Symbol("i"): sympy.I, sympy.Symbol("e"): sympy.E}
# Points at which identities are tested: no symmetric, small or special values, where false identities may hold.
POINTS = (Fraction(7919, 6131), Fraction(-5003, 7207), Fraction(28657, 10007), Fraction(-13001, 4099), Fraction(389, 907))

# A letter with a numeric power. SLL prediction expects an index after the letter, but not after a letter in braces. f^2(x) and
# x^2_a do not match and are left to the full parser.
_POWER = re.compile(r"(?<![\\A-Za-z_^])([a-df-zA-HJ-Z]|\\pi)(?=\^(?:[0-9]+|\{[0-9]+\})(?![0-9]|\s*[(_^]))", re.ASCII)

_LETTER_D = re.compile(
    r"(?<![\\A-Za-z}_^])d(?= (?:[a-z](?![A-Za-z])|\\cdot))"
)  # the letter d: the parser would read `d r` as the differential dr


class Sealed(RuntimeError):
    """Code tried to evaluate a string."""


def warm_judge() -> Callable[[str, str], str]:
    """Seals this process, warms up the parser on sample answers, and returns the judge."""
    seal()
    rehearse(FORMS)
    # A worker's first judgements copy heap pages that it shares with the nursery. Copy them before the first deadline runs.
    os.register_at_fork(after_in_child=lambda: rehearse(FORMS[:12]))
    return judge


def rehearse(samples: Sequence[tuple[str, str]]) -> None:
    for gold, answer in samples:
        judge(gold, answer)


@functools.cache
def seal() -> None:
    """Makes `parse_expr` and `sympify` of a string raise in this process, also in modules that imported them earlier."""

    def refuse(*args, **kwargs):
        raise Sealed("a string reached sympy's evaluator")

    sympy_parser.eval_expr = sympy_parser.stringify_expr = sympy_parser.parse_expr = refuse
    for module in (sympy, latex2sympy2):
        module.parse_expr = refuse


def judge(gold: str, answer: str) -> str:
    """The status of a canonical answer, computed in a worker. An empty gold asks only whether the answer can be read."""
    seal()
    try:
        if gold:
            return "correct" if equal_texts(gold, answer, Symbolic()) else "wrong"
        for expression in expressions(read(answer)):
            parse(expression)
        return "correct"
    except Unreadable:
        return "unparsed"
    except RecursionError:
        return "refused"
    except MemoryError:
        raise
    except Exception:  # sympy may raise any exception; an answer that it cannot compare must not pass
        return "unparsed"


class _Parser(latex2sympy2._Latex2Sympy):
    """math-verify's LaTeX parser, with exact numbers."""

    def __init__(self):
        super().__init__(config=latex2sympy2.ConversionConfig(lowercase_symbols=False))

    def parse_expression(self, text: str) -> sympy.Basic:
        """Parses a single expression by SLL prediction: three times as fast as `parse`, but fails on some texts that parse."""
        parser = self.create_parser(_POWER.sub(r"{\1}", text))
        parser._interp.predictionMode = PredictionMode.SLL
        tree = parser.expr()
        if parser.getCurrentToken().type != Token.EOF:
            raise Unreadable("more than an expression")
        return self.convert_expr(tree)

    def parse_number(self, text: str) -> sympy.Rational:
        value = number(text.replace(",", ""))
        if value is None:
            raise Unreadable(f"no number: {text[:20]}")
        return sympy.Rational(value[0].numerator, value[0].denominator)


@functools.lru_cache(64)  # enough for the expressions of one answer; `score` caches verdicts of repeated pairs
def parse(text: str) -> sympy.Basic:
    text = text.replace("%", r"\%").replace("\x01", r"\\")
    if r"\int" not in text:
        text = _LETTER_D.sub("(d)", text)
    try:
        parsed = _attempt(_Parser().parse_expression, text)
    except Unreadable:
        parsed = _attempt(_Parser().parse, text)
    if not isinstance(parsed, sympy.Basic | sympy.MatrixBase):
        raise Unreadable("no expression")
    return parsed.xreplace(_CONSTANTS)


def _attempt(read_as: Callable[[str], sympy.Basic], text: str) -> sympy.Basic:
    try:
        return read_as(text)
    except MemoryError:
        raise
    except Exception as error:  # the generated parser raises bare Exception
        raise Unreadable(type(error).__name__) from None


@functools.lru_cache(4096)
def parse_gold(text: str) -> sympy.Basic:
    """`parse` with a larger cache, because a gold recurs with every answer in its group."""
    return parse(text)


class Symbolic:
    """Compares expressions by value: exactly if rational, else to 50 digits; with letters, at several points."""

    def expr(self, gold: str, answer: str) -> bool:
        numbers = readings(gold), readings(answer)
        if numbers[0] and numbers[1]:
            return any(close(a, b) for a in numbers[0] for b in numbers[1])
        if numbers[0] or numbers[1]:
            plain, other = (numbers[0], parse(answer)) if numbers[0] else (numbers[1], parse_gold(gold))
            return self._number(plain, other)
        return same(parse_gold(gold), parse(answer))

    def _number(self, plain: list[Number], other: sympy.Basic) -> bool:
        if not isinstance(other, sympy.Expr) or other.free_symbols:
            return isinstance(other, sympy.Expr) and any(same(_rational(value), other) for value, _ in plain)
        if (exact := rational(other)) is not None:
            return any(close(one, (exact, None)) for one in plain)
        value = evaluate(other)
        if value is None or not value.is_real:
            return False
        nearby = _fraction(value)
        return any(
            (places is not None and close((v, places), (nearby, None))) or agree(_rational(v), other) for v, places in plain
        )

    def multiple(self, gold: tuple[str, str], answer: tuple[str, str], positive: bool) -> bool:
        """Whether gold's left minus right is a constant multiple of the answer's: the same line, plane or half-space.

        `positive` demands a positive constant, for inequalities.
        """
        f, g = (sympy.Add(parse(left), sympy.Mul(-1, parse(right))) for left, right in (gold, answer))
        symbols = sorted(f.free_symbols | g.free_symbols, key=str)
        if not symbols or f.free_symbols != g.free_symbols:
            return False
        ratios = []
        for point in _points(symbols):
            a, b = evaluate(f, point), evaluate(g, point)
            if a is None or b is None or a == 0 or b == 0:
                return False
            ratios.append((a / b).evalf(DIGITS))
        first = ratios[0]
        if positive and not (first.is_real and first > 0):
            return False
        return all(_near(first, ratio) for ratio in ratios)


def _fraction(value: sympy.Number) -> Fraction:
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    sign, mantissa, exponent, _ = value._mpf_
    return Fraction(-int(mantissa) if sign else int(mantissa)) * Fraction(2) ** exponent


def _rational(value: Fraction) -> sympy.Rational:
    return sympy.Rational(value.numerator, value.denominator)


def same(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    """Whether two expressions have the same value. With letters, both must agree at every test point where one has a value."""
    if _is_matrix(gold) and _is_matrix(answer):
        gold, answer = gold.doit(), answer.doit()
        if not isinstance(gold, sympy.MatrixBase) or not isinstance(answer, sympy.MatrixBase) or gold.shape != answer.shape:
            return gold == answer
        return all(same(a, b) for a, b in zip(gold.flat(), answer.flat(), strict=True))
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)) or _is_matrix(gold) or _is_matrix(answer):
        return gold == answer
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not symbols:
        return agree(gold, answer)
    if len(symbols) > 12:
        raise Unreadable("too many letters")
    met = 0
    for point in _points(symbols):
        a, b = evaluate(gold, point), evaluate(answer, point)
        if (a is None) != (b is None):
            return False
        if a is not None:
            met += 1
            if not _near(a, b):
                return False
    return met >= 2 or gold == answer


def _is_matrix(expr: sympy.Basic) -> bool:
    return isinstance(expr, sympy.MatrixBase | sympy.MatrixExpr)


def agree(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """Whether two constants are equal: exactly if both are rational, else to 50 digits; large ones also to 45 decimals."""
    exact = rational(gold), rational(answer)
    if None not in exact:
        return exact[0] == exact[1]
    a, b = evaluate(gold), evaluate(answer)
    if a is None or b is None:
        return gold == answer and gold in (sympy.oo, -sympy.oo)
    if not _near(a, b):
        return False
    size = max(abs(a), abs(b))
    if size < 10**6:
        return True
    digits = DIGITS + int(sympy.log(size, 10).evalf(15)) + 1
    if digits > 3000:
        raise Unreadable("too large to compare")
    a, b = evaluate(gold, digits=digits), evaluate(answer, digits=digits)
    return a is not None and b is not None and abs(a - b) < sympy.Rational(1, 10 ** (DIGITS - 5))


def _points(symbols: list[sympy.Symbol]):
    for i in range(len(POINTS)):
        values = itertools.islice(itertools.cycle(POINTS), i, i + len(symbols))
        yield {
            symbol: _rational(value * (1 + Fraction(k, 97)))
            for k, (symbol, value) in enumerate(zip(symbols, values, strict=True))
        }


def evaluate(expr: sympy.Expr, point: dict | None = None, digits: int = DIGITS + 10) -> sympy.Expr | None:
    """The real or complex value to `digits` digits; None if there is none."""
    try:
        if point:
            if any(power.exp.free_symbols and power.base != sympy.E for power in expr.atoms(sympy.Pow)):
                # For rational points sympy computes exact roots, which may never end. For floats it does not.
                point = {letter: sympy.Float(value, digits + 20) for letter, value in point.items()}
            expr = expr.xreplace(point)
        value = expr.evalf(digits, maxn=max(200, 2 * digits))
    except (ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError):
        return None
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) or not value.is_finite:
        return None
    real, imaginary = value.as_real_imag()
    return value if real.is_Number and imaginary.is_Number else None


def _near(a: sympy.Expr, b: sympy.Expr) -> bool:
    scale = max(abs(a), abs(b))
    return bool(scale == 0 or abs(a - b) <= scale * sympy.Rational(1, 10**DIGITS))


def rational(expr: sympy.Basic) -> Fraction | None:
    """The exact value of a tree of rationals, sums, products and integer powers; None for other trees and for huge values."""
    if isinstance(expr, sympy.Rational):
        return Fraction(int(expr.p), int(expr.q))
    if not isinstance(expr, sympy.Add | sympy.Mul | sympy.Pow | sympy.UnevaluatedExpr):
        return None
    values = [rational(arg) for arg in expr.args]
    if None in values:
        return None
    if isinstance(expr, sympy.UnevaluatedExpr):
        return values[0]
    if isinstance(expr, sympy.Pow):
        return _power(*values)
    result = Fraction(isinstance(expr, sympy.Mul))
    for value in values:
        result = result * value if isinstance(expr, sympy.Mul) else result + value
    return result if result.numerator.bit_length() + result.denominator.bit_length() < MAX_BITS else None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > MAX_BITS or (base == 0 and exponent < 0):
        return None
    return base ** int(exponent)
