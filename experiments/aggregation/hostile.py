"""Hostile clients for the laboratory: the first ones of a run upload something else than what they have learnt.

A hostile client answers and swaps like every other client, and only its upload differs. So a run with hostile clients and a run
whose average leaves the same clients out differ in the averaging alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.run.assembly import Run
from pubswap_jax.types import Array, PyTree

Attack = Callable[[PyTree, PyTree, Array], PyTree]  # (server's adapter, a client's upload, key) -> what the client uploads
SCALE = 10.0  # of the pair attack: A·SCALE and B/SCALE


def sign_flip(adapter: PyTree, upload: PyTree, key: Array) -> PyTree:
    """The client's change with the other sign."""
    return jax.tree.map(lambda x, y: 2 * x - y, adapter, upload)


def times_100(adapter: PyTree, upload: PyTree, key: Array) -> PyTree:
    """100 times the client's change."""
    return jax.tree.map(lambda x, y: x + 100 * (y - x), adapter, upload)


def gaussian(adapter: PyTree, upload: PyTree, key: Array) -> PyTree:
    """Gaussian noise, in every leaf of 10 times the norm of the client's change."""
    leaves, tree = jax.tree.flatten(adapter)
    keys = jax.tree.unflatten(tree, list(jax.random.split(key, len(leaves))))
    noise = lambda x, y, k: x + 10 * jnp.linalg.norm(y - x) * jax.random.normal(k, x.shape) / x.size**0.5  # noqa: E731
    return jax.tree.map(noise, adapter, upload, keys)


def pair(adapter: PyTree, upload: PyTree, key: Array) -> PyTree:
    """A·c and B/c: the client's product as it is, in factors that average badly with those of all others."""
    factor = {"a": SCALE, "b": 1 / SCALE}
    return jax.tree.map_with_path(lambda path, x: factor[path[-1].key] * x, upload)


def nan(adapter: PyTree, upload: PyTree, key: Array) -> PyTree:
    """NaN in every entry."""
    return jax.tree.map(lambda y: jnp.full_like(y, jnp.nan), upload)


ATTACKS: dict[str, Attack] = {"sign flip": sign_flip, "x 100": times_100, "Gaussian": gaussian, "A·c, B/c": pair, "NaN": nan}


def with_hostile(name: str, count: int, run: Run) -> Run:
    """The run in which the first `count` clients attack: their adapters change on the way up, in every round."""

    @jax.jit
    def attacked(adapter: PyTree, uploads: PyTree, key: Array) -> PyTree:
        clients = jax.tree.leaves(uploads)[0].shape[0]
        keys = jax.random.split(key, clients)
        changed = jax.vmap(ATTACKS[name], in_axes=(None, 0, 0))(adapter, uploads, keys)
        hostile = jnp.arange(clients) < count
        choose = lambda x, y: jnp.where(hostile.reshape(-1, *[1] * (x.ndim - 1)), x, y)  # noqa: E731
        return jax.tree.map(choose, changed, uploads)

    def close(state, channel, weights=None):
        def up(record):
            real = not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(record.arrays))
            if record.kind == "adapters" and real:
                key = jax.random.fold_in(jax.random.key(0), state.server.round)
                mixed = attacked(state.server.adapter, record.arrays["adapter"], key)
                record = record.replace(arrays=record.arrays | {"adapter": mixed})
            return channel.up(record)

        return run.federation.close(state, channel._replace(up=up), weights)

    return run._replace(federation=run.federation._replace(close=close))


def without(count: int, run: Run) -> Run:
    """The run whose average leaves the first `count` clients out."""

    def weights(event):
        return run.place.put((np.arange(len(event.who)) >= count).astype(np.float32) * event.who)

    return run._replace(weights=weights)
