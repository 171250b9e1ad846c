"""The value at the end of a completion that has no box and no "answer is"."""

import pytest

from pubswap_jax.verifier.last_value import last_value


@pytest.mark.parametrize(
    ("tail", "value"),
    [
        ("$1$ and $2$", "1, 2"),
        ("x = 5", "x = 5"),
        ("Adding up.\nSo he has 12 apples.", "12"),
        ("We get $x=1$ or $x=2$.", "x=1, x=2"),
        ("We get $x=1$, which is about 1.", "x=1"),
        ("So it gives negative 3.", "-3"),
        ("So 12 is wrong.", ""),
        ("So it cannot be 12.", ""),
        ("So it is not 12.", ""),
        ("He takes twice 12 pears.", "twice 12"),
        ("This leads to x/12 pears here.", "x/12"),
        ("odd", "odd"),
        ("long and empty " * 20, ""),
    ],
)
def test_the_last_value(tail, value):
    assert last_value(tail) == value
