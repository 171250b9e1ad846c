"""Chooses the attention kernel. Each fused kernel is tested once per process, on a small case, against plain products.

A kernel that fails to compile or disagrees is reported on stderr and replaced by plain products ('xla').
"""

import functools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp

from pubswap_jax.policy import attention
from pubswap_jax.policy.triton_attention import FEWEST
from pubswap_jax.types import Array, ModelConfig


def training_kernel(dtype, *lengths: int) -> str:
    """The attention kernel for training: 'cudnn' for half precision and even lengths on a GPU; else 'xla'.

    cuDNN rejects odd lengths.

    cuDNN's kernel has no second derivative. Compute hypergradients in float32 or wider, which always use 'xla'.
    """
    half = jnp.dtype(dtype).itemsize == 2
    return "cudnn" if half and all(n % 2 == 0 for n in lengths) and _cudnn_agrees() else "xla"


def decode_kernel(dtype, config: ModelConfig) -> str:
    """The attention kernel for sampling: 'triton' for half precision on one GPU; else 'xla'.

    'triton' also needs a head size that is a power of two.

    On several devices XLA cannot partition the kernel and would gather the caches instead.
    """
    size = config.head_dim
    fits = jnp.dtype(dtype).itemsize == 2 and size >= FEWEST and size & (size - 1) == 0 and jax.device_count() == 1
    return "triton" if fits and _triton_agrees(config.num_heads // config.num_kv_heads, size) else "xla"


def _probed(name: str, largest_error: Callable[[], Array]) -> bool:
    """Whether a kernel agrees with plain products. Runs in another thread, because the caller may be inside a jit trace."""
    if jax.default_backend() != "gpu":
        return False

    def error() -> float:
        with jax.transfer_guard("allow"):
            return float(largest_error())

    try:
        with ThreadPoolExecutor(1) as thread:
            found = thread.submit(error).result()
    except Exception as fault:  # missing or old cuDNN, or a compiler failure: plain products work in every case
        print(f"{name} is not used: {(str(fault).splitlines() or [repr(fault)])[0]}", file=sys.stderr)
        return False
    if not found < 0.05:  # bfloat16 has 8 significant bits; not `>=`, which is False for NaN
        print(f"{name} is not used: it differs from plain products by {found:.2g}", file=sys.stderr)
    return found < 0.05


@functools.cache
def _cudnn_agrees() -> bool:
    return _probed("cuDNN's attention", lambda: packed_error("cudnn"))


@functools.cache
def _triton_agrees(queries: int, size: int) -> bool:
    return _probed("Triton's attention", lambda: decode_error("triton", queries, size))


def packed_error(form: str) -> Array:
    """Largest difference, in values and gradients, of packed attention by `form` and by plain products, for two clients."""
    clients, prompts, group, length, heads, shared, size = 2, 2, 2, 8, 4, 2, 64
    total = length * (1 + group)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((clients, prompts, total, n, size) for n in (heads, shared, shared))
    q, k, v = (jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, shapes, strict=True))
    mask = jnp.broadcast_to(jnp.arange(length)[None] >= jnp.array([0, 3])[:, None], (clients, prompts, length))

    def found(kernel: str):
        def value(qkv, mask):
            out, _ = attention.packed(mask, group, kernel)(*qkv, None)
            return jnp.mean(jnp.square(out.astype(float))), out

        slopes, out = jax.vmap(jax.grad(value, has_aux=True))((q, k, v), mask)
        real = jnp.pad(mask, ((0, 0), (0, 0), (0, total - length)), constant_values=True)[..., None, None]
        return [jnp.where(real, out, 0), *(total * size * x for x in slopes)]

    return _largest_difference(jax.jit(found, static_argnums=0)(form), jax.jit(found, static_argnums=0)("xla"))


def decode_error(form: str, queries: int, size: int) -> Array:
    """Largest difference between a few decode steps by `form` and by plain products.

    Two vmapped clients in a loop that updates its caches in place, like the sampler's loop.
    """
    clients, prompts, group, shared, prompt, length, first, steps = 2, 2, 2, 2, 8, 80, 62, 4
    keys = iter(jax.random.split(jax.random.key(0), 7))

    def normal(*shape):
        return jax.random.normal(next(keys), (clients, prompts, *shape), jnp.bfloat16)

    cache = {name: normal(shared, prompt, size) for name in ("prefix_k", "prefix_v")}
    cache |= {name: normal(group, shared, length, size) for name in ("k", "v")}
    tokens = (normal(steps, group, shared * queries, size), *(normal(steps, group, shared, size) for _ in "kv"))
    mask = jnp.ones((clients, prompts, prompt), bool)

    def found(kernel: str, cache):
        def one(i, carry):
            cache, outs = carry
            attend = lambda mask, cache, q, k, v: attention.decode(mask, first + i, kernel)(q, k, v, cache)  # noqa: E731
            out, cache = jax.vmap(attend)(mask, cache, *(x[:, :, i] for x in tokens))
            return cache, outs.at[i].set(out)

        start = jnp.zeros((steps, *tokens[0][:, :, 0].shape), jnp.bfloat16)
        return jax.lax.fori_loop(0, steps, one, (cache, start))[1]

    return _largest_difference(jax.jit(found, static_argnums=0)(form, cache), jax.jit(found, static_argnums=0)("xla", cache))


def _largest_difference(one, other) -> Array:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jnp.max(jnp.stack([jnp.max(jnp.abs(a.astype(float) - b.astype(float))) for a, b in pairs]))
