"""Finds the answer in a completion."""

import json
import pathlib

import pytest

from pubswap_jax.verifier import pool
from pubswap_jax.verifier.extraction import extract, gold_answer
from pubswap_jax.verifier.score import verify

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def test_completions_are_judged_right():
    rows = [json.loads(line) for line in (GOLDEN / "verify_texts.jsonl").read_text().splitlines()]
    found = verify([row["answer"] for row in rows], [row["gold"] for row in rows], timeout=10.0)
    pool.close()
    wrong = [(row, got) for row, ok, got in zip(rows, found.correct, found.extracted, strict=True) if ok != row["label"]]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{7} and \boxed{8", "7"),
        (r"<think>\boxed{1}</think> The answer is 2.", "2"),
        ("The answer is 41, not 42.", "41"),
        ("The volume of $ABCD$ is 120. I hope it is correct.", "120"),
        ("The final answer is: $1$ and $2$.", "1, 2"),
        ("He pays $5 + $6 = $11\n#### 11", "11"),
        ("So he has 12 apples.", "12"),
        ("x = 13 because 25 = 13 + 12.", "x = 13"),
        ("12 is not the answer.", ""),
        ("which gives negative 3.", "-3"),
        ("", ""),
    ],
)
def test_extract(text, answer):
    assert extract(text) == answer


def test_golds_may_be_bare_or_in_dollars_or_whole_solutions():
    assert gold_answer(r"$1$ and $2$") == "1, 2"
    assert gold_answer(r"Hence $x=2$ and the sum is $\boxed{3}$.") == "3"
    assert gold_answer(r"\frac{1}{2}") == r"\frac{1}{2}"


@pytest.mark.parametrize(
    "flood",
    [
        "}",
        "{",
        "$",
        r"\boxed",
        r"\boxed{",
        "$x$ and ",
        r"\[",
        r"\(",
        "Answer: ",
        "\n",
        "1 ",
        "1,",
        r"\$",
        "$$",
        "is ",
        "(" * 9,
        "not ",
        "minus ",
        "1 because ",
        "１",
    ],
)
def test_a_flood_is_read_in_linear_time(flood):
    """Linear work ends at once. Quadratic work on a million characters takes many minutes, and this test would not end."""
    extract(flood * (1_000_000 // len(flood)))
