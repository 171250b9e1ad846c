"""The grader: the right gold for every response, and verdicts as arrays."""

import numpy as np
import pytest

from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.tokens import load_tokenizer, save_char_tokenizer
from pubswap_jax.run.judge import grade, make_judge
from pubswap_jax.types import CORRECT, STATUSES, Batch, Prompts, Reference, Rollout

OPTIONS = {"A": "aspirin", "B": "bed rest"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_char_tokenizer(folder, "0123456789AB\\boxed{}- ")
    return load_tokenizer(folder)


def rollouts(tokenizer, texts):
    """texts [C][B][G] as tokens, ended and padded."""
    array = np.array(texts, object)
    ids = [[*tokenizer.hf(text, add_special_tokens=False).input_ids, tokenizer.stop_ids[0]] for text in array.ravel()]
    length = max(map(len, ids)) + 1
    tokens = np.array([row + [tokenizer.pad_id] * (length - len(row)) for row in ids], np.int32).reshape(*array.shape, length)
    mask = np.array([[i < len(row) for i in range(length)] for row in ids]).reshape(tokens.shape)
    return Rollout(tokens, mask, np.zeros(tokens.shape, np.float32))


def test_each_response_meets_its_own_gold_and_kind(tokenizer):
    one, two = Problem("1", "?", "1"), Problem("2", "?", "2")
    choice = Problem("3", "?", "B", kind="choice", options=OPTIONS)
    texts = [[[r"\boxed{1}", r"\boxed{2}"], [r"\boxed{A}", r"\boxed{B}"]], [[r"\boxed{1}", r"\boxed{2}"], [r"\boxed{1}", ""]]]
    grades = grade(tokenizer, rollouts(tokenizer, texts), [[one, choice], [two, one]])
    assert grades.correct.tolist() == [[[True, False], [False, True]], [[False, True], [True, False]]]
    assert grades.texts.tolist() == texts and grades.extracted[0, 0].tolist() == ["1", "2"]
    assert STATUSES[grades.status[1, 1, 1]] == "unparsed" and grades.status[0, 0, 0] == CORRECT


def test_the_judge_gives_a_reward_for_correct_and_none_else(tokenizer):
    made = rollouts(tokenizer, [[[r"\boxed{1}", r"\boxed{7}"]]])
    batch = Batch(Prompts(np.zeros((1, 1, 1), np.int32), np.ones((1, 1, 1), bool)), [[Problem("1", "?", "1")]])
    verdict = make_judge(tokenizer)(made, batch)
    assert verdict.reward.tolist() == [[[1.0, 0.0]]] and verdict.correct.tolist() == [[[True, False]]]
    assert (verdict.reward.dtype, verdict.correct.dtype, verdict.status.dtype) == (np.float32, bool, np.int8)


def test_a_calculation_is_right_by_its_value_and_wrong_where_answers_must_be_evaluated(tokenizer):
    made = rollouts(tokenizer, [[["76-25", "51", r"\boxed{52-1}", "76-26"]]])
    asked = [[Problem("1", "?", "51")]]
    assert grade(tokenizer, made, asked, accept="value").correct.tolist() == [[[True, True, True, False]]]
    strict = grade(tokenizer, made, asked, accept="evaluated")
    assert strict.correct.tolist() == [[[False, True, False, False]]] and STATUSES[strict.status[0, 0, 0]] == "wrong"
    batch = Batch(Prompts(np.zeros((1, 1, 1), np.int32), np.ones((1, 1, 1), bool)), asked)
    assert make_judge(tokenizer, accept="evaluated")(made, batch).reward.tolist() == [[[0.0, 1.0, 0.0, 0.0]]]


def test_experts_judge_by_the_answer_they_hold_and_else_by_agreement_with_their_own(tokenizer):
    sums, choice = Problem("1", "?", "1"), Problem("3", "?", "B", kind="choice", options=OPTIONS)
    candidates = rollouts(tokenizer, [[[r"\boxed{1}", r"\boxed{7}"], [r"\boxed{A}", r"\boxed{B}"]]] * 3)
    said = rollouts(tokenizer, [[[r"\boxed{7}"], [r"\boxed{A}"]], [[r"\boxed{7}"], [r"\boxed{A}"]], [[""], [""]]])
    held = np.array([[False, False], [True, True], [False, False]])
    asked = np.array([[True, True], [True, True], [True, False]])
    batch = Batch(None, Reference([[sums, choice]] * 3, held, asked, said))
    verdict = make_judge(tokenizer)(candidates, batch)
    assert verdict.correct.tolist() == [
        [[False, True], [True, False]],  # its own wrong answers
        [[True, False], [False, True]],  # the answers that it holds
        [[False, False], [False, False]],  # no answer of its own, and a question that was not asked
    ]
