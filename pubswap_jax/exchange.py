"""The algorithm as a run executes it: swap and averaging read only what the gate returned, and every phase is timed.

With parts, the clients are sampled and updated a few at a time; one part is verified while the next one samples.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.ledger import Adapters, Gate, Questions, Refused, Responses, VerdictBits
from pubswap_jax.metrics import Clock
from pubswap_jax.processes import fetch
from pubswap_jax.steps import Algorithm
from pubswap_jax.types import Array, Batch, ClientState, PyTree, Rollout, ServerState, Verdict

Judge = Callable[[Rollout, Batch], Verdict]


def gated(
    algorithm: Algorithm,
    judge: Judge,
    gate: Gate,
    public: dict[str, int],
    present: Callable[[int], np.ndarray],
    sends: Callable,
) -> tuple[Algorithm, Judge]:
    """The same algorithm and judge behind the gate.

    `public` numbers the public questions, `present(round)` says who takes part, and `sends(clients)` names the fields that are
    averaged; None where nothing is. Only the very rollouts that the judge has just seen, of a public batch, can be swapped.
    """
    seen: list[tuple[Rollout, Batch]] = []

    def watched(rollouts, batch):
        seen[:] = [(rollouts, batch)]
        return judge(rollouts, batch)

    def swap(rollouts, verdicts, key, present=None):
        if not seen or seen[0][0] is not rollouts or not seen[0][1].public:
            raise Refused("swap: only the rollouts of the public batch under way may cross")
        ids = tuple(problem.id for problem in seen[0][1].answers[0])
        here = None if present is None else fetch(present)
        numbers = np.array([[public.get(name, -1) for name in ids]] * rollouts.tokens.shape[0], np.int32)
        gate.open(gate.admit(Questions(ids, numbers), here))
        sent = gate.open(gate.admit(Responses(ids, rollouts.tokens, rollouts.mask), here))
        bits = gate.open(gate.admit(VerdictBits(ids, verdicts.correct), here))
        # A verdict crosses as its bit: reward and status are made anew from it on the other side.
        crossing = rollouts.replace(tokens=sent.tokens, mask=sent.mask), from_bits(bits.correct)
        rollouts, verdicts, plan = algorithm.swap(*crossing, key, present)
        donated = Responses(ids, rollouts.tokens, rollouts.mask, slots=fetch(plan.swapped), direction="down")
        given = gate.open(gate.admit(donated, here))
        return rollouts.replace(tokens=given.tokens, mask=given.mask), verdicts, plan

    def init_clients(server: ServerState, clients: ClientState | None = None) -> ClientState:
        clients = algorithm.init_clients(server, clients)
        if sends(clients) is not None:
            gate.open(gate.admit(Adapters(sends(clients), "down"), present(int(server.round))))
        return clients

    def aggregate(server: ServerState, clients: ClientState, weights=None) -> ServerState:
        if sends(clients) is None:
            return algorithm.aggregate(server, clients, weights)
        tree = gate.open(gate.admit(Adapters(sends(clients), "up"), present(int(server.round)))).tree
        return algorithm.aggregate(server, clients.replace(**tree), weights)

    return algorithm._replace(init_clients=init_clients, swap=swap, aggregate=aggregate), watched


def in_parts(algorithm: Algorithm, judge: Judge, size: int, clock: Clock, check: Callable[[], None]) -> tuple[Algorithm, Judge]:
    """Rollouts and updates of `size` clients at a time; `check` may raise between two parts, which discards the step."""
    waiting: list[Rollout] = []

    def rollout(params, clients, prompts, key, hparams):
        start = clock.timed("rollout", algorithm.rollout)
        parts = _parts((clients, prompts), size)
        waiting[:] = [start(params, *part, key, hparams) for part in parts]
        return _join(waiting)

    def judged(rollouts, batch):
        del rollouts  # its parts, one by one: the device goes on with the next while this one is verified
        verdicts = []
        for i, part in enumerate(waiting):
            finished = clock.timed("rollout", jax.block_until_ready)(part)
            check()
            asked = batch.replace(answers=batch.answers[i * size : (i + 1) * size])
            verdicts.append(clock.timed("verify", judge)(finished, asked))
        return _join(verdicts)

    def update(params, server, clients, prompts, rollouts, verdicts, plan, hparams):
        run = clock.timed("update", algorithm.update, jax.block_until_ready)
        parts = _parts((clients, prompts, rollouts, verdicts, plan), size)
        return _join([run(params, server, *part, hparams) for part in parts])

    return algorithm._replace(rollout=rollout, update=update), judged


def _parts(stacked: PyTree, size: int) -> list[PyTree]:
    total = jax.tree.leaves(stacked)[0].shape[0]
    if size == total:
        return [stacked]
    return [_part(stacked, i, size) for i in range(0, total, size)]


# Compiled, since an eager slice sends its place from the host.
@partial(jax.jit, static_argnums=(1, 2))
def _part(stacked: PyTree, start: int, size: int) -> PyTree:
    return jax.tree.map(lambda x: x[start : start + size], stacked)


def _join(parts: list[PyTree]) -> PyTree:
    return parts[0] if len(parts) == 1 else _joined(parts)


@jax.jit
def _joined(parts: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


@jax.jit
def from_bits(correct: Array) -> Verdict:
    """The verdict that a bit tells."""
    return Verdict.from_correct(correct)
