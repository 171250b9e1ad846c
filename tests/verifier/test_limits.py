"""Answers that are refused before any parser runs."""

import pytest

from pubswap_jax.verifier.limits import MAX_NESTING, nesting, refusal, too_deep


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1+" * 3000, "too long"),
        ("1" * 300, "too many digits"),
        ("12,34," * 600, "too many digits"),
        ("x+" * 600, "too many symbols"),
        ("(" * 70 + ")" * 70, "nested too deeply"),
        ("-" * 100 + "1", "nested too deeply"),
        ("__import__('os')", "a program"),
        (r"\int_0^1 x dx", "a computation"),
        (r"\frac{d^{500}}{dx^{500}} e^x", "a computation"),
        ("2^{2^{2^{2}}}", "a tower of powers"),
        ("9^9^9", "a tower of powers"),
        ("2^{10000000000}", "a large power"),
        ("0.1^{1000000000}", "a large power"),
        ("100000000!", "a large factorial"),
        ("((3!)!)!", "a large factorial"),
        (r"\binom{1000000000}{500000000}", "a large binomial"),
        (r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{1000000000}", "a large power of a matrix"),
    ],
)
def test_refused(text, why):
    assert refusal(text) == why


@pytest.mark.parametrize(
    "text",
    [
        r"\frac{1}{2}",
        "2^{1000}-1",
        "x^{10}",
        "20!",
        r"\binom{2026}{1013}",
        "10^{20}",
        "e^{-x^2}",
        "2^{n^2}",
        "x^{2^n}",
        r"\sqrt{\sqrt{2}}",
        "x2^{.}",
    ],
)
def test_let_through(text):
    assert refusal(text) == ""


def test_nesting_counts_brackets_and_chains_of_signs():
    assert (nesting("((1))"), nesting("- - -1"), nesting("1+2-3")) == (2, 3, 1)
    assert [too_deep("(" * depth) for depth in (MAX_NESTING, MAX_NESTING + 1)] == [False, True]
