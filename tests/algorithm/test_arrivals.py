"""Arrivals on a simulated clock against lockstep, a plain event loop, and small timelines written by hand."""

import pytest

from pubswap_jax.algorithm.arrivals import arrivals
from pubswap_jax.algorithm.timeline import lockstep
from pubswap_jax.questions.schedule import PARTICIPATION, Schedule, participants, permutation


def order(dispatch, clients=3):
    return permutation(clients, 0, PARTICIPATION, dispatch)


def line(speeds, rounds=4, plan=Schedule(2, 0), **places):  # noqa: B008
    return arrivals(plan, rounds, speeds, lambda dispatch: order(dispatch, len(speeds)), **places)


def events(timeline):
    return [timeline(index) for index in range(timeline.length + 1)]


@pytest.mark.parametrize("unit, period", [("step", 2), ("extra", 2), ("round", 2), ("step", 0)])
@pytest.mark.parametrize("some", [3, 2])
def test_equal_speeds_and_k_b_and_o_of_one_size_are_lockstep(unit, period, some):
    plan = Schedule(4, period, unit)
    expected = lockstep(plan, 3, lambda round: participants(0, round, 3, some % 3))
    found = line([0.3] * 3, 3, plan, jobs=some, buffer=some, free=some)
    assert found.length == expected.length
    for ours, theirs in zip(events(found)[:-1], events(expected)[:-1], strict=True):
        for name in ("kind", "round", "step", "number"):
            assert getattr(ours, name) == getattr(theirs, name), (ours, theirs)
        if ours.round >= 0:
            assert ours.who.tolist() == theirs.who.tolist()
        assert ours.served[ours.who].tolist() == theirs.served[ours.who].tolist() or ours.kind != "private"
    for round, step in ((0, 1), (2, 3)):
        assert found.number(round, step) == expected.number(round, step)
