"""Products with the base's matrices: by W, or, of a few rows on a CPU, by transposes that are made once a rollout."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.types import Array, PyTree

# Two to so many rows at once a CPU multiplies fastest by Wᵀ; one row by W.
FEW_ROWS = 16

# Layers that read the same input: on few rows one product serves them all.
JOINED = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}


def matmul(x: Array, kernel: Array, preferred=None) -> Array:
    """x W in the dtype of x."""
    kernel = kernel.astype(x.dtype)
    if x.size == x.shape[-1] and x.dtype.itemsize == 2:
        # XLA's CPU backend has no matrix-vector product in half precision: it would widen the whole matrix at every call.
        twice = jnp.concatenate([x, x], axis=-2)
        return jnp.matmul(twice, kernel, preferred_element_type=preferred)[..., :1, :]
    return jnp.matmul(x, kernel, preferred_element_type=preferred)


def prefers_transposed(rows: int) -> bool:
    """Whether so few rows had better be multiplied by `few_rows`: measured on a CPU."""
    return 1 < rows <= FEW_ROWS and jax.default_backend() == "cpu"


def few_rows(x: Array, transposed: Array, preferred=None) -> Array:
    """x W of a few rows, from Wᵀ [out, in], whose rows are read once and as they lie: what a CPU's bandwidth is for."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = jnp.tensordot(transposed.astype(x.dtype), x, (1, x.ndim - 1), preferred_element_type=wide)
    # The barrier keeps XLA from turning the product around.
    return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1).astype(preferred or x.dtype)


def transposed_kernels(params: PyTree) -> PyTree:
    """The collection `transposed`, for `few_rows`: Wᵀ of every linear layer, and one for those with the same input."""
    turned = {path: jnp.swapaxes(x, -1, -2) for path, x in flatten_dict(params).items() if path[-1] == "kernel"}
    for parent in sorted({path[:-2] for path in turned if len(path) > 2 and path[-3] in JOINED}):
        names = JOINED[parent[-1]]
        parts = [turned.pop((*parent, name, "kernel")) for name in names]
        turned[*parent, "joined"] = jnp.concatenate(parts, axis=-2)
    return jax.lax.optimization_barrier(unflatten_dict(turned))


def products(module: nn.Module, x: Array, sizes: tuple[int, ...]) -> list[Array | None]:
    """x Wᵢ of the module's joined layers, of so many features each; Nones where a layer multiplies by its own kernel."""
    turned = module.get_variable("transposed", "joined")
    if turned is None:
        return [None] * len(sizes)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(few_rows(x, turned), ends, axis=-1)
