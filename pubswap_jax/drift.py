"""How far the clients have gone, seen from the round's start: norms by layer, angles between them, the averaging's error."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from pubswap_jax.federated import aggregation_residual
from pubswap_jax.grpo import safe_sqrt
from pubswap_jax.types import Array, PyTree


@jax.jit
def drift(loras: PyTree, anchor: PyTree, weights: Array | None = None) -> dict[str, Array]:
    """d_i = lora_i − anchor: norms [C], cosines [C, C], by module [C, L]; and the averaging's relative error."""
    num_clients = jax.tree.leaves(loras)[0].shape[0]
    gram, squares = jnp.zeros((num_clients, num_clients)), {}
    anchors = flatten_dict(anchor)
    for path, stacked in sorted(flatten_dict(loras).items()):
        moved = (stacked - anchors[path][None]).reshape(num_clients, -1)
        product = moved @ moved.T
        gram += product
        squares[module(path)] = squares.get(module(path), 0.0) + jnp.diagonal(product)
    norms = safe_sqrt(jnp.diagonal(gram))
    scale = norms[:, None] * norms[None]
    return {
        "drift": norms,
        "cosine": jnp.where(scale > 0, gram / jnp.where(scale > 0, scale, 1.0), 0.0),
        "drift_by_module": jnp.stack([safe_sqrt(squares[name]) for name in sorted(squares)], axis=1),
        "residual": aggregation_residual(loras, weights),
    }


def modules(lora: PyTree) -> list[str]:
    """The names of `drift_by_module`'s columns."""
    return sorted({module(path) for path in flatten_dict(lora)})


def module(path: tuple[str, ...]) -> str:
    """'layers_03/q_proj' of a leaf; where layers are stacked, only what they have in common."""
    layer, number, _ = (path[0] + "__").split("_")[:3]
    return f"{layer}_{int(number):03d}/{path[-2]}" if number.isdigit() else f"{path[0]}/{path[-2]}"
