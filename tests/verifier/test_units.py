"""Units are split off a number, and nothing but units."""

import pytest

from pubswap_jax.verifier.units import conflict, split_unit, unglued


@pytest.mark.parametrize(
    ("text", "core", "unit"),
    [
        (r"15\text{ cm}^2", "15", "cm^2"),
        ("42 apples", "42", "apples"),
        ("5 m", "5", "m"),
        ("60 miles per hour", "60", "miles per hour"),
        (r"\frac{5}{2} \text{ hours}", r"\frac{5}{2}", "hours"),
        (r"6\sqrt{5}\text{ cm}", r"6\sqrt{5}", "cm"),
        ("1210_5", "1210", "base 5"),
        (r"3\text{rd}", "3", "th"),
        ("12:30 p.m.", "12:30", "p m"),
        ("1/2 hour", "1/2", "hour"),
        (r"15\frac{m}{s}", "15", "m/s"),
        (r"15 \text{m}\cdot\text{s}^{-1}", "15", "m s^-1"),
        (r"(1010)_2", "1010", "base 2"),
        (r"1010_{\text{two}}", "1010", "base 2"),
    ],
)
def test_units(text, core, unit):
    assert split_unit(text) == (core, unit)


@pytest.mark.parametrize(
    "text",
    [
        "5m",
        "5 x",
        "x apples",
        r"42 \text{ is wrong}",
        r"41 \text{ or }",
        r"\text{cm}",
        "42 not",
        "5+",
        r"x_5+1",
        "15 squared",
        r"2\text{ hours 30 minutes}",
        r"15\frac{x}{y}",
    ],
)
def test_what_is_no_unit(text):
    assert split_unit(text) == (text, "")


def test_only_known_units_conflict():
    assert conflict("cm", "meters") and conflict("cm^2", "cm^3") and conflict("base 5", "base 6") and conflict("p m", "am")
    assert not (conflict("cm", "centimeters") or conflict("cm", "") or conflict("cm", "cm^2") or conflict("apples", "pears"))


@pytest.mark.parametrize(
    ("text", "spaced"),
    [
        ("500g", "500 g"),
        ("9.8m/s^2", "9.8 m/s^2"),
        ("25cm²", "25 cm²"),
        ("3hours", "3 hours"),
        ("-40km/h", "-40 km/h"),
        ("$5/hour", "$5/hour"),
    ],
)
def test_a_unit_glued_to_a_number(text, spaced):
    assert unglued(text) == spaced


@pytest.mark.parametrize("text", ["5x", "12k", "20π", "30i", "3e", "16x^2", "5y", "m", "12", "x=5m", "5m+2", "2n", "500 g"])
def test_what_is_no_glued_unit(text):
    assert unglued(text) == text
