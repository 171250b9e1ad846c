"""Rows of stacked pytrees, leaves [C, ...]: slices, concatenation, gather and scatter.

Every function is jitted: an eager slice would send its offset from the host to the device.
"""

from functools import partial

import jax
import jax.numpy as jnp

from pubswap_jax.types import Array, PyTree


def length(stacked: PyTree) -> int:
    """C of leaves [C, ...]."""
    return jax.tree.leaves(stacked)[0].shape[0]


@partial(jax.jit, static_argnums=(1, 2))
def part(stacked: PyTree, start: int, size: int) -> PyTree:
    """Rows start … start + size. The offset is static: one program for each offset."""
    return jax.tree.map(lambda x: x[start : start + size], stacked)


@jax.jit
def rows(stacked: PyTree, who: Array) -> PyTree:
    """The rows int32[k] `who`, in that order. The rows are traced: one program for each k."""
    return jax.tree.map(lambda x: x[who], stacked)


@partial(jax.jit, static_argnums=2)
def spread(some: PyTree, who: Array, total: int) -> PyTree:
    """Leaves [k, ...] -> [total, ...]: row i goes to row who[i], and all other rows are zero."""
    return jax.tree.map(lambda x: jnp.zeros((total, *x.shape[1:]), x.dtype).at[who].set(x), some)


@jax.jit
def put_back(stacked: PyTree, some: PyTree, who: Array) -> PyTree:
    """The stacked tree with row who[i] replaced by row i of `some`."""
    return jax.tree.map(lambda x, new: x.at[who].set(new), stacked, some)


def joined(parts: list[PyTree]) -> PyTree:
    """Concatenates the parts' rows."""
    return parts[0] if len(parts) == 1 else _joined(parts)


@jax.jit
def _joined(parts: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
