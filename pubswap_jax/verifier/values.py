"""Compares sympy expressions by value: exactly if rational, else to 50 digits; with letters, at several points."""

import itertools
from collections.abc import Iterator
from fractions import Fraction

import sympy

from pubswap_jax.verifier.shape import Unreadable

DIGITS = 50  # significant digits to which values that are not rational must agree
MAX_BITS = 1 << 15  # bits of the numerator and the denominator of an exact value together
# Points at which identities are tested: no symmetric, small or special values, where false identities may hold.
POINTS = (Fraction(7919, 6131), Fraction(-5003, 7207), Fraction(28657, 10007), Fraction(-13001, 4099), Fraction(389, 907))


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
    for point in points(symbols):
        a, b = evaluate(gold, point), evaluate(answer, point)
        if (a is None) != (b is None):
            return False
        if a is not None:
            met += 1
            if not near(a, b):
                return False
    return met >= 2 or gold == answer


def agree(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """Whether two constants are equal: exactly if both are rational, else to 50 digits; large ones also to 45 decimals."""
    exact = rational(gold), rational(answer)
    if None not in exact:
        return exact[0] == exact[1]
    a, b = evaluate(gold), evaluate(answer)
    if a is None or b is None:
        return gold == answer and gold in (sympy.oo, -sympy.oo)
    if not near(a, b):
        return False
    size = max(abs(a), abs(b))
    if size < 10**6:
        return True
    digits = DIGITS + int(sympy.log(size, 10).evalf(15)) + 1
    if digits > 3000:
        raise Unreadable("too large to compare")
    a, b = evaluate(gold, digits=digits), evaluate(answer, digits=digits)
    return a is not None and b is not None and abs(a - b) < sympy.Rational(1, 10 ** (DIGITS - 5))


def evaluate(expr: sympy.Expr, point: dict | None = None, digits: int = DIGITS + 10) -> sympy.Expr | None:
    """The numerical value of an expression, real or complex, to `digits` digits; None if there is none."""
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
    """The exact power; None if the exponent is no integer, or if the power does not exist or is huge."""
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > MAX_BITS or (base == 0 and exponent < 0):
        return None
    return base ** int(exponent)


def points(symbols: list[sympy.Symbol]) -> Iterator[dict[sympy.Symbol, sympy.Rational]]:
    """Test points for comparing expressions with letters: POINTS assignments of distinct rational values to all symbols."""
    for i in range(len(POINTS)):
        values = itertools.islice(itertools.cycle(POINTS), i, i + len(symbols))
        yield {
            symbol: as_sympy(value * (1 + Fraction(k, 97)))
            for k, (symbol, value) in enumerate(zip(symbols, values, strict=True))
        }


def near(a: sympy.Expr, b: sympy.Expr) -> bool:
    """Whether two numbers agree to DIGITS significant digits."""
    scale = max(abs(a), abs(b))
    return bool(scale == 0 or abs(a - b) <= scale * sympy.Rational(1, 10**DIGITS))


def as_fraction(value: sympy.Number) -> Fraction:
    """The exact value of a sympy Rational or Float."""
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    sign, mantissa, exponent, _ = value._mpf_
    return Fraction(-int(mantissa) if sign else int(mantissa)) * Fraction(2) ** exponent


def as_sympy(value: Fraction) -> sympy.Rational:
    """A fraction as an exact sympy number."""
    return sympy.Rational(value.numerator, value.denominator)


def _is_matrix(expr: sympy.Basic) -> bool:
    """Whether an expression is a matrix, evaluated or not."""
    return isinstance(expr, sympy.MatrixBase | sympy.MatrixExpr)
