"""The training loop. `train_and_evaluate` resumes from the newest checkpoint if the run was started before."""

import gc
import os
import pathlib
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax import settings
from pubswap_jax.algorithm.aggregation import choose, sound
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.algorithm.pubswap import Algorithm, client_step, step_key
from pubswap_jax.devices import hosts
from pubswap_jax.report import report
from pubswap_jax.run import evaluation, state
from pubswap_jax.run.assembly import Run, assemble, taking_part
from pubswap_jax.run.channel import gated, in_parts
from pubswap_jax.run.journal import Clock
from pubswap_jax.run.ledger import Counters, Gate
from pubswap_jax.run.programs import Ahead, compile_round
from pubswap_jax.run.recorder import FILES, Recorder, of_present, read_evaluations, transcripts, transcripts_a_step
from pubswap_jax.run.signals import Stopped as Stopped
from pubswap_jax.run.state import Best, Standing
from pubswap_jax.types import Array, ClientState, ServerState

Check = Callable[[], None]
Offer = Callable[[Callable[[], None]], None]


def train_and_evaluate(
    config, workdir, *, fork: bool = False, check: Check = lambda: None, offer: Offer = lambda save: None
) -> ServerState:
    """Trains to the last round, writes everything under `workdir`, and returns the server's last state.

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
) -> ServerState:
    """`train_and_evaluate` for an assembled run."""
    with state.alone(workdir):
        return _start(run, workdir, fork, check, offer)


def _start(run: Run, workdir: pathlib.Path, fork: bool, check: Check, offer: Offer) -> ServerState:
    described = state.agree(workdir, run, fork)
    folder, rounds = workdir / "checkpoints", run.config.federation.rounds
    at, position = state.resume(folder, run, print) or (None, None)
    begun = at.round + bool(at.step) if at else 0
    if begun > rounds:
        raise ValueError(f"config.federation.rounds={rounds}: {workdir} is in round {begun} already")
    if at is None and hosts.first() and not (workdir / state.RUN).exists():
        unknown_files(workdir)
    state.record(workdir, described)
    if at and at.round == rounds and not fork:
        done = hosts.first() and evaluation.tested(run, read_evaluations(workdir, asked(run)), at.best.round)
        if hosts.told(done):
            finish(run, workdir, at.best.round, print)
            return at.server
    recorder = Recorder(run, workdir, position, at.round * run.schedule.length + at.step if at else 0)
    gc.freeze()  # objects that exist now live to the end; unfrozen, the collector would scan them during every trace
    try:
        return _train(run, at, recorder, workdir, folder, check, offer)
    finally:
        gc.unfreeze()
        recorder.close()


def _train(run: Run, at: Standing | None, recorder: Recorder, workdir, folder, check: Check, offer: Offer) -> ServerState:
    clock, say = recorder.clock, recorder.progress.say
    examine = evaluation.make_examine(run, check)
    saving = threading.Lock()

    def save(at: Standing, position: dict[str, int] | None = None) -> None:
        with saving:
            here = recorder.journal.position()
            state.save(folder, run, at, here if position is None else position)

    def reached(at: Standing) -> Standing:
        position = recorder.journal.told()

        def end() -> None:
            save(at, position)
            recorder.close_sinks()

        offer(end)
        return at

    keep = clock.timed("save", save)
    begun = at or state.beginning(run)
    if begun.round < run.config.federation.rounds:
        compile_round(recorder.ahead, run, begun.server, (begun.round, begun.step))
    if at is None:
        for line in run.notes:
            say(line)
        score = clock.timed("evaluate", evaluation.base)(run, examine, recorder)
        at = begun._replace(best=Best(0, score))
        recorder.round(0, {"eval/pass@1": score})
        keep(reached(at))
        say(f"base model saved: validation pass@1 {score:.3f}")
    else:
        say(f"going on after round {at.round}" + (f", step {at.step}" if at.step else ""))
        reached(at)
    while at.round < run.config.federation.rounds:
        at = train_round(run, at, recorder, examine, keep, check, reached)
    last = at
    if at.best.round != at.round:
        at = state.load_best(folder, at, run)
    clock.timed("evaluate", evaluation.best)(run, examine, recorder, at.server, at.clients)
    recorder.journal.position()
    finish(run, workdir, at.round, say)
    return last.server


def finish(run: Run, workdir: pathlib.Path, best: int, say: Callable[[str], None]) -> None:
    """Prints the best round's table and writes the report. All processes wait until both are done."""
    if hosts.first():
        say(f"best round by validation: {best}; on the test questions, pass@1:")
        say(evaluation.final_table(read_evaluations(workdir, asked(run)), best))
        say(f"written to {report.write(workdir)}")
    hosts.gathered("done")


def asked(run: Run) -> dict[str, list]:
    return {"validation": run.validation.problems, "test": run.test.problems}


def unknown_files(workdir: pathlib.Path) -> None:
    """Raises if a file that the run would overwrite already exists; called only if no run wrote to this folder."""
    for name in FILES:
        path = workdir / f"{name}.jsonl"
        if path.exists() and path.stat().st_size:
            raise ValueError(f"{path}: no run of ours wrote it, and this one would; name another --workdir")


def train_round(run: Run, at: Standing, recorder: Recorder, examine, keep, check: Check, reached=lambda at: at) -> Standing:
    """One round: its steps, the averaging, the evaluation, a checkpoint and a printed line."""
    config, round, length = run.config, at.round, run.schedule.length
    shown = transcripts_a_step(config)
    # Take the shapes from `init_clients`, not from `at.clients`: a checkpoint between two rounds may omit the moments.
    clients = jax.eval_shape(run.algorithm.init_clients, at.server)
    gate = Gate((run.train.problems[i].id for i in run.split.public), crossing(config, clients), shown > 0)
    gate.bytes = dict(at.account)
    algorithm, judge = observed(run, gate, recorder.clock, recorder.ahead, check, taking_part(run, round))
    if at.step == 0:
        kept = at.clients if state.carries_moments(config) else None
        at = at._replace(clients=algorithm.init_clients(at.server, kept))
    weights = run.weights(round)
    present = None if weights is None else run.place(run.present(round))
    try:
        for step in range(at.step, length):
            check()
            recorder.clock.split()  # time booked after this call belongs to this step
            started = time.perf_counter()
            with jax.transfer_guard("disallow"):  # only explicit transfers between host and device
                key = step_key(run.key, run.place(np.array([round, step], np.uint32)))
                batch, hparams = run.batch(round, step), run.hparams(round, step)
                clients, record = client_step(
                    algorithm, run.params, at.server, at.clients, batch, judge, key, hparams, weights, present
                )
            gate.admit(Counters(record.metrics), run.present(round))
            seconds = time.perf_counter() - started
            for one in transcripts(run, round, step, batch, record, shown):
                recorder.transcript(gate.open(gate.admit(one)).row)
            recorder.step(round, step, batch, record, seconds, at.clients.adapter, hparams)
            at = reached(at._replace(clients=clients, step=step + 1, account=dict(gate.bytes)))
            if config.checkpoint.steps and at.step % config.checkpoint.steps == 0 and at.step < length:
                healthy(run, at)
                keep(at)
        here, ended = healthy(run, at), at
        if not here.all():
            ended, weights = without(run, at, here)
            recorder.progress.say(exclusion(round + 1, here))
        server = algorithm.aggregate(at.server, ended.clients, weights)
        figures = recorder.clock.timed("evaluate", evaluation.trained)(run, examine, recorder, server, ended.clients)
    except Stopped:
        if at.step:
            keep(at)
        raise
    best = max(at.best, Best(round + 1, figures.get("eval/pass@1", -1.0)), key=lambda one: one.score)  # ties: the earlier round
    moved = hosts.fetch(recorder.ahead.awaited(drift)(ended.clients.adapter, at.server.adapter, weights))
    values = figures | {f"round/{name}": value for name, value in of_present(moved, run.present(round)).items()}
    values["round/excluded"] = [int(not sound) for sound in here]
    values |= {f"ledger/{name}": sizes for name, sizes in gate.close_round().items()}
    at = Standing(server, ended.clients, 0, best, {})
    recorder.round(round + 1, values)
    keep(reached(at))
    recorder.progress.say(announcement(round + 1, config.federation.rounds, figures, best))
    return at


def healthy(run: Run, at: Standing) -> np.ndarray:
    """bool[C]: the clients whose adapter and moments are finite. Raises if none of them takes part in this round."""
    here = hosts.fetch(sound((at.clients.adapter, at.clients.opt_state)))
    if not (here & run.present(at.round)).any():
        raise ValueError(
            f"round {at.round + 1}: no client's adapter is finite any more; lower --config.training.lr or "
            f"--config.training.clip_norm and go on from the last checkpoint with --fork"
        )
    return here


def without(run: Run, at: Standing, here: np.ndarray) -> tuple[Standing, Array]:
    """Resets the clients outside bool[C] `here` to the server's adapter and fresh moments; their weight in the average is 0."""
    clients = choose(run.place(here), at.clients, run.algorithm.init_clients(at.server))
    weights = run.weights(at.round)
    share = np.ones(len(here), jnp.result_type(float)) if weights is None else hosts.fetch(weights)
    return at._replace(clients=clients), run.place(np.where(here, share, 0))


def exclusion(round: int, here: np.ndarray) -> str:
    names = ", ".join(str(client) for client in np.flatnonzero(~here))
    return (
        f"round {round}: the adapter of client {names} is not finite; it is left out of the average and starts anew from "
        f"the server's"
    )


def observed(
    run: Run, gate: Gate, clock: Clock, ahead: Ahead, check: Callable[[], None], who: np.ndarray | None = None
) -> tuple[Algorithm, Callable]:
    """The run's algorithm and judge in parts, timed, and behind the gate. `who` int[k]: the clients to compute; None: all."""
    size = run.config.training.client_microbatch or run.config.federation.num_clients
    coming = ("rollout", "swap", "update", "aggregate")
    awaited = run.algorithm._replace(**{name: ahead.awaited(getattr(run.algorithm, name)) for name in coming})
    algorithm, judge = in_parts(awaited, run.judge, size, clock, check, who)
    timed = algorithm._replace(
        swap=clock.timed("swap", algorithm.swap, jax.block_until_ready),
        aggregate=clock.timed("average", algorithm.aggregate, jax.block_until_ready),
    )
    numbers = {run.train.problems[i].id: number for number, i in enumerate(run.split.public)}
    return gated(timed, judge, gate, numbers, run.present, lambda clients: crossing(run.config, clients))


def crossing(config, clients: ClientState) -> dict | None:
    """The averaged fields of the clients' state; None if every client trains alone."""
    if not config.federation.average:
        return None
    moments = {"opt_state": clients.opt_state} if config.federation.moments == "average" else {}
    return {"adapter": clients.adapter} | moments


def announcement(round: int, rounds: int, figures: dict, best: Best) -> str:
    if "eval/pass@1" not in figures:
        return f"round {round} of {rounds} saved"
    own = [score for score in figures.get("clients/pass@1", []) if score is not None]
    clients = f" (clients' own {sum(own) / len(own):.3f})" if own else ""
    return (
        f"round {round} of {rounds} saved: validation pass@1 {figures['eval/pass@1']:.3f}{clients}, best in round {best.round}"
    )
