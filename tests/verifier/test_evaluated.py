"""Numbers are told from calculations that are left to do."""

import pytest

from pubswap_jax.verifier.evaluated import is_evaluated

NUMBERS = [
    "51",
    "-51",
    "51.0",
    "$51",
    "1,251",
    "51 apples",
    "5-year plan: 51",
    "76-25=51",
    "x = 51",
    "51 %",
    "0.51",
    "the 51st",
]
CALCULATIONS = ["76-25", "76 - 25", "52-1", "102/2", "3*17", r"3\times 17", "(23-15)/4", "3(17)", "51+0", "50 + -1", "7^2+2"]
CALCULATIONS += ["76-25 apples", "51=76-25", r"\frac{102}{2}", "60−9", "17·3"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text):
    assert is_evaluated(text, "51")


@pytest.mark.parametrize("text", CALCULATIONS)
def test_calculations(text):
    assert not is_evaluated(text, "51")


def test_a_gold_that_is_no_number_accepts_every_form():
    assert is_evaluated("x+1", "1+x") and is_evaluated("2/4", "1/2") and is_evaluated("3*(4)", "2^3+4")


def test_a_fraction_stands_for_a_decimal_and_not_for_a_whole_number():
    for text in ("1/2", r"\frac{1}{2}", r"$-\dfrac{1}{2}$", r"x = \tfrac{ 1 }{2}"):
        assert is_evaluated(text, "0.5") and not is_evaluated(text, "51"), text
    assert not is_evaluated(r"\frac{1}{2}+0", "0.5") and not is_evaluated(r"\frac{1}{0}", "0.5")
