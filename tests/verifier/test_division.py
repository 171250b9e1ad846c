"""Separators inside brackets do not count."""

import re

import pytest

from pubswap_jax.verifier.division import balanced, divide, result

COMMA = re.compile(",")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1,2", ["1", "2"]),
        ("(1,2), 3", ["(1,2)", "3"]),
        (r"\{1,2\},[3,4]", [r"\{1,2\}", "[3,4]"]),
        (r"\frac{1,2}{3}", [r"\frac{1,2}{3}"]),
        (r"\(1,2", [r"\(1", "2"]),
        ("1),2", ["1)", "2"]),
        ("", [""]),
    ],
)
def test_divide(text, parts):
    assert divide(text, COMMA) == (parts, [","] * (len(parts) - 1))


def test_balanced():
    assert all(map(balanced, ["", "(1)[2]", r"\{1\}", r"\(1"]))
    assert not any(map(balanced, ["(", ")(", r"\{1", "1}"]))


def test_result():
    assert result(r"\lim_{x\to 0} x = 1") == result("x=2=1") == "1" and result("(x=1)") == "(x=1)"
