"""Partial heads of RAVAN (arXiv 2506.05568): weak clients train few heads, and a head is averaged over those who trained it."""

import functools

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import fedavg
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.types import Aggregator, Array, Correction, PyTree


@functools.cache
def partial_heads(counts: tuple[int, ...], heads: int, seed: int = 0) -> Aggregator:
    """An aggregation rule by which client c trains only `counts[c]` heads of its adapter in a round.

    Every head becomes the mean of s·H over the clients that trained it.

    The server draws each client's heads in every round, and sends them as a mask. A head that nobody trained stays.
    Reading: the paper scores heads at random, by weights or by gradients; this is at random, the same heads in all layers.
    Use `given_heads(heads)` as the clients' correction.
    """
    if not all(1 <= count <= heads for count in counts):
        raise ValueError(f"counts: numbers from 1 to {heads} heads expected, one a client; got {counts}")

    def drawn(round: Array) -> Array:
        """Draws the heads that each client trains in this round, bool[C, H]."""
        key = jax.random.fold_in(jax.random.key(seed), round)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(counts)))
        places = jax.vmap(lambda key: jax.random.permutation(key, heads))(keys)
        return places < jnp.array(counts)[:, None]

    def sends(memory: Array, num_clients: int) -> PyTree:
        if num_clients != len(counts):
            raise ValueError(f"counts: one number for each of {num_clients} clients expected, got {len(counts)}")
        return {"heads": drawn(memory)}

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        by_head = weights[:, None] * drawn(memory)  # [C, H]

        def of_layer(layer: dict) -> dict:
            h = layer["h"]  # [C, ..., H, r, r], where [...] is a scanned layer axis
            return {"h": by_head.reshape(len(counts), *[1] * (h.ndim - 4), heads)}

        def keep(new: dict, old: dict) -> dict:
            return {"h": jnp.where(_along(by_head.sum(0) > 0, new["h"], 2), new["h"], old["h"])}

        return each_layer(keep, fedavg(uploads, each_layer(of_layer, uploads)), adapter), memory + 1

    return Aggregator(lambda adapter: jnp.zeros((), jnp.int32), apply, sends=sends)


@functools.cache
def given_heads(heads: int) -> Correction:
    """The client's half of `partial_heads`: only the heads that the server sent have a gradient, and only they move.

    The step is restricted too: without a gradient, weight decay and kept moments would still move a head. FedProx's term is
    added as `proximal` adds it.
    """

    def only(tree: PyTree, trains: Array) -> PyTree:
        def of_layer(layer: dict) -> dict:
            h, s = layer["h"], layer["s"]
            return {"h": jnp.where(_along(trains, h, 2), h, 0.0), "s": jnp.where(_along(trains, s, 0), s, 0.0)}

        return each_layer(of_layer, tree)

    def gradient(gradient, adapter, received, memory, hparams):
        pulled = jax.tree.map(lambda g, x, x0: g + hparams.prox_coef * (x - x0), gradient, adapter, received)
        return only(pulled, memory["heads"])

    return Correction(
        init=lambda adapter: {"heads": jnp.ones(heads, bool)},
        gradient=gradient,
        finish=lambda adapter, received, memory, steps: (memory, {}),
        receive=lambda memory, sent: memory | {"heads": sent["heads"]},
        restrict=lambda direction, memory: only(direction, memory["heads"]),
    )


def _along(by_head: Array, x: Array, after: int) -> Array:
    """Reshapes one value per head, [H], so that it broadcasts against x, whose head axis has `after` axes behind it."""
    return by_head.reshape(*[1] * (x.ndim - 1 - after), -1, *[1] * after)
