"""LaTeX to sympy, and no path from a string to sympy's evaluator."""

import pytest
import sympy
from sympy.parsing import sympy_parser

from pubswap_jax.verifier.parser import LatexParser, Sealed, parse, seal
from pubswap_jax.verifier.shape import Unreadable


@pytest.mark.parametrize(
    "text",
    [
        "x^2",
        r"3\pi^{2}-1",
        "x^23",
        "a^2b^3",
        r"\frac{x^2}{4}",
        "e^{x^2}",
        "x^2(x+1)",
        "f^2(3)",
        "x^2_a",
        "3x^{10}_{a}",
        "d^2",
        "dx^2",
    ],
)
def test_the_short_way_reads_powers_as_the_whole_grammar_does(text):
    assert parse(text) == LatexParser().parse(text)


def test_a_power_of_a_letter_takes_the_short_way():
    assert LatexParser().parse_expression(r"3x^2-\pi^{10}") == LatexParser().parse(r"3x^2-\pi^{10}")


def test_strings_cannot_reach_the_evaluator():
    seal()
    for road in (sympy.sympify, sympy.parse_expr, sympy_parser.parse_expr, sympy.S):
        with pytest.raises(Sealed):
            road("1+1")


@pytest.mark.parametrize("text", [r"\frac{", "", "1 = "])
def test_a_text_without_an_expression_is_unreadable(text):
    with pytest.raises(Unreadable):
        parse(text)


def test_numbers_are_exact_and_letters_i_and_e_are_constants():
    assert parse("0.1") == sympy.Rational(1, 10) and parse("i^2+e") == sympy.E - 1
    assert parse("a + d r").free_symbols == set(sympy.symbols("a d r"))
