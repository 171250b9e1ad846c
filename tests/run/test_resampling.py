"""Drawing questions again, on the host: when, how often, and what was asked in the end."""

import jax
import numpy as np

from pubswap_jax.run.resampling import make_again, settled
from pubswap_jax.types import Batch, StepRecord, Verdict

EVERYBODY = np.ones(2, bool)


def verdicts(*flat):
    """Two clients with groups of two rewards, equal where `flat` says so."""
    reward = np.array([[[1.0, 1.0] if one else [1.0, 0.0] for one in client] for client in flat])
    return Verdict(reward, reward > 0, reward.astype(np.int8))


def test_a_client_with_a_flat_group_makes_a_draw_and_an_absent_one_does_not():
    again = make_again(lambda draw: f"draw {draw}", 2, EVERYBODY)
    some, none = verdicts((False, False), (False, True)), verdicts((False, False), (False, False))
    assert [again(some, done) for done in range(3)] == ["draw 0", "draw 1", None]
    assert again(none, 0) is None
    assert make_again(lambda draw: draw, 2, np.array([True, False]))(some, 0) is None


def test_shapes_make_one_draw_so_that_its_programs_are_known():
    shape = jax.eval_shape(lambda: verdicts((False, False), (False, False)))
    again = make_again(lambda draw: f"draw {draw}", 2, EVERYBODY)
    assert [again(shape, done) for done in range(2)] == ["draw 0", None]


def record(*drawn):
    nothing = dict.fromkeys(("metrics", "rollouts", "verdicts", "swapped_rollouts", "swapped_verdicts", "plan", "adapters"))
    return StepRecord(**nothing, drawn=drawn)


def test_the_answers_follow_the_questions_and_the_replaced_ones_are_counted():
    batch = Batch(None, [["a", "b"], ["c", "d"]], again=lambda verdicts, done: None)
    first = [["e", "f"], ["g", "h"]], np.array([[0, 2], [0, 1]])
    second = [["i", "j"], ["k", "l"]], np.array([[0, 1], [2, 3]])
    found, replaced = settled(batch, record(first, second))
    assert found.answers == [["a", "e"], ["k", "l"]] and replaced.tolist() == [0.5, 1.0]
    assert settled(batch, record())[1].tolist() == [0.0, 0.0]
    plain = batch.replace(again=None)
    assert settled(plain, record()) == (plain, None)
