"""Products with the base's matrices: by W, or by copies that lie better, which are made once a rollout.

A few rows are multiplied fastest by Wᵀ on a CPU. On a GPU XLA joins matrices of the same input to one product, but does so
again at every token: a third of a step at 1.5B.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.types import Array, PyTree

# Two to so many rows at once a CPU multiplies fastest by Wᵀ; one row by W.
FEW_ROWS = 16

# Layers that read the same input: in a rollout one product serves them all.
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


def copies(params: PyTree, rows: int, dtype=None) -> dict[str, PyTree]:
    """The collections beside `params` by which so many rows are multiplied fastest, token after token, on this machine.

    On several devices there is none: joining matrices that are divided among them would move them. Joined ones are of
    `dtype`, by default the parameters'.
    """
    if prefers_transposed(rows):
        return {"transposed": transposed_kernels(params)}
    return {"joined": joined_kernels(params, dtype)} if jax.default_backend() == "gpu" and jax.device_count() == 1 else {}


def transposed_kernels(params: PyTree) -> PyTree:
    """The collection `transposed`, for `few_rows`: Wᵀ of every linear layer, and one for those with the same input."""
    turned = {path: jnp.swapaxes(x, -1, -2) for path, x in _kernels(params).items()}
    for parent, parts in _parts(turned).items():
        turned[*parent, "joined"] = jnp.concatenate([turned.pop(path) for path in parts], axis=-2)
    return jax.lax.optimization_barrier(unflatten_dict(turned))


def joined_kernels(params: PyTree, dtype=None) -> PyTree:
    """The collection `joined`: one W for all layers with the same input."""
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
    """{module: the paths of its kernels that read the same input}."""
    parents = sorted({path[:-2] for path in kernels if len(path) > 2 and path[-3] in JOINED})
    return {parent: [(*parent, name, "kernel") for name in JOINED[parent[-1]]] for parent in parents}


def products(module: nn.Module, x: Array, sizes: tuple[int, ...]) -> list[Array | None]:
    """x Wᵢ of the module's joined layers, of so many features each; Nones where a layer multiplies by its own kernel."""
    turned, joined = (module.get_variable(collection, "joined") for collection in ("transposed", "joined"))
    if turned is None and joined is None:
        return [None] * len(sizes)
    product = matmul(x, joined) if turned is None else few_rows(x, turned)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(product, ends, axis=-1)
