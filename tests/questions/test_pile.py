"""Rows keep a question and its token ids together, whatever is left out of a pile or drawn from it."""

import numpy as np
import pytest

from pubswap_jax.questions.pile import Row, draw, problems_of, set_aside, usable, without_copies
from pubswap_jax.questions.problem import Problem


class Tokenizer:
    """One token a character."""

    def encode(self, problem):
        return np.arange(len(problem.prompt))


def rows(count=20):
    problems = [Problem(f"q{i}", f"{i * 7919} and {i * 31}?", str(i), f"t{i % 2}") for i in range(count)]
    return [Row(problem, np.array([i])) for i, problem in enumerate(problems)]


def together(rows):
    """Whether every row still has the token ids that `rows()` gave its question."""
    return all(row.problem.id == f"q{row.ids[0]}" for row in rows)


def test_unreadable_and_long_questions_are_left_out_and_counted():
    problems = [Problem("good", "1+1=", "2"), Problem("bad", "1+2=", " "), Problem("long", "1" * 9, "3")]
    pile = usable(problems, Tokenizer(), 5, "training")
    assert [(row.problem.id, len(row.ids)) for row in pile.rows] == [("good", 4)]
    assert pile.notes == [
        "1 of 3 questions left out, training: the verifier cannot read their answers: bad",
        "1 of 3 questions left out, training: longer than data.max_prompt_tokens=5: long",
    ]
    with pytest.raises(ValueError, match="no test question is left of 1: 1 of 1 questions left out, test: the verifier"):
        usable(problems[1:2], Tokenizer(), 5, "test")


def test_copies_leave_with_their_token_ids():
    pile = without_copies(rows(), [rows()[3], rows()[5]], "public: ")
    assert len(pile.rows) == 18 and together(pile.rows)
    assert pile.notes == ["2 of 20 questions left out, public: near copies of test questions: q3, q5"]
    assert without_copies(rows(4), rows()[10:12]).notes == []
    assert without_copies(rows(2), rows(2)).rows == []


def test_a_part_is_drawn_over_topics_and_the_rest_stays():
    rest, drawn = set_aside(rows(), 6, 3, "data.test", [])
    assert together(rest) and together(drawn) and (len(rest), len(drawn)) == (14, 6)
    assert sorted(p.id for p in problems_of([*rest, *drawn])) == sorted(p.id for p in problems_of(rows()))
    assert sorted(p.topic for p in problems_of(drawn)) == ["t0"] * 3 + ["t1"] * 3
    at = draw(rows(), 6, 3)
    assert [row.problem.id for row in drawn] == [f"q{i}" for i in at] and (np.diff(at) > 0).all()
    assert draw(rows(), 6, 4).tolist() != at.tolist() and draw(rows(), 99, 3).tolist() == list(range(20))


def test_too_few_questions_are_an_error_that_says_where_the_others_went():
    notes = ["2 of 22 questions left out, training: longer", "a tenth is the test"]
    with pytest.raises(
        ValueError, match="^config.data.test=20: there are only 20 questions to take them from; 2 of 22"
    ) as error:
        set_aside(rows(), 20, 0, "data.test", notes)
    assert "tenth" not in str(error.value)
