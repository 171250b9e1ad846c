"""Names in front of an answer, and texts that only look like names."""

import pytest

from pubswap_jax.verifier.labels import is_name, point


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "f(x)",
        "f(-1)",
        "P(X=1)",
        r"\Pr(X=1)",
        r"n(A\cup B)",
        "|S|",
        "|AB|",
        "[ABC]",
        r"S_{\triangle ABC}",
        r"f_{\max}",
        r"f(\frac12)",
        "x_1",
        r"\text{Area}",
        "V_1:V_2",
        r"\frac{NO}{BO}",
        r"\angle A",
        "f^{-1}(x)",
    ],
)
def test_names(text):
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["n(n+1)", "x(x+1)", "a(b+c)", "|x|", "|x-1|", "5", "f(1)+1", "P(X=1", "x" * 100, "", "2x", "x+y", "x^2", "3"]
)
def test_no_names(text):
    assert not is_name(text)


def test_points_lose_their_names():
    assert point("P(1,2)") == point("(1,2)") == "(1,2)"
    assert point("P(1)") == "P(1)" and point("2(1,2)") == "2(1,2)" and point("P(1,2)+1") == "P(1,2)+1"


@pytest.mark.parametrize("flood", ["P(", "f(", "A", "|A", r"A\cup", "_{", "(1,"])
def test_a_flood_is_read_in_linear_time(flood):
    """Linear work ends at once. Quadratic work on a million characters takes many minutes, and this test would not end."""
    text = flood * (1_000_000 // len(flood))
    assert not is_name(text)
    point(text)
