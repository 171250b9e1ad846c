"""Runs a federation on shapes before training, to learn which records it sends and which programs it compiles."""

from collections.abc import Callable

import jax
import numpy as np

from pubswap_jax.algorithm.federation import direct
from pubswap_jax.run import evaluation
from pubswap_jax.run.assembly import Run
from pubswap_jax.run.judge import judge_of_shapes
from pubswap_jax.run.ledger import Gate
from pubswap_jax.run.programs import shapes
from pubswap_jax.run.recorder import transcripts_a_step
from pubswap_jax.run.state import RunState
from pubswap_jax.types import Channel, Judge, PyTree


def make_gate(run: Run, at: RunState) -> Gate:
    """The gate of a run. The arrays that may cross have the shapes that the federation sends when it is run on shapes."""
    found: dict[str, PyTree] = {}

    def noting(record):
        if record.kind == "adapters":
            found[f"{record.direction}/adapters"] = shapes(record.arrays)
        return record

    noted, opening = Channel(noting, noting), run.timeline(1)
    # With the `who` and the weights of a round: other arguments would compile programs that no round calls.
    weights = run.weights(opening)
    with run.programs.shapes_alone():
        opened = run.federation.open(run.federation.init(shapes(run.policy.adapter)), noted, run.who(opening))
        run.federation.close(opened, noted, None if weights is None else shapes(weights))
    first = max(run.timeline(at.number).round, 0) == 0
    public = len(run.data.split.public)
    return Gate(public, found, transcripts=transcripts_a_step(run.log) > 0, first=first, account=at.account)


def watched(judge: Judge, clock, check: Callable[[], None]) -> Judge:
    """A judge that is timed and stoppable: it waits for the rollouts, and `check` may raise there to discard the step."""

    def timed(rollouts, batch):
        clock.timed("rollout", jax.block_until_ready)(rollouts)
        check()
        return clock.timed("verify", judge)(rollouts, batch)

    return timed


def compile_ahead(run: Run, at: RunState) -> None:
    """Compiles in the background what the coming round will call, in the order of the calls, by running it on shapes.

    Only on one CPU device. On a GPU, XLA times kernels while it compiles, and other work would distort the timings. On several
    devices, the compiler chooses the shardings of results, so the arguments' shardings are not known in advance.
    """
    if jax.default_backend() != "cpu" or run.place.spread:
        return

    run.programs.ahead = True
    # The key is a shape, too: of a key with values, `two_keys` would be compiled and run here.
    federated, federation, key, done = shapes(at.federation), run.federation, shapes(run.key), set()
    for number in range(at.number, min(at.number + run.steps + 4, run.timeline.length)):
        event = run.timeline(number)
        if event.kind in done:
            continue
        done.add(event.kind)
        if event.kind == "open":
            federated = federation.open(federated, direct, run.who(event))
        elif event.kind == "close":
            weights = run.weights(event)
            federated, _ = federation.close(federated, direct, None if weights is None else shapes(weights))
        elif event.kind != "evaluate":
            batch = run.data.batch(event)
            federated, _ = federation.step(
                run.policy.base, federated, batch, judge_of_shapes, direct, key, run.hparams(event), run.who(event)
            )
    own = federation.own(federated)
    if own is not None and (run.examiner.clients or federation.shared(federated) is None):
        asked = (run.data.validation.prompts, run.data.validation.prompts.tokens[:, 0])
        some = evaluation.parts(run, own, np.flatnonzero(run.timeline(at.number).who))[0]
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct((run.examiner.batch, *x.shape[1:]), x.dtype), asked)
        run.examiner.sampler(run.policy.base, some, *first, run.examiner.key)
