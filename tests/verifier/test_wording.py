"""Lines of mathematics and lines of prose."""

import pytest

from pubswap_jax.verifier.wording import no_prose


@pytest.mark.parametrize("line", ["x = 5", r"\frac{1}{2}", "sqrt 5", "odd", "1 and 2", "5 pct", ""])
def test_mathematics_or_a_single_word(line):
    assert no_prose(line)


@pytest.mark.parametrize("line", ["it is 5", "five red apples", "odd 5", "x equals 5"])
def test_prose(line):
    assert not no_prose(line)
