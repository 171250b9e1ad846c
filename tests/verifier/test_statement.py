"""The value that follows "the answer is"."""

import pytest

from pubswap_jax.verifier.statement import value_of_statement


@pytest.mark.parametrize(
    ("rest", "value"),
    [
        ("$1$ and $2$.", "1, 2"),
        ("5. I hope so", "5"),
        ("the volume of $ABCD$ is 120.", "120"),
        ("approximately 5", "5"),
        ("negative 5", "-5"),
        ("x = 6 rather than 5", "x = 6"),
        ("not 5", "not 5"),
        ("at least 5 apples", "at least 5 apples"),
        ("5 (see above)", "5"),
        ("12 squared", "12 squared"),
        ("12 apples", "12"),
        ("half of 12 apples", "half of 12 apples"),
        ("it cannot be 5", "it cannot be 5"),
    ],
)
def test_the_value_of_a_statement(rest, value):
    assert value_of_statement(rest) == value
