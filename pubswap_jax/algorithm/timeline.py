"""Timelines: a run's events in order. An event is a function of its index, and everything here runs on the host."""

from collections.abc import Callable

import numpy as np

from pubswap_jax.types import Event, Timeline


def experts_first(steps: int, rounds: int, own: int, refresh: int, num_clients: int) -> Timeline:
    """FedGRPO's events: `own` rounds in which clients train alone, then rounds of public steps of the server's policy.

    The first step of the first public round is an auxiliary one instead, which measures the clients' competence. So, with
    `refresh`, is the first step of every `refresh`-th public round. An event of the clients' training concerns the clients,
    bool[C], and any other event concerns the one policy, bool[1].
    """
    everybody, policy, block = np.ones(num_clients, bool), np.ones(1, bool), steps + 3

    def measured(round: int) -> bool:
        return round == own or (round > own and refresh > 0 and (round - own) % refresh == 0)

    def measures_before(round: int) -> int:
        later = max(round - own, 0)
        return -(-later // refresh) if refresh else min(later, 1)

    def event(index: int) -> Event:
        none = np.zeros(1, int)
        if index == 0:
            return Event("evaluate", policy, -1, 0, 0, none)
        round, at = divmod(index - 1, block)
        step = max(at - 1, 0)
        if not 0 < at <= steps:
            kind = {0: "open", steps + 1: "close", steps + 2: "evaluate"}[at]
            return Event(kind, policy, round, min(step, steps), round + (kind == "evaluate"), none)
        if round < own:
            done = round * steps + step
            return Event("private", everybody, round, step, done, np.full(num_clients, done))
        if measured(round) and step == 0:
            return Event("auxiliary", policy, round, step, measures_before(round), none)
        earlier = (round - own) * steps + step - measures_before(round) - measured(round)
        return Event("public", policy, round, step, earlier, none)

    return _even(event, rounds, steps)


def lockstep(schedule, rounds: int, present: Callable[[int], np.ndarray]) -> Timeline:
    """The timeline in which all clients take the same steps at the same time.

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

    return _even(event, rounds, schedule.length)


def _even(event: Callable[[int], Event], rounds: int, steps: int) -> Timeline:
    """The timeline of rounds of equal length: an `open`, `steps` steps, a `close` and an `evaluate`."""

    def place(index: int) -> tuple[int, int]:
        found = event(index)
        return max(found.round, 0), found.step

    def resume(round: int, step: int) -> int:
        """The index of the next event: a round's `open` at step 0, else that step; the `close` if the round has fewer steps."""
        return number(round, min(step, steps)) if step else number(round, 0) - 1

    block = steps + 3
    number = lambda round, step: 2 + round * block + step  # noqa: E731
    return Timeline(event, 1 + rounds * block, number, place, resume)
