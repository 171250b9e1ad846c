"""Writes down what a run does: rows of metrics, printed lines, checkpoints, and the state that a signal handler may save."""

import pathlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pubswap_jax.algorithm.aggregation import sound
from pubswap_jax.devices import hosts
from pubswap_jax.records import Record
from pubswap_jax.run import state
from pubswap_jax.run.assembly import Run
from pubswap_jax.run.recorder import Recorder, of_present, transcripts
from pubswap_jax.run.state import Best, RunState
from pubswap_jax.types import Batch, Channel, Event, Hparams, StepRecord, Timeline

Offer = Callable[[Callable[[], None]], None]


class Round(NamedTuple):
    """A finished round, as the callback `on_round` gets it."""

    round: int  # rounds that are finished; the base model's evaluation is no round
    rounds: int  # of the run
    score: float | None  # pass@1 on the validation questions; None: the round was not evaluated
    best: Best


OnRound = Callable[[Round], None]


class Book:
    """Records a run. The loop calls one method after each kind of event."""

    def __init__(self, run: Run, recorder: Recorder, folder: pathlib.Path, offer: Offer, on_round: OnRound | None = None):
        self.run, self.recorder, self._folder, self._offer = run, recorder, folder, offer
        self._saving, self._on_round = threading.Lock(), on_round
        self.say = recorder.progress.say
        self.keep = recorder.clock.timed("save", self._save)

    def _save(self, at: RunState, position: dict[str, int] | None = None) -> None:
        with self._saving:
            here = self.recorder.journal.position()
            state.save(self._folder, self.run, at, here if position is None else position)

    def reached(self, at: RunState, keep: bool = False) -> RunState:
        """Offers the state `at` to the signal handler, which may save it; with `keep` a checkpoint of it is written now."""
        position = self.recorder.journal.told()

        def end() -> None:
            self._save(at, position)
            self.recorder.close_sinks()

        self._offer(end)
        if keep:
            own = self.run.federation.own(at.federation)
            healthy(hosts.fetch(sound(own)) if own is not None else np.ones(1, bool), self.run.timeline(at.number))
            self.keep(at)
        return at

    def stepped(self, event: Event, batch: Batch, seen: StepRecord, hparams: Hparams, seconds: float, channel: Channel) -> None:
        """Records a step: writes its row of metrics and its transcripts, which pass the channel first."""
        for record in transcripts(self.run, event, batch, seen):
            self.recorder.transcript(channel.up(record) if self.run.federation.reports else record)
        more = self._rewards(event, channel) | surveyed(batch, seen)
        self.recorder.step(event, batch, seen, hparams, seconds, more)

    def _rewards(self, event: Event, channel: Channel) -> dict[str, object]:
        """Values of a step's row: each reward function's mean for each client, and its seconds. Empty without reward functions.

        The means pass the channel.
        """
        means, seconds = self.run.tally.take()
        if not means or hosts.several():  # with several processes, each has called the functions for some clients alone
            return {}
        whole = {f"reward_{i}": _of_all(values, event.who) for i, values in enumerate(means.values())}
        record = Record("counters", "up", whole, who=event.who)
        passed = (channel.up(record) if self.run.federation.reports else record).arrays
        given = {f"reward/{name}": values.tolist() for name, values in zip(means, passed.values(), strict=True)}
        given = {name: [None if x != x else x for x in values] for name, values in given.items()}  # NaN is no JSON
        return given | {f"time/reward_{name}": spent for name, spent in seconds.items()}

    def closed(self, event: Event, figures: dict) -> dict[str, object]:
        """Turns the metrics of a round's averaging into values for the journal.

        Raises if every client has NaN or an enormous norm.
        """
        figures = hosts.fetch(figures)
        here = figures.pop("sound", np.ones(len(event.who), bool))
        # Without lockstep few clients upload at a time: others go on when theirs are not finite.
        healthy(here, event if event.time is None else event._replace(who=np.ones_like(event.who)))
        if not here.all():
            self.say(exclusion(event.round + 1, here))
        for line in silent(event.round + 1, figures):
            self.say(line)
        values = {f"round/{name}": value for name, value in of_present(figures, event.who).items()}
        return values | {"round/excluded": [int(not fine) for fine in here]}

    def ended(self, event: Event, at: RunState, values: dict[str, object]) -> RunState:
        """Records a finished round: writes its row, saves a checkpoint, and prints a line about the round."""
        self.recorder.round(event.round + 1, values | uploads(self.run.timeline, event, at.number))
        self.keep(self.reached(at))
        if event.round < 0:
            self.say(f"base model saved: validation pass@1 {at.best.score:.3f}")
        else:
            self.say(announcement(event.round + 1, self.run.rounds, values, at.best))
            if self._on_round:
                self._on_round(Round(event.round + 1, self.run.rounds, values.get("eval/pass@1"), at.best))
        return at


def _of_all(values: np.ndarray, who: np.ndarray) -> np.ndarray:
    """Spreads the values of the clients that a step computed over all clients: [C], NaN for absent clients.

    The computed ones are those of bool[C] `who`, or all.
    """
    whole = np.full(len(who), np.nan, np.float32)
    whole[who] = values if len(values) == who.sum() else values[who]
    return whole


def uploads(timeline: Timeline, event: Event, number: int) -> dict[str, object]:
    """Values of a round's row: the simulated time, and the uploads since the round before.

    `event` is the round's `evaluate`, and `number` the index of the event after it.

    Empty where the timeline has no clock.
    """
    if event.time is None or event.round < 0:
        return {}
    events = map(timeline, range(timeline.resume(event.round, 0), number))
    found = [(c, one) for one in events if one.kind == "close" for c in np.flatnonzero(one.who).tolist()]
    return {
        "simulated/time": event.time,
        "uploads/client": [client for client, _ in found],
        "uploads/time": [one.time for _, one in found],
        "uploads/staleness": [int(one.staleness[client]) for client, one in found],
    }


def healthy(here: np.ndarray, event: Event) -> None:
    """Raises if no client in bool[C] `here` takes part in the event's round, so that there is nothing to average."""
    if not (here & event.who).any():
        raise ValueError(
            f"round {event.round + 1}: no client's adapter is finite any more; lower --config.training.lr or "
            f"--config.training.clip_norm and go on from the last checkpoint with --fork"
        )


def exclusion(round: int, here: np.ndarray) -> str:
    """The line that is printed about clients left out of a round's average: those outside bool[C] `here`."""
    names = ", ".join(str(client) for client in np.flatnonzero(~here))
    return (
        f"round {round}: the adapter of client {names} is not finite; it is left out of the average and starts again from "
        f"the server's"
    )


def surveyed(batch: Batch, seen: StepRecord) -> dict[str, object]:
    """What each client knows: of every topic, the auxiliary questions and each client's share of right answers.

    Empty where the step was no survey. The server computes these figures from the bits that it received.
    """
    if not batch.labelled:
        return {}
    right, topics = hosts.fetch(seen.verdicts.correct)[0], np.array([problem.topic for problem in batch.answers[0]])
    shares = {str(topic): right[topics == topic].mean(0).tolist() for topic in np.unique(topics)}
    return {"auxiliary/known": {"questions": {topic: int((topics == topic).sum()) for topic in shares}, "right": shares}}


def silent(round: int, figures: dict) -> list[str]:
    """Lines about experts whose rewards taught nothing in a round; none where no client is an expert."""
    lines = []
    if not np.asarray(figures.get("experts_asked", 0)).any():
        return lines
    for client in range(len(figures["experts_asked"])):
        if not figures["experts_sound"][client]:
            lines.append(f"round {round}: the adapter of expert {client} is not finite; it starts again from the base's")
        elif figures["experts_asked"][client] and figures["experts_given"][client] < 1:
            share = 1 - float(figures["experts_given"][client])
            lines.append(
                f"round {round}: {share:.0%} of the rewards of expert {client} are missing or not finite, and left out"
            )
        if figures["experts_constant"][client]:
            reward = float(figures["experts_reward"][client])
            lines.append(f"round {round}: expert {client} gave every candidate the reward {reward:g}, which teaches nothing")
    return lines


def announcement(round: int, rounds: int, figures: dict, best: Best) -> str:
    """The line that is printed about a finished round: its number, its scores and the best round so far."""
    if "eval/pass@1" not in figures:
        return f"round {round} of {rounds} saved"
    own = [score for score in figures.get("clients/pass@1", []) if score is not None]
    clients = f" (clients' own {sum(own) / len(own):.3f})" if own else ""
    return (
        f"round {round} of {rounds} saved: validation pass@1 {figures['eval/pass@1']:.3f}{clients}, best in round {best.round}"
    )
