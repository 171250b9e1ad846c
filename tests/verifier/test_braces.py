r"""Closing brackets, and arguments in braces."""

import pytest

from pubswap_jax.verifier.braces import braced, closing


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("{a{b}}", 0, 5), ("x(1)", 1, 3), (r"{\}}", 0, 3), ("{a", 0, -1), ("[1)]", 0, 3)],
)
def test_the_closing_bracket(text, start, end):
    assert closing(text, start) == end


def test_the_search_for_a_closing_bracket_is_bounded():
    assert closing("{" + "a" * 10 + "}", 0, limit=5) == -1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac1{23}", r"\frac{1}{23}"),
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\frac{\frac12}3", r"\frac{\frac{1}{2}}{3}"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\sqrt(x+1)", r"\sqrt{x+1}"),
        (r"\sqrt[3]8", r"\sqrt[3]{8}"),
        (r"\sqrt[2]8", r"\sqrt{8}"),
        (r"\cbrt 8", r"\sqrt[3]{8}"),
        ("x^(1/2)", "x^{1/2}"),
        (r"x^\frac12", r"x^{\frac{1}{2}}"),
        (r"\frac1", r"\frac1"),
        ("x^(1", "x^(1"),
        ("", ""),
    ],
)
def test_arguments_get_braces(text, wanted):
    assert braced(text) == wanted
