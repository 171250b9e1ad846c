"""Exact numbers from strings, and how close a decimal must be to another number."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubswap_jax.verifier.numerals import close, number, readings


@pytest.mark.parametrize(
    ("text", "value", "places"),
    [
        ("42", 42, None),
        ("-1,234.50", Fraction(-2469, 2), 2),
        (".5", Fraction(1, 2), 1),
        ("42.0", 42, None),
        (r"\frac{3}{-4}", Fraction(-3, 4), None),
        ("-3/4", Fraction(-3, 4), None),
        (r"-2\frac{1}{3}", Fraction(-7, 3), None),
        ("1 3/4", Fraction(7, 4), None),
        (r"0.1\overline{6}", Fraction(1, 6), None),
        (r"1.5\times 10^{3}", 1500, None),
        ("2e-3", Fraction(1, 500), 3),
    ],
)
def test_numbers(text, value, places):
    assert number(text)[0] == value
    if places is None or "e" not in text:
        assert number(text)[1] == places


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1/0", r"\frac{1}{0}", "4 2", "x", "1,23", "٤٢", "1e9999", "9" * 700, r"1\frac{1}{0}"]
)
def test_what_is_no_number(text):
    assert number(text) is None


def test_a_percent_reads_both_ways():
    assert [value for value, _ in readings("10%")] == [10, Fraction(1, 10)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.333333", "1/3", True),
        ("0.33333", "1/3", False),
        ("0.666666", "2/3", True),
        ("0.666667", "2/3", True),
        ("0.666668", "2/3", False),
        ("16386.169", "16386.17", True),
        ("7.78", r"\frac{70}{9}", False),
        ("99999.99", "100000", False),
        ("1000000.4", "1000000", False),
        ("0.30000000000000004", "0.3", True),
        ("1234567890.5", "1234567890", False),
        ("0.00001", "0", False),
    ],
)
def test_decimals_must_agree_to_six_digits(one, other, same):
    assert close(number(one), number(other)) is same
    assert close(number(other), number(one)) is same


@settings(deadline=None)
@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_exact_numbers_are_equal_only_where_they_are(a, b):
    assert close((a, None), (b, None)) == (a == b)


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_a_decimal_is_read_exactly(mantissa, places):
    text = f"{'-' if mantissa < 0 else ''}{abs(mantissa) // 10**places}.{abs(mantissa) % 10**places:0{max(places, 1)}d}"
    if places:
        assert number(text)[0] == Fraction(mantissa, 10**places)
