"""Questions from lists, data sets and frames are the same questions."""

import math

import pytest

from pubswap_jax.questions import memory
from pubswap_jax.questions.sources import Fields

ROWS = [
    {"question": "1 + 1?", "answer": "2", "topic": "sums", "hint": 7},
    {"question": "2 + 2?", "answer": "4", "topic": "sums", "hint": None},
]


def test_lists_data_sets_and_frames_give_equal_questions():
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    assert math.isnan(frame["hint"][1])
    made = [memory.problems(memory.rows(of), Fields()) for of in (ROWS, datasets.Dataset.from_list(ROWS), frame)]
    assert made[0] == made[1] == made[2]
    assert [one.columns["hint"] for one in made[2]] == [7, None]
    assert (made[0][1].id, made[0][1].answer, made[0][1].topic) == ("row/1", "4", "sums")


def test_mistakes_name_the_row():
    with pytest.raises(ValueError, match=r"questions\[0\]: no column 'problem' for data.fields.prompt"):
        memory.problems(memory.rows(ROWS), Fields(prompt="problem"))
    with pytest.raises(ValueError, match="questions: two rows have the id '7'"):
        memory.problems([row | {"id": 7} for row in ROWS], Fields())
    with pytest.raises(ValueError, match="questions: no questions in it"):
        memory.problems(memory.rows([]), Fields())
