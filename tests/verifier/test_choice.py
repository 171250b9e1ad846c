"""Multiple choice: a statement commits to exactly one option, or it is not correct."""

import json
import pathlib

import pytest

from pubswap_jax.verifier.choice import judge

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def test_statements_are_judged_right():
    rows = [json.loads(line) for line in (GOLDEN / "verify_choices.jsonl").read_text().splitlines()]
    found = [judge(row["answer"], row["gold"], row["options"])[0] == "correct" for row in rows]
    assert [row for row, ok in zip(rows, found, strict=True) if ok != row["label"]] == []
    assert len(rows) > 200


@pytest.mark.parametrize("letter", "ABCDE")
def test_every_letter_alone_commits(letter):
    assert judge(letter, letter, None)[0] == "correct"
    assert judge(letter, "F", None)[0] == "wrong"


def test_two_options_of_the_same_text_cannot_be_named_by_it():
    assert judge("Paris", "A", {"A": "Paris", "B": "Paris"})[0] != "correct"
    assert judge("Paris", "A", {"A": "Paris", "B": "Rome"})[0] == "correct"


@pytest.mark.parametrize(
    "flood",
    [
        "Answer: ",
        "A",
        "A ",
        "is A",
        "(",
        '"answer_choice": "',
        "it is ",
        "\n",
        "or B ",
        "choose ",
        "not ",
        "B\n",
        "Ａ",
        "答案是",
    ],
)
def test_a_flood_is_read_in_linear_time(flood):
    """Linear work ends at once. Quadratic work on a million characters takes many minutes, and this test would not end."""
    assert judge(flood * (1_000_000 // len(flood)), "C", None)[0] != "correct"
