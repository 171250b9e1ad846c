"""Multiplies by the base's matrices: by W itself, or by copies in a faster layout, which are made once per rollout.

On a CPU a few rows multiply fastest with a stored Wᵀ. On a GPU XLA concatenates matrices that share an input, but again at
every token, which takes a third of a decode step at 1.5B.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.types import Array, PyTree

# A CPU multiplies 2 to FEW_ROWS rows fastest with Wᵀ, and a single row with W.
FEW_ROWS = 16

# Layers that share an input. A rollout computes them in one product.
JOINED = {"self_attn": ("q_proj", "k_proj", "v_proj"), "mlp": ("gate_proj", "up_proj")}


def matmul(x: Array, kernel: Array, preferred=None) -> Array:
    """The product x W of activations and a linear layer's matrix, in the dtype of x."""
    kernel = kernel.astype(x.dtype)
    if x.size == x.shape[-1] and x.dtype.itemsize == 2:
        # Two rows, not one: XLA's CPU backend has no half-precision matrix-vector product and would convert the whole matrix.
        twice = jnp.concatenate([x, x], axis=-2)
        return jnp.matmul(twice, kernel, preferred_element_type=preferred)[..., :1, :]
    return jnp.matmul(x, kernel, preferred_element_type=preferred)


def prefers_transposed(rows: int) -> bool:
    """Whether `few_rows` is faster than `matmul` for this number of rows, as measured on a CPU."""
    return 1 < rows <= FEW_ROWS and jax.default_backend() == "cpu"


def few_rows(x: Array, transposed: Array, preferred=None) -> Array:
    """The product x W for a few rows, from Wᵀ [out, in]: fast on a CPU, since each row of Wᵀ is read once, in memory order."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = jnp.tensordot(transposed.astype(x.dtype), x, (1, x.ndim - 1), preferred_element_type=wide)
    # Without the barrier XLA would swap the operands back.
    return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1).astype(preferred or x.dtype)


def copies(params: PyTree, rows: int, dtype=None) -> dict[str, PyTree]:
    """Extra collections beside `params` that make decoding `rows` rows fastest on this machine.

    Empty on several devices, because joining sharded matrices would move them between devices. Joined matrices have `dtype`,
    by default the parameters' dtype.
    """
    if prefers_transposed(rows):
        return {"transposed": transposed_kernels(params)}
    return {"joined": joined_kernels(params, dtype)} if jax.default_backend() == "gpu" and jax.device_count() == 1 else {}


def transposed_kernels(params: PyTree) -> PyTree:
    """Makes the collection `transposed` for `few_rows`: Wᵀ of each linear layer.

    Layers that share an input have one joined Wᵀ.
    """
    turned = {path: jnp.swapaxes(x, -1, -2) for path, x in _kernels(params).items()}
    for parent, parts in _parts(turned).items():
        turned[*parent, "joined"] = jnp.concatenate([turned.pop(path) for path in parts], axis=-2)
    return jax.lax.optimization_barrier(unflatten_dict(turned))


def joined_kernels(params: PyTree, dtype=None) -> PyTree:
    """Makes the collection `joined`: one matrix for all layers that share an input, such as queries, keys and values."""
    kernels = _kernels(params)
    joined = {
        (*parent, "joined"): jnp.concatenate([kernels[path] for path in parts], axis=-1).astype(
            dtype or kernels[parts[0]].dtype
        )
        for parent, parts in _parts(kernels).items()
    }
    return jax.lax.optimization_barrier(unflatten_dict(joined))


def _kernels(params: PyTree) -> dict[tuple, Array]:
    return {path: x for path, x in flatten_dict(params).items() if path[-1] == "kernel"}


def _parts(kernels: dict[tuple, Array]) -> dict[tuple, list[tuple]]:
    """Groups the kernels of a module that share an input: {module: paths of these kernels}."""
    parents = sorted({path[:-2] for path in kernels if len(path) > 2 and path[-3] in JOINED})
    return {parent: [(*parent, name, "kernel") for name in JOINED[parent[-1]]] for parent in parents}


def products(module: nn.Module, x: Array, sizes: tuple[int, ...]) -> list[Array | None]:
    """The products x Wᵢ of the layers that share x, from joined copies. All None without copies: each layer uses its own W.

    `sizes`: the layers' numbers of features.
    """
    turned, joined = (module.get_variable(collection, "joined") for collection in ("transposed", "joined"))
    if turned is None and joined is None:
        return [None] * len(sizes)
    product = matmul(x, joined) if turned is None else few_rows(x, turned)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(product, ends, axis=-1)
