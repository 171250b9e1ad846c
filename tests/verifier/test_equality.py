"""When two answers mean the same: 720 pairs of every form, and laws."""

import json
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubswap_jax.verifier import pool
from pubswap_jax.verifier.equality import Quick, equal_texts, plain_numbers
from pubswap_jax.verifier.notation import canonical
from pubswap_jax.verifier.score import verify
from pubswap_jax.verifier.shape import Undecided

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True, scope="module")
def closed_pool():
    yield
    pool.close()


def test_pairs_of_every_form_are_judged_right():
    rows = [json.loads(line) for line in (GOLDEN / "verify_pairs.jsonl").read_text().splitlines()]
    found = verify([rf"\boxed{{{row['answer']}}}" for row in rows], [row["gold"] for row in rows], timeout=10.0)
    wrong = [(row, status) for row, status in zip(rows, found.status, strict=True) if (status == "correct") != row["label"]]
    assert wrong == []


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("0.5", r"\frac{1}{2}", True),
        ("(1,2)", "(2,1)", False),
        ("1,2", "2,1", True),
        ("[0,1)", "(0,1)", False),
        ("x=5", "5", True),
        ("10%", "0.1", True),
        ("1,234", "1234", True),
        ("x=1,y=2", "(2,1)", False),
        (r"\text{even}", r"\text{odd, not even}", False),
    ],
)
def test_the_fast_path_decides_plain_answers(gold, answer, same):
    assert equal_texts(canonical(gold), canonical(answer), Quick()) is same


def test_the_fast_path_knows_what_it_does_not_know():
    with pytest.raises(Undecided):
        equal_texts(r"\sqrt{12}", r"2\sqrt{3}", Quick())
    assert plain_numbers("(1,2)") and plain_numbers("even") and not plain_numbers(r"\sqrt{2}") and not plain_numbers("")


@settings(deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_counts_in_tuples_alone(numbers, random):
    shuffled = list(numbers)
    random.shuffle(shuffled)
    one, other = ",".join(map(str, numbers)), ",".join(map(str, shuffled))
    assert equal_texts(rf"\{{{one}\}}", rf"\{{{other}\}}", Quick())
    assert equal_texts(f"({one})", f"({other})", Quick()) == (numbers == shuffled)


@settings(deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=5, unique=True), st.integers(21, 30))
def test_one_more_element_is_another_set(numbers, extra):
    one = ", ".join(map(str, numbers))
    assert not equal_texts(one, f"{one}, {extra}", Quick())
    assert not equal_texts(f"{one}, {extra}", one, Quick())
