"""The lockstep timeline against lists written by hand, for each unit of the schedule, and with clients that are absent."""

import numpy as np
import pytest

from pubswap_jax.algorithm.timeline import experts_first, lockstep
from pubswap_jax.questions.schedule import Schedule

KINDS = {"e": "evaluate", "o": "open", "p": "private", "P": "public", "c": "close"}


def timeline(steps, period, unit, rounds, present=lambda round: np.ones(2, bool)):
    return lockstep(Schedule(steps, period, unit), rounds, present)


def events(line):
    return [line(index) for index in range(line.length)]


@pytest.mark.parametrize(
    "steps, period, unit, rounds, expected",
    [
        (4, 2, "step", 2, "e opPpPce opPpPce"),
        (5, 3, "step", 1, "e oppPppce"),
        (4, 2, "extra", 2, "e oppPppPce oppPppPce"),
        (3, 2, "extra", 1, "e oppPpce"),
        (2, 2, "round", 3, "e oppce oPPce oppce"),
        (2, 0, "step", 2, "e oppce oppce"),
    ],
)
def test_kinds_and_numbers(steps, period, unit, rounds, expected):
    found = events(timeline(steps, period, unit, rounds))
    assert [event.kind for event in found] == [KINDS[letter] for letter in expected.replace(" ", "")]
    for index, event in enumerate(found):
        before = found[:index]
        assert event.number == sum(one.kind == event.kind for one in before), f"event {index}: events of its kind before it"
        assert event.served.tolist() == [sum(one.kind == "private" for one in before)] * 2
        assert event.who.tolist() == [True, True]


def test_two_rounds_by_hand():
    found = [(e.kind, e.round, e.step, e.number, e.served[0]) for e in events(timeline(3, 2, "extra", 2))]
    assert found == [
        ("evaluate", -1, 0, 0, 0),
        ("open", 0, 0, 0, 0),
        ("private", 0, 0, 0, 0),
        ("private", 0, 1, 1, 1),
        ("public", 0, 2, 0, 2),
        ("private", 0, 3, 2, 2),
        ("close", 0, 4, 0, 3),
        ("evaluate", 0, 4, 1, 3),
        ("open", 1, 0, 1, 3),
        ("private", 1, 0, 3, 3),
        ("private", 1, 1, 4, 4),
        ("public", 1, 2, 1, 5),
        ("private", 1, 3, 5, 5),
        ("close", 1, 4, 1, 6),
        ("evaluate", 1, 4, 2, 6),
    ]


@pytest.mark.parametrize("unit", ["step", "extra", "round"])
def test_number_finds_the_event_of_a_step(unit):
    line = timeline(4, 2, unit, 3)
    length = Schedule(4, 2, unit).length
    for round in range(3):
        for step in range(length):
            event = line(line.number(round, step))
            assert (event.round, event.step) == (round, step) and event.kind in ("private", "public")
        assert line(line.number(round, 0) - 1).kind == "open" and line(line.number(round, length)).kind == "close"
    assert line.number(2, length) + 2 == line.length, "a run ends with the close and the evaluation of its last round"


def test_the_event_after_the_last_opens_a_round_that_does_not_take_place():
    line = timeline(4, 2, "step", 2)
    assert (line(line.length).kind, line(line.length).round) == ("open", 2)


def test_a_clients_private_questions_wait_while_it_is_absent():
    """Client 1 is absent in round 1: in round 2 it goes on where it stopped, and the other client is three steps ahead."""
    line = timeline(3, 0, "step", 3, lambda round: np.array([True, round != 1]))
    served = [line(line.number(round, step)).served.tolist() for round in range(3) for step in range(3)]
    assert served[:3] == [[0, 0], [1, 1], [2, 2]]
    assert [row[0] for row in served[3:6]] == [3, 4, 5]
    assert served[6:] == [[6, 3], [7, 4], [8, 5]]
    assert line(line.number(1, 0)).who.tolist() == [True, False]


def test_events_do_not_depend_on_the_order_in_which_they_are_asked():
    present = lambda round: np.arange(3) != round % 3  # noqa: E731
    forwards, backwards = (timeline(3, 2, "step", 5, present) for _ in range(2))
    late = [backwards(index) for index in reversed(range(backwards.length))][::-1]
    for one, other in zip(events(forwards), late, strict=True):
        assert one[0] == other[0] and one[2:5] == other[2:5]
        assert (one.who == other.who).all() and (one.served == other.served).all()


@pytest.mark.parametrize("own, refresh", [(1, 0), (0, 1), (2, 2)])
def test_experts_train_first_and_no_public_question_is_skipped(own, refresh):
    steps, rounds, clients = 3, 5, 2
    timeline = experts_first(steps, rounds, own, refresh, clients)
    events = [timeline(i) for i in range(timeline.length)]
    assert [event.kind for event in events[:2]] == ["evaluate", "open"] and events[-1].kind == "evaluate"
    by_round = [[event for event in events if event.round == r] for r in range(rounds)]
    for r, found in enumerate(by_round):
        measured = r == own or (r > own and refresh and (r - own) % refresh == 0)
        kinds = ["private"] * steps if r < own else (["auxiliary"] if measured else ["public"]) + ["public"] * (steps - 1)
        assert [event.kind for event in found] == ["open", *kinds, "close", "evaluate"]
    for kind in ("private", "public", "auxiliary"):
        numbers = [event.number for event in events if event.kind == kind]
        assert numbers == list(range(len(numbers)))
        assert {len(event.who) for event in events if event.kind == kind} <= {clients if kind == "private" else 1}
    assert [event.served.tolist() for event in events if event.kind == "private"] == [[n] * 2 for n in range(own * steps)]
    assert all(timeline(timeline.number(e.round, e.step))[2:5] == e[2:5] for e in events if e.kind == "public")
    for index in range(2, timeline.length):
        if events[index - 1].kind not in ("open", "close"):  # where a checkpoint may be
            assert timeline.resume(*timeline.place(index)) == index
