"""Client drift in a round: norms of the clients' changes, cosines between them, opposing units, and the averaging error."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from pubswap_jax.algorithm.aggregation import aggregation_residual, fedavg
from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.types import Adapter, Array, PyTree


@partial(jax.jit, static_argnames="family")
def drift(
    adapters: PyTree, anchor: PyTree, weights: Array | None = None, family: Adapter | None = None, basis: PyTree | None = None
) -> dict[str, Array]:
    """Measures d_i = adapter_i − anchor: norms [C], cosines [C, C], norms by module [C, L]; and the relative averaging error.

    `family` and `basis` are those of `aggregation_residual`; for a family whose average is exact the error is 0.
    "opposing" is `opposing_share`, and is left out for a family without LoRA units.
    """
    exact = family is not None and family.exact
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
    units = {"opposing": opposing_share(adapters, anchor, weights)} if _units(anchors) else {}
    return units | {
        "drift": norms,
        "cosine": jnp.where(scale > 0, gram / jnp.where(scale > 0, scale, 1.0), 0.0),
        "drift_by_module": jnp.stack([safe_sqrt(squares[name]) for name in sorted(squares)], axis=1),
        "residual": jnp.zeros(()) if exact else aggregation_residual(adapters, weights, family, basis),
    }


@jax.jit
def opposing_share(adapters: PyTree, anchor: PyTree, weights: Array | None = None) -> Array:
    """The share of LoRA units whose client update opposes the mean update: ⟨d_i, d̄⟩ < 0 (after arXiv 2502.08024). f32[C].

    A unit is row k of B [..., r, out] together with column k of A [..., in, r], where A is trained. A unit that no client
    moved opposes nothing.
    """
    moved = flatten_dict(jax.tree.map(lambda x, start: x - start[None], adapters, anchor))
    opposed = []
    for module in _units(moved):
        products = 0.0
        for name, axis in (("a", -2), ("b", -1)):
            if (leaf := moved.get((*module, name))) is not None:
                products += jnp.sum(leaf * fedavg(leaf, weights)[None], axis=axis)  # [C, ..., r]
        opposed.append((products < 0).reshape(len(products), -1))
    return jnp.concatenate(opposed, axis=1).mean(axis=1)


def _units(leaves: Mapping[tuple[str, ...], Array]) -> list[tuple[str, ...]]:
    """The paths of the modules that train B of LoRA: all those of LoRA and FFA-LoRA, none of RAVAN."""
    return sorted(path[:-1] for path in leaves if path[-1] == "b")


def modules(adapter: PyTree) -> list[str]:
    """The names of the adapted modules, such as 'layers_003/q_proj': the columns of the metric `drift_by_module`."""
    return sorted({name for path, leaf in flatten_dict(adapter).items() for name in _modules(path, leaf)})


def _modules(path: tuple[str, ...], leaf: Array) -> list[str]:
    """The modules that a leaf belongs to: one module, or one per layer if layers are stacked along the leaf's first axis."""
    stack, _, number = path[0].partition("_")
    layers = [int(number)] if number.isdigit() else range(leaf.shape[0])
    return [f"{stack}_{layer:03d}/{path[-2]}" for layer in layers]
