"""Evaluation: figures that a person can compute, and answers that depend on nothing but the question and the adapter."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubswap_jax.policy.toyworld import EOS, TOY_CONFIG, toy
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.problem import Problem
from pubswap_jax.run import pass_at_k as ev
from pubswap_jax.run.judge import Grades
from pubswap_jax.types import Prompts


def test_pass_at_k_by_hand():
    correct = np.array([[True, False, False, False], [True, True, False, False]])
    assert ev.pass_at_k(correct, 1) == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert ev.pass_at_k(correct, 2) == pytest.approx(((1 - 3 / 6) + (1 - 1 / 6)) / 2)  # C(3,2)/C(4,2), C(2,2)/C(4,2)
    assert ev.pass_at_k(correct, 4) == 1.0
    assert isinstance(ev.pass_at_k(correct, 1), float)


@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=4)))
def test_pass_at_k_is_the_mean_over_all_subsets(rows):
    correct = np.array(rows)
    for k in range(1, correct.shape[1] + 1):
        subsets = list(itertools.combinations(range(correct.shape[1]), k))
        obvious = np.mean([[row[list(subset)].any() for subset in subsets] for row in correct])
        assert math.isclose(ev.pass_at_k(correct, k), obvious, abs_tol=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow():
    correct = np.zeros((1, 5000), bool)
    correct[0, :2500] = True
    assert ev.pass_at_k(correct, 2501) == 1.0 and ev.pass_at_k(correct, 1) == 0.5


@pytest.mark.parametrize("k", [0, 3])
def test_a_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=f"k: between 1 and the 2 samples of each question expected, got {k}"):
        ev.pass_at_k(np.ones((3, 2), bool), k)
    with pytest.raises(ValueError, match="neither of them empty"):
        ev.pass_at_k(np.ones((0, 2), bool), 1)


def test_majority_by_hand():
    answers = np.array(
        [
            ["3", "3", "4", "5"],  # the right answer wins
            ["3", "4", "4", "5"],  # a wrong one wins
            ["1/2", "0.5", "7", "7"],  # right in two spellings: they vote together, a tie with 7
            ["", "", "", "3"],  # silence has no vote
            ["", "", "", ""],
        ],
        object,
    )
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]], bool)
    assert ev.maj_at_k_each(answers, correct).tolist() == [1.0, 0.0, 0.5, 1.0, 0.0]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = ev.interval(rng.random(60) < 0.3, draws=300)
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_an_interval_of_equal_values_has_a_width():
    z2 = 1.959964**2
    assert ev.interval(np.ones(5)) == (pytest.approx(5 / (5 + z2)), 1.0)  # Wilson's, of 5 of 5
    assert ev.interval(np.zeros(5)) == (0.0, pytest.approx(z2 / (5 + z2)))
    low, high = ev.interval(np.zeros(32), lowest=-1.0)
    assert high == -low == pytest.approx(z2 / (32 + z2))
    low, high = ev.interval(np.array([0.5]))
    assert low == 0.0 and high == 1.0


def test_topics_and_the_final_table():
    problems = [Problem(str(i), "?", "1", topic) for i, topic in enumerate("bab")]
    base = _evaluation(problems, [[0, 0], [1, 0], [0, 0]])
    best = _evaluation(problems, [[1, 1], [1, 0], [1, 0]])
    assert ev.by_topic(best) == {"a": 0.5, "b": 0.75}
    table = ev.comparison(base, [best])
    assert [row[:4] for row in table[:2]] == [("a", 1, 0.5, 0.5), ("b", 2, 0.0, 0.75)]
    assert table[2][:4] == ("all", 3, pytest.approx(1 / 6), pytest.approx(2 / 3))
    assert table[0][4] < 0.0 < table[0][5] and table[1][4:] == (0.5, 1.0)
    figures = ev.summary(best, (1, 2, 64))
    assert figures["pass@2"] == 1.0 and "pass@64" not in figures and figures["pass@1_low"] <= figures["pass@1"]


def _evaluation(problems, correct):
    correct = np.array(correct, bool)
    return ev.Evaluation(problems, correct, np.where(correct, "1", "0").astype(object), np.ones(correct.shape, np.int32))


# --- the sampler ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    model, base, adapter = toy(jax.random.key(0), TOY_CONFIG.replace(num_layers=1))
    adapters = jax.tree.map(lambda x: jnp.stack([x, x + 0.3, x]), adapter)
    tokens = np.array([[i % 10, 10, i // 2, 11] for i in range(7)], np.int32)
    problems = [Problem(str(i), "?", "even", "sums") for i in range(7)]
    questions = Questions(problems, Prompts(tokens, np.ones_like(tokens, bool)))
    sampler = ev.make_sampler(model, samples=3, max_new_tokens=4)
    put = lambda tree, models: jax.device_put(tree)  # noqa: E731
    examiner = ev.Examiner(sampler, None, parity_grade, jax.random.key(1), put, batch=7, samples=3, every=1, clients=True)
    return examiner, base, adapters, questions


def parity_grade(rollouts, problems):
    rollouts = jax.device_get(rollouts)
    said = rollouts.mask & (rollouts.tokens != EOS)
    assert len(problems) == rollouts.tokens.shape[0] and len(problems[0]) == rollouts.tokens.shape[1]
    total = (rollouts.tokens * said).sum(-1)
    return Grades((total % 2 == 0).astype(np.int8), total.astype(str), total.astype(str))


def test_a_question_is_answered_the_same_whatever_stands_beside_it(world):
    examiner, base, adapters, questions = world
    whole = ev.evaluate(examiner, base, adapters, questions)
    parts = ev.evaluate(examiner._replace(batch=3), base, adapters, questions)
    alone = ev.evaluate(examiner, base, jax.tree.map(lambda x: x[1:2], adapters), questions)
    for one, other in [*zip(whole, parts, strict=True), (whole[1], alone[0]), (whole[0], whole[2])]:
        assert one.answers.tolist() == other.answers.tolist() and one.correct.tolist() == other.correct.tolist()
    assert whole[0].answers.tolist() != whole[1].answers.tolist()
    assert whole[0].answers.shape == (7, 3) and len({tuple(row) for row in whole[0].answers}) > 1


def test_all_batches_share_one_compiled_program(world):
    examiner, base, adapters, questions = world
    examiner, before = examiner._replace(batch=4), examiner.sampler._cache_size()
    ev.evaluate(examiner, base, adapters, questions)
    short = Questions(questions.problems[:2], jax.tree.map(lambda x: x[:2], questions.prompts))
    with jax.transfer_guard("disallow"):
        ev.evaluate(examiner, base, adapters, short)
    assert examiner.sampler._cache_size() - before == 1
