"""Client drift since the start of the round: norms, also by module, cosines between clients, and the averaging error."""

from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from pubswap_jax.algorithm.aggregation import aggregation_residual
from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.types import Adapter, Array, PyTree


@partial(jax.jit, static_argnames="family")
def drift(
    adapters: PyTree, anchor: PyTree, weights: Array | None = None, family: Adapter | None = None, basis: PyTree | None = None
) -> dict[str, Array]:
    """d_i = adapter_i − anchor: norms [C], cosines [C, C], norms by module [C, L]; and the relative error of averaging.

    `family` and `basis` are those of `aggregation_residual`.
    """
    num_clients = jax.tree.leaves(adapters)[0].shape[0]
    gram, squares = jnp.zeros((num_clients, num_clients)), {}
    anchors = flatten_dict(anchor)
    for path, stacked in sorted(flatten_dict(adapters).items()):
        moved = (stacked - anchors[path][None]).reshape(num_clients, -1)
        gram += moved @ moved.T
        names = _modules(path, anchors[path])
        for name, part in zip(names, jnp.split(moved, len(names), axis=1), strict=True):
            squares[name] = squares.get(name, 0.0) + jnp.sum(jnp.square(part), axis=1)
    norms = safe_sqrt(jnp.diagonal(gram))
    scale = norms[:, None] * norms[None]
    return {
        "drift": norms,
        "cosine": jnp.where(scale > 0, gram / jnp.where(scale > 0, scale, 1.0), 0.0),
        "drift_by_module": jnp.stack([safe_sqrt(squares[name]) for name in sorted(squares)], axis=1),
        "residual": aggregation_residual(adapters, weights, family, basis),
    }


def modules(adapter: PyTree) -> list[str]:
    """The names of the columns of `drift_by_module`, such as 'layers_003/q_proj'."""
    return sorted({name for path, leaf in flatten_dict(adapter).items() for name in _modules(path, leaf)})


def _modules(path: tuple[str, ...], leaf: Array) -> list[str]:
    """The modules that a leaf belongs to: one module, or one per layer if layers are stacked along the leaf's first axis."""
    stack, _, number = path[0].partition("_")
    layers = [int(number)] if number.isdigit() else range(leaf.shape[0])
    return [f"{stack}_{layer:03d}/{path[-2]}" for layer in layers]
