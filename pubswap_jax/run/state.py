"""Run state: which values a checkpoint contains, and how a run saves and resumes them. checkpoint.py writes the files."""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from pubswap_jax.devices import hosts
from pubswap_jax.run import checkpoint
from pubswap_jax.run.assembly import Run
from pubswap_jax.types import PyTree

FORMAT = 2  # the version of the layout of checkpoints; since 2 they hold the state of a `Federation`


class Best(NamedTuple):
    """Which round has the best validation score, and that score; round 0 is the base model."""

    round: int
    score: float


class RunState(NamedTuple):
    """Everything that changes during a run and that a checkpoint must hold: the state between two events of its timeline."""

    number: int  # of the next event
    federation: PyTree
    best: Best
    account: Mapping[str, list[int]]  # bytes counted by the gate since the round began


def beginning(run: Run) -> RunState:
    return RunState(0, run.federation.init(run.policy.adapter), Best(0, -1.0), {})


def place_of(run: Run, number: int) -> tuple[int, int]:
    """Names the place before event `number`, as checkpoints are named: (rounds done, steps done of the next round).

    Asynchronous clients have no common steps; then the second number counts events.
    """
    return run.timeline.place(number)


def number_at(run: Run, round: int, step: int) -> int:
    """The inverse of `place_of`: the number of the next event after `round` rounds and `step` steps."""
    return run.timeline.resume(round, step)


def save(folder: pathlib.Path, run: Run, at: RunState, position: Mapping[str, int]) -> None:
    """Writes a checkpoint of the run state and of the journal's `position`, and removes old checkpoints."""
    notes = {"format": FORMAT, "best": list(at.best), "journal": dict(position), "account": dict(at.account)}
    round, step = place_of(run, at.number)
    # Fetch leaf by leaf, not the whole tree: on a mesh, fetching replicates a leaf on every device.
    tree = jax.tree.map(hosts.fetch, at.federation if step else run.federation.saved(at.federation))
    if hosts.first():
        checkpoint.save(folder, round, step, tree, notes)
        checkpoint.prune(folder, run.kept, at.best.round, (round, step))


def resume(folder: pathlib.Path, run: Run, warn: Callable[[str], None]) -> tuple[RunState, dict[str, int]] | None:
    """The state of the newest undamaged checkpoint and its journal position; None if there is no checkpoint."""
    found = checkpoint.newest(folder, warn) if hosts.first() else None
    if hosts.first() and found is None and checkpoint.listed(folder):
        raise ValueError(f"{folder}: no checkpoint in it is sound; name another --workdir, or move them away to begin anew")
    return load(found, run)


def load(found: checkpoint.Checkpoint | None, run: Run) -> tuple[RunState, dict[str, int]] | None:
    """Loads the checkpoint that the first process found, on all processes; None if it found none. Collective."""
    notes = hosts.told(found and {"round": found.round, "step": found.step} | checkpoint.notes(found))
    if notes is None:
        return None
    if notes.get("format") != FORMAT:
        raise ValueError("the run's checkpoints were written by another version of pubswap_jax; go on with that version")
    template = beginning(run).federation
    template = template if notes["step"] else run.federation.saved(template)
    tree = hosts.shared(found and checkpoint.load(found, template), template)
    # On one device, `place` keeps arrays uncommitted: committed arrays would make every program compile again.
    tree = jax.tree.map(lambda x, like: run.place.put(x, like.sharding), tree, template)
    number = number_at(run, notes["round"], notes["step"])
    return RunState(number, tree, Best(*notes["best"]), notes["account"]), notes["journal"]


def load_best(folder: pathlib.Path, at: RunState, run: Run) -> RunState:
    """The state at the end of the best round; `at` itself if the last round is the best."""
    if (at.best.round, 0) == place_of(run, at.number):
        return at
    return load(best_of(folder, at.best.round, place_of(run, at.number)[0]) if hosts.first() else None, run)[0]


def best_of(folder: pathlib.Path, round: int, last: int) -> checkpoint.Checkpoint:
    """The checkpoint at the end of the best round. Raises if it cannot be read."""
    found = next((c for c in checkpoint.listed(folder) if (c.round, c.step) == (round, 0)), None)
    trouble = "it is not there" if found is None else checkpoint.problem(found.path)
    if trouble:
        raise ValueError(f"the best round, {round}, cannot be read: {trouble}; the last one is round {last}")
    return found
