"""Timelines: which event follows which. Everything here runs on the host, as a function of an event's index."""

from collections.abc import Callable

import numpy as np

from pubswap_jax.types import Event, Timeline


def lockstep(schedule, rounds: int, present: Callable[[int], np.ndarray]) -> Timeline:
    """All clients take the same steps at the same time.

    The first event evaluates the base model. A round is an `open`, the schedule's private and public steps, a `close` and an
    `evaluate`. The index after the last event is the `open` of a round that does not take place.

    Args:
      schedule: a `Schedule`, which says how many steps a round has and which of them are public.
      present: round -> bool[C], the clients that take part in it.
    """
    everybody = np.ones(len(present(0)), bool)
    behind = [np.zeros(len(everybody), int)]  # private steps of each client before a round; rounds of absence do not count

    def served(round: int) -> np.ndarray:
        while len(behind) <= round:
            past = len(behind) - 1
            behind.append(behind[past] + present(past) * schedule.private_steps(past))
        return behind[round]

    def event(index: int) -> Event:
        if index == 0:
            return Event("evaluate", everybody, -1, 0, 0, behind[0])
        round, at = divmod(index - 1, schedule.length + 3)
        who, step = present(round), max(at - 1, 0)
        if 0 < at <= schedule.length:
            earlier, here = schedule.public_before(round, step)
            private = served(round) + step - here
            if schedule.public(round, step):
                return Event("public", who, round, step, earlier + here, private)
            return Event("private", who, round, step, round * schedule.length + step - earlier - here, private)
        kind = {0: "open", schedule.length + 1: "close", schedule.length + 2: "evaluate"}[at]
        return Event(kind, who, round, min(step, schedule.length), round + (kind == "evaluate"), served(round + (at > 0)))

    def place(index: int) -> tuple[int, int]:
        found = event(index)
        return max(found.round, 0), found.step

    def resume(round: int, step: int) -> int:
        """The index of the next event: a round's `open` at step 0, else that step; the `close` if the round has fewer steps."""
        return number(round, min(step, schedule.length)) if step else number(round, 0) - 1

    block = schedule.length + 3
    number = lambda round, step: 2 + round * block + step  # noqa: E731
    return Timeline(event, 1 + rounds * block, number, place, resume)
