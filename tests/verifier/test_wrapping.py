"""Marks, labels and words around an answer are removed."""

import pytest

from pubswap_jax.verifier.wrapping import unwrapped


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("**15**", "15"),
        ('"15"', "15"),
        ("`x`", "x"),
        (r"\text{Answer: }15", "15"),
        (r"\text{Answer: 15}", "15"),
        ("The area is 15", "15"),
        (r"\text{The sum of } 2 \text{ and } 3 \text{ is } 5", "5"),
        ("negative 5", "-5"),
        ("USD 5", "5"),
        ("fifteen", "15"),
        ("twenty-one", "21"),
        (r"\text{Ninety nine}", "99"),
    ],
)
def test_marks_labels_and_words(text, wanted):
    assert unwrapped(text) == wanted


@pytest.mark.parametrize(
    "text", ["15", "area = 5", "**1** + **2**", "5 minus 3", r"\text{The } x \text{ is not } 5", "twentyish"]
)
def test_other_texts_are_kept(text):
    assert unwrapped(text) == text
