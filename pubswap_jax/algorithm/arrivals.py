"""Timelines of clients that start and upload at different times, by their speeds. A simulated clock orders the events."""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from pubswap_jax.types import Event, Timeline


def arrivals(
    schedule,
    rounds: int,
    speeds: Sequence[float],
    order: Callable[[int], np.ndarray],
    *,
    jobs: int,
    buffer: int,
    free: int,
    distils: bool = False,
) -> Timeline:
    """Asynchronous clients: FedAvg, FedBuff (arXiv 2106.06639) and FedRevive (arXiv 2511.00655) are settings of K, B and O.

    A job is one client's round: it starts from the server's adapter of that moment, takes the schedule's steps, and uploads.
    K jobs run at a time. The server makes a new version from every B uploads. As soon as O places are free, all free places
    get new jobs, of clients that have none. K = B = O clients of equal speeds are `lockstep`.

    `Event.round` is a version: a step's is the version that its job started from, that of an `open`, a `close` and an
    `evaluate` is the server's. `Event.step` counts a client's steps from its first start from that version. Steps of several
    clients are one event if time, version and step are the same. Uploads at the same time are taken in the order of the
    clients, and are one `close` as long as neither a version nor new jobs come between them. The clock is a fraction, since in
    floats six steps of 1/3 end before two steps of 1. A run ends with the evaluation of its last version.

    Args:
      schedule: a `Schedule`, which says how many steps a job has and which of them are public.
      rounds: versions that the server makes.
      speeds: steps of each client in a unit of time, the decimal number that a float prints as; 0: its jobs never end.
      order: number of earlier dispatches -> the clients, int[C], in the order in which they get free places.
      jobs, buffer, free: K, B and O.
      distils: before a `close` with stale uploads comes a public event, in which the server works on them (FedRevive).
    """
    _check(speeds, jobs, buffer, free)
    if distils and any(schedule.public(round, step) for round in (0, 1) for step in range(schedule.length)):
        raise ValueError("distils: a schedule without public steps expected, since the server takes the public questions")
    simulation = _Simulation(schedule, [exact(speed) for speed in speeds], order, (jobs, buffer, free), distils)
    simulation.run(rounds)
    events, steps, first = tuple(simulation.events), simulation.steps, simulation.first

    def place(index: int) -> tuple[int, int]:
        round = max(int(np.searchsorted(first, index, side="right")) - 1, 0)
        return round, max(index - first[round], 0)

    return Timeline(
        lambda index: events[index],
        len(events) - 1,
        lambda round, step: steps[round, step],
        place,
        lambda round, step: first[round] + step,
    )


def _check(speeds: Sequence[float], jobs: int, buffer: int, free: int) -> None:
    if not all(0 <= speed < np.inf for speed in speeds):
        raise ValueError(f"speeds: finite and not negative expected, got {list(speeds)}")
    if not 1 <= jobs <= len(speeds):
        raise ValueError(f"jobs={jobs}: 1 to {len(speeds)} expected, the number of clients")
    if buffer < 1:
        raise ValueError(f"buffer={buffer}: 1 or more expected")
    if not 1 <= free <= jobs:
        raise ValueError(f"free={free}: 1 to {jobs} expected, the number of jobs")


def exact(speed: float) -> Fraction:
    """The decimal number that a float prints as: 1/10 for 0.1. `Fraction(0.1)` is a little more than that."""
    return Fraction(repr(float(speed)))


def slowest_staleness(timeline: Timeline, speeds: Sequence[float]) -> float:
    """The median staleness of uploads of the slowest clients that ever return; at least 1. FedRevive's usual s_max."""
    slowest = np.equal(speeds, min(speed for speed in speeds if speed))
    events = map(timeline, range(timeline.length))
    found = [event.staleness[event.who & slowest] for event in events if event.kind == "close"]
    found = np.concatenate([np.zeros(0), *found])
    return max(1.0, float(np.median(found))) if len(found) else 1.0


@dataclasses.dataclass
class _Job:
    version: int  # the server's at its start
    first: int  # steps that its client took before, from the same version
    began: Fraction
    done: int = 0  # steps


class _Simulation:
    """Simulates clients and a server on a clock. `run` appends what happens to `events`."""

    def __init__(self, schedule, speeds: list[Fraction], order: Callable, places: tuple[int, int, int], distils: bool):
        self.schedule, self.speeds, self.order, self.distils = schedule, speeds, order, distils
        self.jobs, self.buffer, self.free = places
        self.events: list[Event] = []
        self.kinds = collections.Counter()
        self.steps: dict[tuple[int, int], int] = {}  # (version, step) -> the index of the first event of that step
        self.first = [1]  # version -> the index of the first event after its evaluation
        self.running: dict[int, _Job] = {}
        self.version, self.time, self.waiting = 0, Fraction(0), 0  # waiting: uploads in the buffer
        self.served = np.zeros(len(speeds), int)
        self.begun: dict[int, tuple[int, int]] = {}  # client -> the version of its last start, its steps from that version
        self.ready: set[int] = set()  # clients that uploaded since the last version and have not started again

    def run(self, rounds: int) -> None:
        self.emit("evaluate", range(len(self.speeds)), -1)
        self.dispatch()
        while self.version < rounds:
            self.advance()
            self.arrive(rounds)
        self.emit("open", range(len(self.speeds)), rounds)  # follows the last event, and does not take place

    def emit(self, kind: str, clients, round: int, step: int = 0, staleness: np.ndarray | None = None) -> None:
        who = np.zeros(len(self.speeds), bool)
        who[list(clients)] = True
        self.events.append(Event(kind, who, round, step, self.kinds[kind], self.served.copy(), float(self.time), staleness))
        self.kinds[kind] += 1

    def dispatch(self) -> None:
        """Starts jobs: fills all free places with clients that have no job."""
        places = self.jobs - len(self.running)
        chosen = [int(client) for client in self.order(self.kinds["open"]) if client not in self.running][:places]
        self.emit("open", chosen, self.version)
        for client in chosen:
            version, before = self.begun.get(client, (-1, 0))
            first = before if version == self.version else 0
            self.begun[client] = self.version, first + self.schedule.length
            self.running[client] = _Job(self.version, first, self.time)
        self.ready -= set(chosen)

    def ends(self, client: int) -> Fraction | float:
        """The simulated time at which the client's current step ends; infinity for a speed of 0."""
        job, speed = self.running[client], self.speeds[client]
        return job.began + (job.done + 1) / speed if speed else math.inf

    def advance(self) -> None:
        """Moves the clock to the next end of a step, and appends the events of the steps that end there."""
        ends = {client: self.ends(client) for client in self.running}
        soonest = min(ends.values(), default=math.inf)
        if soonest == math.inf:
            raise ValueError(
                f"buffer={self.buffer}, free={self.free}: no running client has a speed above 0 after {self.version} server "
                f"updates, so that no more uploads come; lower buffer or free, or raise jobs"
            )
        self.time = soonest
        groups: dict[tuple[int, int], list[int]] = {}
        for client in sorted(client for client, end in ends.items() if end == soonest):
            job = self.running[client]
            groups.setdefault((job.version, job.first + job.done), []).append(client)
        for (version, step), clients in sorted(groups.items()):
            public = self.schedule.public(version, step % self.schedule.length)
            self.steps.setdefault((version, step), len(self.events))
            self.emit("public" if public else "private", clients, version, step)
            for client in clients:
                self.running[client].done += 1
                self.served[client] += not public

    def arrive(self, rounds: int) -> None:
        """Handles the jobs that have ended: appends their uploads, the server's new versions, and the starts of new jobs."""
        ended = sorted(client for client, job in self.running.items() if job.done == self.schedule.length)
        while ended and self.version < rounds:
            count = min(self.buffer - self.waiting, self.free - (self.jobs - len(self.running)))
            together, ended = ended[:count], ended[count:]
            self.close(together)
            if self.jobs - len(self.running) >= self.free and self.version < rounds:
                self.dispatch()

    def close(self, clients: list[int]) -> None:
        staleness = np.zeros(len(self.speeds), int)
        staleness[clients] = [self.version - self.running[client].version for client in clients]
        if self.distils and staleness.any():
            self.emit("public", np.flatnonzero(staleness), self.version, self.waiting)
        self.emit("close", clients, self.version, self.schedule.length, staleness)
        for client in clients:
            del self.running[client]
        self.ready |= set(clients)
        self.waiting += len(clients)
        if self.waiting == self.buffer:
            self.emit("evaluate", self.ready, self.version, self.schedule.length)
            self.version, self.waiting, self.ready = self.version + 1, 0, set()
            self.first.append(len(self.events))
