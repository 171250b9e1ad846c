"""The training loop. `train_and_evaluate` resumes from the newest checkpoint if the run was started before."""

import gc
import os
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np

from pubswap_jax import settings
from pubswap_jax.algorithm.federation import step_key
from pubswap_jax.devices import hosts
from pubswap_jax.report import report
from pubswap_jax.run import evaluation, manifest, state
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.book import Book, Offer, OnRound
from pubswap_jax.run.recorder import FILES, Recorder, read_evaluations
from pubswap_jax.run.rehearsal import compile_ahead, make_gate, watched
from pubswap_jax.run.signals import Stopped as Stopped
from pubswap_jax.run.state import Best, RunState, place_of
from pubswap_jax.types import PyTree

Check = Callable[[], None]


def train_and_evaluate(
    config, workdir, *, fork: bool = False, check: Check = lambda: None, offer: Offer = lambda save: None
) -> PyTree:
    """Trains to the last round, writes everything under `workdir`, and returns the federation's last state.

    `check` is called often and may raise Stopped: the current step is discarded and a checkpoint is written. After each step,
    `offer(save)` is called. A signal handler may run `save` from another thread when the loop cannot reach its next `check`.
    `fork` allows resuming with a changed config.

    The last state need not be the best one: `pubswap_jax.best(workdir)` returns the adapter of the round with the best
    validation score.
    """
    settings.check(config)
    settings.check_packages(config)
    hosts.agree(settings.flatten(config))
    workdir = pathlib.Path(workdir)
    check_writable(workdir)
    run = assemble(config)
    if hosts.first():
        workdir.mkdir(parents=True, exist_ok=True)
        print(f"writing to {workdir}", flush=True)
    return train(run, workdir, fork=fork, check=check, offer=offer)


def check_writable(workdir: pathlib.Path) -> None:
    """Raises if `workdir` could not be created. Checks before anything is loaded; the folder is created after assembly."""
    there = next(folder for folder in (workdir.absolute(), *workdir.absolute().parents) if folder.exists())
    if hosts.first() and not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"{workdir}: {there} is no folder that can be written to; name another --workdir")


def train(
    run: Run,
    workdir: pathlib.Path,
    *,
    fork: bool = False,
    check: Check = lambda: None,
    offer: Offer = lambda save: None,
    on_round: OnRound | None = None,
) -> PyTree:
    """Trains a run that is already assembled, as `train_and_evaluate` does. `on_round` is called after each saved round."""
    if hosts.first():
        workdir.mkdir(parents=True, exist_ok=True)
    with manifest.alone(workdir):
        return _start(run, workdir, fork, check, offer, on_round)


def _train(run: Run, at: RunState, book: Book, examine: evaluation.Examine, check: Check) -> RunState:
    """The training loop: runs every event of the run's timeline from `at` on. `book` records and saves."""
    federation, clock, gate = run.federation, book.recorder.clock, make_gate(run, at)
    sure, closing = at, {}  # the last state that can be saved, and the figures of the last close
    judge = watched(run.judge, clock, check)
    try:
        while at.number < run.timeline.length:
            check()
            event, values, best = run.timeline(at.number), {}, at.best
            clock.split()  # time booked after this call belongs to this event
            started = time.perf_counter()
            if event.kind == "open":
                following = federation.open(at.federation, gate.channel, run.who(event))
            elif event.kind == "close":
                following, closing = federation.close(at.federation, gate.channel, run.weights(event))
                closing = book.closed(event, closing)
            elif event.kind == "evaluate":
                following = at.federation
                values = clock.timed("evaluate", evaluation.examined)(run, examine, book.recorder, event, following)
                reached = Best(event.round + 1, values.get("eval/pass@1", -1.0))
                best = max(best, reached, key=lambda one: one.score)  # ties: the earlier round
            else:
                with jax.transfer_guard("disallow"):  # only explicit transfers between host and device
                    key = step_key(run.key, run.place.put(np.array([event.round, event.step], np.uint32)))
                    batch, hparams = run.data.batch(event), run.hparams(event)
                    following, seen = federation.step(
                        run.policy.base, at.federation, batch, judge, gate.channel, key, hparams, run.who(event)
                    )
                book.stepped(event, batch, seen, hparams, time.perf_counter() - started, gate.channel)
                del batch, seen  # the rollouts and the adapters before the step
            at = RunState(at.number + 1, following, best, dict(gate.account))
            if event.kind == "evaluate":
                accounts = {f"ledger/{name}": sizes for name, sizes in gate.close_round().items()}
                sure = at = book.ended(event, at._replace(account={}), values | closing | accounts)
            elif event.kind not in ("open", "close"):
                sure = book.reached(at, run.saves(event))
    except Stopped:
        if sure.number and place_of(run, sure.number)[1]:
            book.keep(sure)
        raise
    return at


def _start(run: Run, workdir: pathlib.Path, fork: bool, check: Check, offer: Offer, on_round: OnRound | None = None) -> PyTree:
    described = manifest.agree(workdir, run, fork)
    folder = workdir / "checkpoints"
    at, position = state.resume(folder, run, print) or (None, None)
    round, step = place_of(run, at.number) if at else (0, 0)
    if round + bool(step) > run.rounds:
        raise ValueError(f"config.federation.rounds={run.rounds}: {workdir} is in round {round + bool(step)} already")
    if at is None and hosts.first() and not (workdir / manifest.RUN).exists():
        unknown_files(workdir)
    manifest.record(workdir, described)
    if at and round == run.rounds and not fork:
        found = read_evaluations(workdir, asked(run)) if hosts.first() else {}
        if hosts.told(evaluation.tested(run, at.federation, found, at.best.round)):  # all call it: it reads global arrays
            finish(run, workdir, at.best.round, print)
            return at.federation
    recorder = Recorder(run, workdir, position, round * run.steps + step)
    gc.freeze()  # objects that exist now live to the end; unfrozen, the collector would scan them during every trace
    try:
        return _session(run, at, Book(run, recorder, folder, offer, on_round), workdir, check)
    finally:
        gc.unfreeze()
        recorder.close()


def _session(run: Run, at: RunState | None, book: Book, workdir: pathlib.Path, check: Check) -> PyTree:
    examine, recorder = evaluation.make_examine(run, check), book.recorder
    begun = at or state.beginning(run)
    if begun.number < run.timeline.length:
        compile_ahead(run, begun)
    if at is None:
        for line in run.notes:
            book.say(line)
    else:
        round, step = place_of(run, at.number)
        book.say(f"going on after round {round}" + (f", step {step}" if step else ""))
        book.reached(at)
    last = _train(run, begun, book, examine, check)
    found = state.load_best(workdir / "checkpoints", last, run)
    recorder.clock.timed("evaluate", evaluation.best)(run, examine, recorder, last.best.round, found.federation)
    recorder.journal.position()
    finish(run, workdir, last.best.round, book.say)
    return last.federation


def finish(run: Run, workdir: pathlib.Path, best: int, say: Callable[[str], None]) -> None:
    """Prints the best round's table and writes the report. All processes wait until both are done."""
    if hosts.first():
        say(f"best round by validation: {best}; on the test questions, pass@1:")
        say(evaluation.final_table(read_evaluations(workdir, asked(run)), best))
        say(f"written to {report.write(workdir)}")
    hosts.gathered("done")


def asked(run: Run) -> dict[str, list]:
    return {"validation": run.data.validation.problems, "test": run.data.test.problems}


def unknown_files(workdir: pathlib.Path) -> None:
    """Raises if a file that the run would overwrite exists already. Called only for a folder to which no run has written."""
    for name in FILES:
        path = workdir / f"{name}.jsonl"
        if path.exists() and path.stat().st_size:
            raise ValueError(f"{path}: no run of ours wrote it, and this one would; name another --workdir")
