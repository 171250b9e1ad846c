"""Wrappers of an algorithm: `gated` routes what crosses clients through the gate, `in_parts` computes a few clients at a time.

While one part is verified, the device samples the next part. Clients that do not take part in a round are neither sampled
nor judged nor updated.
"""

from collections.abc import Callable

import jax
import numpy as np

from pubswap_jax.algorithm.pubswap import Algorithm
from pubswap_jax.devices.hosts import fetch
from pubswap_jax.run import tree
from pubswap_jax.run.journal import Clock
from pubswap_jax.run.ledger import Adapters, Gate, Questions, Refused, Responses, Rewards, VerdictBits
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
    """The same algorithm and judge, with every record between clients admitted by the gate.

    Args:
      public: question id -> its number in the public list.
      present: round -> bool[C], the clients that take part.
      sends: clients -> the averaged fields by name, or None if nothing is averaged.

    `swap` accepts only the rollouts that the judge has just seen, and only of a public batch.
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
        # The receiver derives status and reward from the verdict bit. Rewards cross only if some reward differs from its bit.
        crossing = from_bits(bits.correct)
        graded = fetch(verdicts.reward) != fetch(verdicts.correct)
        if graded.any():
            rewards = gate.open(gate.admit(Rewards(ids, verdicts.reward), here))
            crossing = crossing.replace(reward=rewards.values)
        rollouts, verdicts, plan = algorithm.swap(rollouts.replace(tokens=sent.tokens, mask=sent.mask), crossing, key, present)
        slots = fetch(plan.swapped)
        given = gate.open(gate.admit(Responses(ids, rollouts.tokens, rollouts.mask, slots=slots, direction="down"), here))
        if graded.any():
            rewards = gate.open(gate.admit(Rewards(ids, verdicts.reward, slots=slots, direction="down"), here))
            verdicts = verdicts.replace(reward=rewards.values)
        return rollouts.replace(tokens=given.tokens, mask=given.mask), verdicts, plan

    def init_clients(server: ServerState, clients: ClientState | None = None) -> ClientState:
        clients = algorithm.init_clients(server, clients)
        crossing = sends(clients)
        if crossing is not None:
            # The first round's moments are zeros: each client creates them itself, so they need not be sent.
            known = crossing if int(server.round) else {"adapter": crossing["adapter"]}
            gate.open(gate.admit(Adapters(known, "down"), present(int(server.round))))
        return clients

    def aggregate(server: ServerState, clients: ClientState, weights=None) -> ServerState:
        if sends(clients) is None:
            return algorithm.aggregate(server, clients, weights)
        sent = gate.open(gate.admit(Adapters(sends(clients), "up"), present(int(server.round)))).tree
        return algorithm.aggregate(server, clients.replace(**sent), weights)

    return algorithm._replace(init_clients=init_clients, swap=swap, aggregate=aggregate), watched


def in_parts(
    algorithm: Algorithm,
    judge: Judge,
    size: int,
    clock: Clock,
    check: Callable[[], None],
    who: np.ndarray | None = None,
) -> tuple[Algorithm, Judge]:
    """Computes rollouts and updates for `size` clients at a time. `check` may raise between two parts to discard the step.

    `who` int[k]: the clients that take part; None: all. Absent clients get no responses, and zeros as verdicts and metrics;
    `update` returns their state unchanged.
    """
    waiting: list[Rollout] = []

    def rollout(params, clients, prompts, key, hparams):
        total = tree.length(clients)
        start = clock.timed("rollout", algorithm.rollout)
        waiting[:] = [start(params, *part, key, hparams) for part in _parts((clients, prompts), size, who)]
        return _whole(waiting, who, total)

    def judged(rollouts, batch):
        # Use the parts in `waiting`, not `rollouts`: reading `rollouts` would wait until the device has sampled all parts.
        total, verdicts = tree.length(rollouts), []
        for part, numbers in zip(waiting, _numbers(total, size, who), strict=True):
            finished = clock.timed("rollout", jax.block_until_ready)(part)
            check()
            asked = batch.replace(answers=[batch.answers[i] for i in numbers])
            verdicts.append(clock.timed("verify", judge)(finished, asked))
        return _whole(verdicts, who, total)

    def update(params, server, clients, prompts, rollouts, verdicts, plan, hparams):
        run = clock.timed("update", algorithm.update, jax.block_until_ready)
        parts = _parts((clients, prompts, rollouts, verdicts, plan), size, who)
        updated, metrics = tree.joined([run(params, server, *part, hparams) for part in parts])
        if who is None:
            return updated, metrics
        return tree.put_back(clients, updated, jax.device_put(who)), _whole([metrics], who, tree.length(clients))

    return algorithm._replace(rollout=rollout, update=update), judged


def _numbers(total: int, size: int, who: np.ndarray | None) -> list[np.ndarray]:
    """int32[k] per part: the numbers of its clients."""
    taking_part = np.arange(total, dtype=np.int32) if who is None else who
    return [taking_part[i : i + size] for i in range(0, len(taking_part), size)]


def _parts(stacked: PyTree, size: int, who: np.ndarray | None) -> list[PyTree]:
    total = tree.length(stacked)
    if who is not None:
        return [tree.rows(stacked, jax.device_put(numbers)) for numbers in _numbers(total, size, who)]
    if size >= total:
        return [stacked]
    return [tree.part(stacked, i, size) for i in range(0, total, size)]


def _whole(parts: list[PyTree], who: np.ndarray | None, total: int) -> PyTree:
    """Joins the parts into one tree of all clients, leaves [C, ...]; absent clients get zeros."""
    return tree.joined(parts) if who is None else tree.spread(tree.joined(parts), jax.device_put(who), total)


@jax.jit
def from_bits(correct: Array) -> Verdict:
    """The verdicts that follow from the bits bool[C, B, G]."""
    return Verdict.from_correct(correct)
