"""What the loop tells the outside: a finished round's line, excluded clients, and the end of a run without a sound client."""

import numpy as np
import pytest

from pubswap_jax.run.book import announcement, exclusion, healthy
from pubswap_jax.run.state import Best
from pubswap_jax.types import Event


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
