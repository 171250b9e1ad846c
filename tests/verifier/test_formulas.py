"""Formulas in a text, and formulas that are one answer together."""

import pytest

from pubswap_jax.verifier.formulas import joined_formulas, whole_formulas


@pytest.mark.parametrize(
    ("text", "joined", "rest"),
    [
        ("so $1$ and $2$.", "1, 2", "."),
        (r"\[x=1\], or \(x=2\) here", "x=1, x=2", " here"),
        ("$5$ and then $6$", "5", " and then $6$"),
        (r"$5$\% of it", r"5\%", r"\% of it"),
    ],
)
def test_adjacent_formulas_are_one_answer(text, joined, rest):
    found = joined_formulas(text)
    assert found.text == joined and text[found.end :] == rest and text[found.start] in "$\\"


def test_a_text_without_formulas_has_none():
    assert joined_formulas("5 and 6") is None and joined_formulas(r"\$5") is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [("$1$", "1"), ("$1$, $2$ and $3$", "1, 2, 3"), (r"$5$ \%", r"5\%"), ("$1$ apples", None), ("x = $1$", None), ("1", None)],
)
def test_a_text_of_formulas_alone(text, whole):
    assert whole_formulas(text) == whole
