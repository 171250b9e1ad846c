"""Values of sympy expressions: exact, to 50 digits, and at points."""

import fractions

import pytest
import sympy

from pubswap_jax.verifier.parser import parse
from pubswap_jax.verifier.values import agree, as_fraction, evaluate, near, points, rational, same


def test_rational_is_exact_and_bounded():
    assert rational(parse("2^{10}+1/3")) == sympy.Rational(3073, 3)
    assert rational(parse("10^{6000} 10^{6000}")) is None
    assert rational(parse("x+1")) is None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", True),
        (r"\sqrt{10^{60}+1}", "10^{30}", False),
        ("x^2-1", "(x-1)(x+1)", True),
        (r"\sqrt{x^2}", "x", False),
        ("x", "y", False),
    ],
)
def test_same(one, other, equal):
    assert same(parse(one), parse(other)) == equal


def test_constants_agree_if_50_digits_do():
    root = sympy.sqrt(2)
    assert agree(root, 1 / (root / 2)) and not agree(root, root + sympy.Rational(1, 10**48))
    assert near(root.evalf(60), root.evalf(60) * (1 + sympy.Rational(1, 10**55)))


def test_what_has_no_value():
    assert evaluate(sympy.zoo) is None and evaluate(sympy.Symbol("x")) is None and evaluate(sympy.oo) is None
    assert near(evaluate(1 / sympy.Symbol("x"), {sympy.Symbol("x"): sympy.Integer(2)}), sympy.Rational(1, 2))


def test_points_give_every_letter_another_value():
    found = list(points(list(sympy.symbols("a:g"))))
    assert len(found) == 5 and all(len(set(point.values())) == 7 for point in found)


def test_a_fraction_is_exact():
    assert as_fraction(sympy.Float("-0.75")) == fractions.Fraction(-3, 4) == as_fraction(sympy.Rational(-3, 4))
