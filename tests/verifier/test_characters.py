"""Unicode characters in ASCII and LaTeX."""

import pytest

from pubswap_jax.verifier.characters import folded, spelled


@pytest.mark.parametrize(
    ("text", "wanted"), [("１２．５", "12.5"), ("−3", "-3"), ("1\u200b2", "12"), ("1、2", "1,2"), ("é", "é")]
)
def test_full_width_forms_and_dashes_become_ascii(text, wanted):
    assert folded(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x¹⁰", "x^{10}"),
        ("a₁₂", "a_{12}"),
        ("2⁻³", "2^{-3}"),
        ("½π", r"\frac{1}{2} \pi "),
        ("1\n2", "1 2"),
        ("30°", "30^{\\circ}"),
    ],
)
def test_symbols_become_commands(text, wanted):
    assert spelled(text) == wanted
