"""The schedule of public steps, and batches by arithmetic."""

import collections
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubswap_jax.algorithm.timeline import lockstep
from pubswap_jax.questions.partition import Split
from pubswap_jax.questions.schedule import Schedule, other_rows, participants, permutation, rows, stream

GOLDEN_PERMUTATION = [5, 6, 3, 7, 0, 1, 2, 4]  # of 8, key (3, 1): a resumed run must meet the same order


SCHEDULES = st.builds(
    Schedule, steps=st.integers(1, 7), period=st.integers(0, 4), unit=st.sampled_from(("step", "extra", "round"))
)


def split_of(*sizes, public=3):
    bounds = np.cumsum([public, *sizes])
    return Split(list(range(public)), [list(range(a, b)) for a, b in zip(bounds, bounds[1:], strict=False)], {})


def timeline_of(schedule, seed=0, taking_part=0, clients=3):
    return lockstep(schedule, 99, lambda round: participants(seed, round, clients, taking_part))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(6, 2), ["-p-p-p", "-p-p-p"]),
        (Schedule(5, 2), ["-p-p-", "-p-p-"]),
        (Schedule(4, 1), ["pppp", "pppp"]),
        (Schedule(3, 0), ["---", "---"]),
        (Schedule(4, 2, "extra"), ["--p--p", "--p--p"]),
        (Schedule(5, 2, "extra"), ["--p--p-", "--p--p-"]),
        (Schedule(3, 2, "round"), ["---", "ppp"]),
    ],
)
def test_schedule(schedule, expected):
    rounds = ["".join("-p"[schedule.public(r, t)] for t in range(schedule.length)) for r in range(2)]
    assert rounds == expected


@given(schedule=SCHEDULES)
def test_public_steps_before_equal_a_plain_count(schedule):
    seen = 0
    for r in range(6):
        private = 0
        for t in range(schedule.length):
            earlier, here = schedule.public_before(r, t)
            if schedule.public(r, t):
                assert earlier + here == seen
                seen += 1
            else:
                assert t - here == private
                private += 1
        assert schedule.private_steps(r) == private


def test_schedule_refuses_nonsense():
    with pytest.raises(ValueError, match="unit is 'steps', not one of step, extra, round"):
        Schedule(4, 2, "steps")
    with pytest.raises(ValueError, match="steps >= 1 and period >= 0, got 0 and 2"):
        Schedule(0)


def test_permutation_is_the_same_everywhere():
    assert permutation(8, 3, 1).tolist() == GOLDEN_PERMUTATION
    code = "from pubswap_jax.questions.schedule import permutation; print(permutation(8, 3, 1).tolist())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(GOLDEN_PERMUTATION)


def plain_stream(questions, size, key):
    """What `stream` addresses: an endless iterator over epochs."""
    epoch, queue = 0, []
    while True:
        while len(queue) < size:
            queue += [questions[i] for i in permutation(len(questions), *key, epoch)]
            epoch += 1
        yield queue[:size]
        queue = queue[size:]


@given(length=st.integers(1, 9), size=st.integers(1, 11), seed=st.integers(0, 99))
def test_stream_equals_plain_iteration(length, size, seed):
    questions = [10 * i for i in range(length)]
    for count, expected in zip(range(12), plain_stream(questions, size, (seed, 7)), strict=False):
        assert stream(questions, size, count, seed, 7).tolist() == expected


@settings(deadline=None)
@given(schedule=SCHEDULES, size=st.integers(1, 4), seed=st.integers(0, 99), taking_part=st.integers(0, 3))
def test_rows_equal_plain_iteration_with_partial_participation(schedule, size, seed, taking_part):
    split = split_of(5, 1, 4)
    public = plain_stream(split.public, size, (seed, 1))
    private = [plain_stream(questions, size, (seed, 0, c)) for c, questions in enumerate(split.clients)]
    timeline = timeline_of(schedule, seed, taking_part)
    for r in range(5):
        present = participants(seed, r, 3, taking_part)
        for t in range(schedule.length):
            got = rows(split, size, seed=seed, event=timeline(timeline.number(r, t)))
            assert got.shape == (3, size)
            if schedule.public(r, t):
                assert got.tolist() == [next(public)] * 3
            else:
                assert [row.tolist() for row in got[present]] == [next(private[c]) for c in np.flatnonzero(present)]


def test_an_epoch_asks_each_question_once():
    split, timeline = split_of(12, 12), timeline_of(Schedule(4, 2), clients=2)
    events = [timeline(timeline.number(round, step)) for round in (0, 1) for step in (0, 2)]
    asked = np.concatenate([rows(split, 3, seed=0, event=event) for event in events], axis=1)
    for client, questions in enumerate(split.clients):
        assert collections.Counter(asked[client].tolist()) == dict.fromkeys(questions, 1)


def test_an_absent_client_meets_its_rows_later():
    split, timeline = split_of(30, 30, 30), timeline_of(Schedule(1, 0), taking_part=1)
    away, back = next((r, r + 1) for r in range(50) if not participants(0, r, 3, 1)[0] and participants(0, r + 1, 3, 1)[0])
    before, after = (timeline(timeline.number(round, 0)) for round in (away, back))
    assert rows(split, 2, seed=0, event=before)[0].tolist() == rows(split, 2, seed=0, event=after)[0].tolist()
    assert timeline(timeline.number(20, 0)).served.sum() == 20


def test_participants():
    drawn = np.stack([participants(1, r, 5, 2) for r in range(200)])
    assert (drawn.sum(axis=1) == 2).all() and drawn.any(axis=0).all()
    assert participants(1, 0, 5).all()
    with pytest.raises(ValueError, match="6 of 5 clients cannot take part"):
        participants(1, 0, 5, 6)


def test_empty_streams_are_named():
    with pytest.raises(ValueError, match="raise data.public, or set federation.swap_period to 0"):
        rows(split_of(4, public=0), 2, seed=0, event=timeline_of(Schedule(2, 1), clients=1)(2))
    with pytest.raises(ValueError, match="empty list"):
        stream([], 2, 0, 0)


def test_other_questions_are_the_clients_own_and_new_until_there_are_no_more():
    split, event = split_of(9, 5), timeline_of(Schedule(4, 0))(2)
    asked = np.array([split.clients[0][:2], split.clients[1][:2]])
    first, second = (other_rows(split, asked, draw, seed=3, event=event) for draw in range(2))
    assert first.tolist() == other_rows(split, asked, 0, seed=3, event=event).tolist()
    assert first.tolist() != other_rows(split, asked, 0, seed=4, event=event).tolist()
    assert first.tolist() != other_rows(split, asked, 0, seed=3, event=event._replace(step=1)).tolist()
    for client, questions in enumerate(split.clients):
        assert set(first[client]) | set(second[client]) <= set(questions) - set(asked[client])
    assert len({*first[0], *second[0]}) == 4, "two draws of a client with enough questions have none in common"
    few = other_rows(split_of(2), np.array([split_of(2).clients[0]]), 0, seed=3, event=event)
    assert sorted(few[0]) == split_of(2).clients[0], "a client without other questions is asked its own again"
