"""What all ways of federating share: the client axis, the choice of clients that a step computes, and one round as a function.

In PubSwap a public step differs from a private one in two ways: all clients get the same prompts, and the swap comes between
verdict and update. Both are prompts → rollout → verdict → update.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import check_weights
from pubswap_jax.policy.logps import check_temperature
from pubswap_jax.types import Array, Batch, Channel, Client, Federation, Hparams, Judge, Program, PyTree, compiled

direct = Channel(lambda record: record, lambda record: record)


def over_clients(client: Client, clients_at_once: int | None = None) -> Client:
    """Gives a client, written for one, the client axis: each of its functions takes and returns leaves [C, ...].

    `learn` takes `received` stacked, or without the client axis where all clients received the same. `clients_at_once`: clients
    whose updates run as one batch; None: all of them.
    """

    def learn(base, received, clients, prompts, rollouts, verdicts, swapped, hparams):
        stacked = (clients, prompts, rollouts, verdicts, swapped)
        shared = _rank(received) < _rank(clients.adapter)
        if clients_at_once is None:
            axes = (None, None if shared else 0, 0, 0, 0, 0, 0, None)
            return jax.vmap(client.learn, axes, spmd_axis_name="client")(base, received, *stacked, hparams)
        if shared:
            return jax.lax.map(lambda one: client.learn(base, received, *one, hparams), stacked, batch_size=clients_at_once)
        return jax.lax.map(lambda one: client.learn(base, *one, hparams), (received, *stacked), batch_size=clients_at_once)

    return Client(jax.vmap(client.start), client.respond, learn, jax.vmap(client.upload), jax.vmap(client.finish))


def _rank(tree: PyTree) -> int:
    return jax.tree.leaves(tree)[0].ndim


class Rows(NamedTuple):
    """Compiled functions that take some clients' rows out of stacked trees [C, ...], join them, and put them back."""

    take: Callable  # (tree, int32[k]) -> leaves [k, ...]
    join: Callable  # (trees) -> their rows one after another
    spread: Callable  # (tree [k, ...], int32[k], bool[C]) -> leaves [C, ...], zeros for all others
    put_back: Callable  # (tree [C, ...], tree [k, ...], int32[k]) -> tree [C, ...]


def make_rows(program: Program = compiled) -> Rows:
    """Builds the functions of `Rows`, all compiled: an eager slice would send its offset from the host to the device."""

    def spread(some, who, whole):
        # `whole` bool[C] gives the number of clients; its values are not read.
        return jax.tree.map(lambda x: jnp.zeros((*whole.shape, *x.shape[1:]), x.dtype).at[who].set(x), some)

    return Rows(
        take=program("take", lambda tree, who: jax.tree.map(lambda x: x[who], tree)),
        join=program("join", lambda trees: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)),
        spread=program("spread", spread),
        put_back=program("put_back", lambda tree, some, who: jax.tree.map(lambda x, y: x.at[who].set(y), tree, some)),
    )


class Parts:
    """Divides the clients that a step computes into parts of at most `size`, which are sampled, judged and updated in turn.

    `who` as a numpy array bool[C] computes its clients alone. None, or an array on a device, computes all of them.
    """

    def __init__(self, rows: Rows, total: int, who, size: int | None = None):
        self._rows, self._everybody = rows, not isinstance(who, np.ndarray) or bool(who.all())
        numbers = np.arange(total, dtype=np.int32) if self._everybody else np.flatnonzero(who).astype(np.int32)
        size = size or total
        self.numbers = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        self._one = self._everybody and len(self.numbers) == 1
        self._all = np.zeros(total, bool)

    def of(self, tree: PyTree) -> list[PyTree]:
        """Divides a stacked tree [C, ...]: returns one tree for each part of the clients, with that part's rows."""
        return [tree] if self._one else [self._rows.take(tree, jax.device_put(numbers)) for numbers in self.numbers]

    def batches(self, batch: Batch) -> list[Batch]:
        """Divides a batch for the judge: one batch per part, with the answers of that part's clients and no prompts."""
        if self._one:
            return [batch]
        answers = batch.answers
        listed = isinstance(answers, list)
        parts = [[answers[i] for i in n] if listed else jax.tree.map(lambda x, n=n: x[n], answers) for n in self.numbers]
        return [batch.replace(prompts=None, answers=part) for part in parts]

    def whole(self, parts: list[PyTree]) -> PyTree:
        """The inverse of `of`: joins the parts' trees into one tree [C, ...], with zeros for clients that were not computed."""
        joined = parts[0] if len(parts) == 1 else self._rows.join(parts)
        return joined if self._everybody else self._rows.spread(joined, self._who(), jax.device_put(self._all))

    def put_back(self, tree: PyTree, parts: list[PyTree]) -> PyTree:
        """Joins the parts' trees and writes them over the rows of their clients in `tree` [C, ...]."""
        joined = parts[0] if len(parts) == 1 else self._rows.join(parts)
        return joined if self._everybody else self._rows.put_back(tree, joined, self._who())

    def _who(self) -> Array:
        return jax.device_put(np.concatenate(self.numbers))


def round_step(
    federation: Federation,
    base: PyTree,
    state: PyTree,
    batches: Sequence[Batch],
    judge: Judge,
    key: Array,
    hparams: Hparams,
    weights: Array | None = None,
) -> tuple[PyTree, dict[str, Array]]:
    """Runs one round as a function: `open`, a step for each batch, `close`. Returns the state and metrics f32[steps, C].

    `key` is the run's: it is folded with the round and the step. A client of weight 0 is absent. With a judge written in
    jax.numpy the whole round can be jitted, differentiated and vmapped.
    """
    if not batches:
        raise ValueError("batches: at least one expected, one a step")
    check_temperature(hparams.temperature)
    who = None
    if weights is not None:
        weights = check_weights(weights, batches[0].prompts.tokens.shape[0])
        who = weights > 0
    round_key, records = jax.random.fold_in(key, state.round), []
    state = federation.open(state, direct, who)
    for step, batch in enumerate(batches):
        state, record = federation.step(base, state, batch, judge, direct, jax.random.fold_in(round_key, step), hparams, who)
        records.append(record.metrics)
    state, _ = federation.close(state, direct, weights)
    return state, jax.tree.map(lambda *steps: jnp.stack(steps), *records)


@jax.jit
def step_key(key: Array, at: Array) -> Array:
    """The random key of a step: the run's key folded with (round, step), as `round_step` does. key, uint32[2] -> key."""
    return jax.random.fold_in(jax.random.fold_in(key, at[0]), at[1])
