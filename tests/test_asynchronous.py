"""Asynchronous clients in whole runs."""

import jax
import numpy as np
import pytest
from small_world import config_of, federated_as, finished

from experiments.kill_and_resume.combinations import outcome
from pubswap_jax import loop
from pubswap_jax.run import state


@pytest.fixture(scope="module")
def run():
    return finished()[0]


def asynchronous(run, **changes):
    return federated_as(run, config_of(run, federation__method="fedbuff", **changes))


def test_equal_speeds_and_k_b_and_o_of_all_clients_are_the_synchronous_run(run, tmp_path):
    last = loop.train(asynchronous(run), tmp_path)
    ours, theirs = outcome(tmp_path), outcome(finished()[1])
    assert ours | {"arrays": ""} == theirs | {"arrays": ""}, "rows, evaluations and transcripts"
    synchronous = state.resume(finished()[1] / "checkpoints", run, print)[0].federation
    for one, other in zip(*(jax.tree.leaves((s.server, s.clients.adapter)) for s in (last, synchronous)), strict=True):
        assert np.array_equal(one, other)
