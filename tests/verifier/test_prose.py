"""Distinguishes prose from mathematics, and compares words."""

import pytest

from pubswap_jax.verifier.prose import is_prose, plain


@pytest.mark.parametrize("text", ["Monday", "not a circle", r"5\text{ is wrong}", "in", "12 divided by 5"])
def test_prose(text):
    assert is_prose(text)


@pytest.mark.parametrize("text", ["x", "ab", "abc+1", r"\sin x", r"\begin{pmatrix}1\end{pmatrix}", "15"])
def test_mathematics(text):
    assert not is_prose(text)


def test_words_are_compared_without_case_marks_and_articles():
    assert plain(r"\text{ an Obtuse.}") == plain("obtuse") == "obtuse"
    assert plain("A") != plain("a")


def test_a_prime_behind_a_number_stays():
    assert plain("5'") != plain("5") and plain("'yes'") == plain("yes")
