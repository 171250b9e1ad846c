"""Arrivals on a simulated clock against lockstep, a plain event loop, and small timelines written by hand."""

import functools
import heapq
from fractions import Fraction

import numpy as np
import pytest

from pubswap_jax.algorithm.arrivals import arrivals, exact, slowest_staleness
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


def test_two_clients_by_hand():
    """Client 1 is twice as fast; every upload makes a version, and its client starts again at once."""
    found = [
        (event.time, event.kind, np.flatnonzero(event.who).tolist(), event.round, event.step)
        for event in events(line([1.0, 2.0], 3, jobs=2, buffer=1, free=1))
    ]
    assert found == [
        (0.0, "evaluate", [0, 1], -1, 0),
        (0.0, "open", [0, 1], 0, 0),
        (0.5, "private", [1], 0, 0),
        (1.0, "private", [0], 0, 0),
        (1.0, "private", [1], 0, 1),
        (1.0, "close", [1], 0, 2),
        (1.0, "evaluate", [1], 0, 2),
        (1.0, "open", [1], 1, 0),
        (1.5, "private", [1], 1, 0),
        (2.0, "private", [0], 0, 1),
        (2.0, "private", [1], 1, 1),
        (2.0, "close", [0], 1, 2),
        (2.0, "evaluate", [0], 1, 2),
        (2.0, "open", [0], 2, 0),
        (2.0, "close", [1], 2, 2),
        (2.0, "evaluate", [1], 2, 2),
        (2.0, "open", [0, 1], 3, 0),
    ]


@pytest.mark.parametrize("slow, fast, end", [(1.0, 3.0, 1.0), (0.1, 0.3, 10.0)])
def test_three_steps_of_the_faster_end_with_one_step_of_the_slower_in_the_order_of_the_clients(slow, fast, end):
    """In floats six steps of 1/3 end before 2, and nine steps of 1/0.3 end before 30."""
    found = events(line([slow, fast], 12, Schedule(1, 0), jobs=2, buffer=1, free=1))
    closes = [(event.time, np.flatnonzero(event.who).tolist(), event.round) for event in found if event.kind == "close"]
    assert [clients for _, clients, _ in closes] == 3 * [[1], [1], [0], [1]]
    assert [time for time, _, _ in closes][2::4] == [end, 2 * end, 3 * end] == [time for time, _, _ in closes][3::4]
    assert [version for _, _, version in closes] == list(range(12))


def change(client, job):
    """What a client's job number `job` changes, whatever it starts from."""
    return np.sin(7 * client + 3 * job + np.arange(2))


def apply(held, decay=0.5):
    return np.mean([(1 + staleness) ** -decay * delta for _, staleness, delta in held], axis=0)


def plain_loop(speeds, steps, rounds, orders, jobs, buffer, free):
    """FedBuff as one upload after another: (client, staleness) of every upload, and the adapter of every version."""
    running, done, dispatches, now = [], [0] * len(speeds), 0, Fraction(0)
    adapters, held, uploads = [np.zeros(2)], [], []
    while len(adapters) <= rounds:
        if jobs - len(running) >= free:
            busy = {client for _, client, _ in running}
            for client in [c for c in orders(dispatches) if c not in busy][: jobs - len(running)]:
                heapq.heappush(running, (now + steps / exact(speeds[client]), client, len(adapters) - 1))
            dispatches += 1
        now, client, version = heapq.heappop(running)
        held.append((client, len(adapters) - 1 - version, change(client, done[client])))
        uploads.append(held[-1][:2])
        done[client] += 1
        if len(held) == buffer:
            adapters.append(adapters[-1] + apply(held))
            held = []
    return uploads, adapters


def replay(timeline, clients, buffer):
    """The same from the events of a timeline."""
    adapters, held, uploads, done = [np.zeros(2)], [], [], [0] * clients
    for event in events(timeline)[:-1]:
        if event.kind == "close":
            assert event.round == len(adapters) - 1
            for client in np.flatnonzero(event.who).tolist():
                held.append((client, int(event.staleness[client]), change(client, done[client])))
                uploads.append(held[-1][:2])
                done[client] += 1
            if len(held) == buffer:
                adapters.append(adapters[-1] + apply(held))
                held = []
        assert event.kind != "evaluate" or (event.round == len(adapters) - 2 and not held)
    return uploads, adapters


def cases():
    chance = np.random.default_rng(0)
    for number in range(1000):
        clients = int(chance.integers(1, 7))
        speeds = chance.choice([0.3, 1.0, 2.0, 3.0], clients) if number % 2 else chance.uniform(0.1, 3, clients)
        jobs = int(chance.integers(1, clients + 1))
        free = int(chance.integers(1, jobs + 1))
        yield number, speeds, jobs, int(chance.integers(1, 5)), free


def test_a_thousand_random_orders_equal_a_plain_event_loop():
    """Staleness, weights and aggregates; and no question and no key of a client is skipped or used twice."""
    stale = 0
    for number, speeds, jobs, buffer, free in cases():
        clients, steps = len(speeds), number % 3 + 1
        orders = functools.partial(permutation, clients, number)
        timeline = arrivals(Schedule(steps, 0), 8, speeds, orders, jobs=jobs, buffer=buffer, free=free)
        uploads, adapters = replay(timeline, clients, buffer)
        expected, averages = plain_loop(speeds, steps, 8, orders, jobs, buffer, free)
        assert sorted(uploads) == sorted(expected) and [c for c, _ in uploads] == [c for c, _ in expected], number
        np.testing.assert_allclose(adapters, averages, rtol=0, atol=1e-12)
        stale += max(staleness for _, staleness in uploads) > 0
        asked, keys = [[] for _ in speeds], [[] for _ in speeds]
        for event in events(timeline):
            for client in np.flatnonzero(event.who) if event.kind == "private" else ():
                asked[client].append(int(event.served[client]))
                keys[client].append((event.round, event.step))
        assert all(served == list(range(len(served))) for served in asked)
        assert all(len(set(used)) == len(used) for used in keys)
    assert stale > 500


def test_a_place_finds_its_event_again():
    timeline = line([1.0, 2.0, 0.7], 6, jobs=3, buffer=2, free=1)
    places = [timeline.place(index) for index in range(timeline.length + 1)]
    assert len(set(places[1:])) == timeline.length and places == sorted(places)
    assert [timeline.resume(*place) for place in places[1:]] == list(range(1, timeline.length + 1))
    for index, place in enumerate(places):
        ended = index > 1 and timeline(index - 1).kind == "evaluate"
        assert place[1] > 0 or index <= 1 or ended, "a place without steps is the end of a round"


def test_a_client_that_never_returns_stops_nobody():
    timeline = line([0.0, 1.0, 1.0], 6, jobs=3, buffer=1, free=1)
    found = events(timeline)[:-1]
    assert not any(event.who[0] for event in found if event.kind in ("private", "close"))
    assert sum(event.kind == "evaluate" for event in found) == 7
    with pytest.raises(ValueError, match="buffer=3, free=3: no running client has a speed above 0 after 0 server updates"):
        line([0.0, 1.0, 1.0], 6, jobs=3, buffer=3, free=3)


@pytest.mark.parametrize(
    "places, message",
    [
        ({"jobs": 4, "buffer": 1, "free": 1}, "jobs=4: 1 to 3 expected"),
        ({"jobs": 3, "buffer": 0, "free": 1}, "buffer=0: 1 or more"),
        ({"jobs": 2, "buffer": 1, "free": 3}, "free=3: 1 to 2 expected"),
    ],
)
def test_impossible_places_are_refused(places, message):
    with pytest.raises(ValueError, match=message):
        line([1.0] * 3, **places)
    with pytest.raises(ValueError, match="finite and not negative"):
        line([1.0, -1.0], jobs=1, buffer=1, free=1)


def test_a_public_event_comes_before_a_close_with_stale_uploads_alone():
    found = events(line([1.0, 2.0], 3, jobs=2, buffer=1, free=1, distils=True))
    kinds = [(event.kind, np.flatnonzero(event.who).tolist()) for event in found if event.kind in ("public", "close")]
    assert kinds == [("close", [1]), ("public", [0]), ("close", [0]), ("public", [1]), ("close", [1])]
    with pytest.raises(ValueError, match="without public steps expected"):
        line([1.0, 2.0], 3, Schedule(2, 2), jobs=2, buffer=1, free=1, distils=True)
    assert slowest_staleness(line([1.0, 4.0], 5, jobs=2, buffer=1, free=1), [1.0, 4.0]) == 3.0
