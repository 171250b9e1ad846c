"""Asynchronous clients in whole runs."""

import jax
import numpy as np
import pytest
from small_world import config_of, federated_as, finished

from experiments.kill_and_resume.combinations import outcome
from pubswap_jax import loop
from pubswap_jax.run import journal, judge, state


@pytest.fixture(scope="module")
def run():
    return finished()[0]


CLOCK = ("simulated/", "uploads/", "round/staleness")  # figures that a synchronous run does not have


def rows(workdir, without=()):
    found = journal.read(workdir, "metrics")
    return [{k: v for k, v in row.items() if not k.startswith(("time/", *without))} for row in found]


def asynchronous(run, **changes):
    return federated_as(run, config_of(run, federation__method="fedbuff", **changes))


REVIVED = {
    "federation__method": "fedrevive",
    "federation__swap_period": 0,
    "federation__steps": 2,
    "federation__rounds": 4,
    "federation__speeds": "1,4,4",
    "federation__buffer": 1,
    "federation__free": 1,
    "federation__distil_steps": 2,
    "federation__distil_responses": 8,
    "checkpoint__steps": 1,
    "checkpoint__keep": 3,
}


class Killed(BaseException):
    """As kill -9: nothing of ours catches it."""


@pytest.mark.slow
@pytest.mark.parametrize("calls", [5, 9])
@pytest.mark.parametrize(
    "method",
    [REVIVED, REVIVED | {"federation__method": "fedbuff", "federation__buffer": 2, "federation__staleness_decay": 1.0}],
    ids=["fedrevive", "fedbuff"],
)
def test_killed_among_arrivals_and_resumed(run, tmp_path, monkeypatch, method, calls):
    changes = {name: value for name, value in method.items() if "distil" not in name or method is REVIVED}
    this = federated_as(run, config_of(run, **changes))._replace(measure=None)  # no swap to measure, as the assembly says
    loop.train(this, tmp_path / "whole")
    distilled = any("public/kl_after" in row for row in journal.read(tmp_path / "whole", "metrics"))
    assert distilled == (method is REVIVED)
    real, count = judge.verify, iter(range(10_000))

    def killed(*arguments, **named):
        if any((tmp_path / "killed").glob("checkpoints/round-*")) and next(count) == calls:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(judge, "verify", killed)
    with pytest.raises(Killed):
        loop.train(this, tmp_path / "killed")
    monkeypatch.undo()
    assert list((tmp_path / "killed" / "checkpoints").glob("round-*"))
    loop.train(this, tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_equal_speeds_and_k_b_and_o_of_all_clients_are_the_synchronous_run(run, tmp_path):
    last = loop.train(asynchronous(run), tmp_path)
    ours, theirs = outcome(tmp_path), outcome(finished()[1])
    assert {name for name in ours if ours[name] != theirs[name]} == {"metrics", "arrays"}
    assert rows(tmp_path, CLOCK) == rows(finished()[1]), "all other figures, of steps and rounds"
    synchronous = state.resume(finished()[1] / "checkpoints", run, print)[0].federation
    for one, other in zip(*(jax.tree.leaves((s.server.adapter, s.clients.adapter)) for s in (last, synchronous)), strict=True):
        assert np.array_equal(one, other)
