"""What the loop tells the outside: a finished round's line, excluded clients, and the end of a run without a sound client."""

import numpy as np
import pytest

from pubswap_jax.questions.problem import Problem
from pubswap_jax.run.book import announcement, exclusion, healthy, silent, surveyed
from pubswap_jax.run.state import Best
from pubswap_jax.types import Batch, Event, StepRecord, Verdict


def test_a_round_is_announced_with_its_figures():
    line = announcement(2, 3, {"eval/pass@1": 0.5, "clients/pass@1": [0.25, 0.75]}, Best(1, 0.6))
    assert line == "round 2 of 3 saved: validation pass@1 0.500 (clients' own 0.500), best in round 1"
    assert announcement(1, 3, {}, Best(0, 0.1)) == "round 1 of 3 saved"


def test_excluded_clients_are_named():
    line = exclusion(3, np.array([True, False, False]))
    assert line.startswith("round 3: the adapter of client 1, 2 is not finite")


def test_a_round_without_a_sound_participant_ends_the_run():
    event = Event("close", np.array([True, False]), 1, 4, 1, np.zeros(2, int))
    healthy(np.array([True, False]), event)
    with pytest.raises(ValueError, match="round 2: no client's adapter is finite any more; lower --config.training.lr"):
        healthy(np.array([False, True]), event)


def test_experts_that_teach_nothing_are_named():
    figures = {
        "experts_asked": np.array([0.5, 0.25, 0.25, 0.0]),
        "experts_given": np.array([1.0, 0.5, 0.0, 0.0]),
        "experts_reward": np.array([0.0, 0.5, 0.0, 0.0]),
        "experts_constant": np.array([1.0, 0.0, 0.0, 0.0]),
        "experts_sound": np.array([True, True, False, True]),
    }
    assert silent(3, figures) == [
        "round 3: expert 0 gave every candidate the reward 0, which teaches nothing",
        "round 3: 50% of the rewards of expert 1 are missing or not finite, and left out",
        "round 3: the adapter of expert 2 is not finite; it starts again from the base's",
    ]
    assert silent(1, {}) == [] == silent(1, figures | {"experts_asked": np.zeros(4)})


def test_a_survey_says_what_each_client_knows_of_each_topic():
    asked = [[Problem(str(i), "?", "1", topic) for i, topic in enumerate(["b", "a", "b"])]]
    correct = np.array([[[True, False], [False, True], [False, False]]])  # [1, A, C]
    seen = StepRecord({}, None, Verdict(None, correct, None), None, None, None, None)
    assert surveyed(Batch(None, asked, True), seen) == {}
    assert surveyed(Batch(None, asked, True, labelled=True), seen) == {
        "auxiliary/known": {"questions": {"a": 1, "b": 2}, "right": {"a": [0.0, 1.0], "b": [0.5, 0.0]}}
    }
