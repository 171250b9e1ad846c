"""Fused attention on a GPU: which kernels are used, and the one of our own.

A kernel is probed once a process, on a small case, before a model is trusted to it; plain einsums ('xla') stand in for all.
"""

import functools
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pubswap_jax.types import Array

KEYS = 64  # at a time
FEWEST = 16  # rows of a tensor core's product: so many query heads at least, padded


def choose(dtype, *lengths: int) -> str:
    """'cudnn' for half precision on a GPU whose cuDNN passed the probe, and even lengths (it takes no others); else 'xla'.

    cuDNN's kernel has no second derivative: hypergradients belong in float32 or wider, which always take 'xla'.
    """
    half = jnp.dtype(dtype).itemsize == 2
    return "cudnn" if half and all(n % 2 == 0 for n in lengths) and _cudnn_works() else "xla"


def choose_decode(dtype, head_size: int) -> str:
    """'triton' for half precision on one GPU where `own_attention` passed the probe, and heads of 2ⁿ entries; else 'xla'.

    On several devices XLA would gather the caches around a kernel that it cannot divide.
    """
    fits = jnp.dtype(dtype).itemsize == 2 and head_size >= FEWEST and head_size & (head_size - 1) == 0
    return "triton" if fits and jax.device_count() == 1 and _triton_works() else "xla"


def _probed(probe: Callable[[], bool]) -> bool:
    """What a probe finds, run at once even while a program is traced; False where the kernel cannot be built."""
    if jax.default_backend() != "gpu":
        return False
    try:
        with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
            return probe()
    except (RuntimeError, NotImplementedError, ValueError) as error:  # what JAX raises where a kernel does not build
        print(f"{probe.__name__}: not here, plain products instead: {str(error).splitlines()[0]}", file=sys.stderr)
        return False


@functools.cache
def _cudnn_works() -> bool:
    """One small forward and backward pass."""

    def cudnn_attention() -> bool:
        q = jnp.ones((2, 8, 2, 64), jnp.bfloat16)
        mask = jnp.ones((2, 1, 8, 8), bool)
        attend = functools.partial(jax.nn.dot_product_attention, mask=mask, implementation="cudnn")
        slope = jax.grad(lambda q: attend(q, q[:, :, :1], q[:, :, :1]).astype(float).sum())(q)
        return bool(jnp.isfinite(slope).all())

    return _probed(cudnn_attention)


@functools.cache
def _triton_works() -> bool:
    """One small case beside plain products."""

    def triton_attention() -> bool:
        q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 80, 64), jnp.bfloat16)
        out, total, _ = own_attention(q[:, :2], k, v, jnp.int32(70))
        weights = jax.nn.softmax(jnp.einsum("nqh,nsh->nqs", q[:, :2], k[:, :71]).astype(float) / 8)
        return bool(jnp.allclose(out / total[..., None], jnp.einsum("nqs,nsh->nqh", weights, v[:, :71]), atol=0.05))

    return _probed(triton_attention)


def own_attention(q: Array, k: Array, v: Array, step: Array, *, interpret: bool = False) -> tuple[Array, Array, Array]:
    """Queries [..., q, h] over the keys 0 … step of k and v [..., R, h], and no other key is read.

    As plain products every step would read the whole static cache, written or not, for very few rows. The result is in f32
    and not yet normalised, so that it can be joined with attention to the prompt: Σ exp(s − m) v [..., q, h],
    Σ exp(s − m) and m = max s, [..., q] both.
    """
    *lead, heads, size = q.shape
    tile = max(FEWEST, pl.next_power_of_2(heads))
    rows, length = q.size // (heads * size), k.shape[-2]

    def spec(*shape):
        return pl.BlockSpec((None, *shape), lambda n: (n, *([0] * len(shape))))

    out, total, top = pl.pallas_call(
        functools.partial(_attend, heads=heads, scale=size**-0.5),
        grid=(rows,),
        in_specs=[pl.BlockSpec((), lambda n: ()), spec(tile, size), spec(length, size), spec(length, size)],
        out_specs=[spec(tile, size), spec(tile), spec(tile)],
        out_shape=[jax.ShapeDtypeStruct((rows, heads, *more), jnp.float32) for more in ((size,), (), ())],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="own_attention",
    )(step, q.reshape(rows, heads, size), k.reshape(rows, length, size), v.reshape(rows, length, size))
    return out.reshape(q.shape), total.reshape(*lead, heads), top.reshape(*lead, heads)


def _attend(step_ref, q_ref, k_ref, v_ref, out_ref, total_ref, top_ref, *, heads: int, scale: float):
    """One response, one key-value head: a running softmax over blocks of keys (Milakov & Gimelshein 2018)."""
    tile, size = q_ref.shape
    real = jnp.arange(tile) < heads
    q = triton.load(q_ref, mask=real[:, None], other=0.0)
    end = step_ref[()] + 1

    def block(i, carry):
        out, total, top = carry
        seen = i * KEYS + jnp.arange(KEYS) < end
        here = pl.ds(i * KEYS, KEYS)
        k = triton.load(k_ref.at[here, :], mask=seen[:, None], other=0.0)
        v = triton.load(v_ref.at[here, :], mask=seen[:, None], other=0.0)
        scores = jnp.where(seen[None], triton.dot(q, k.T) * scale, jnp.finfo(jnp.float32).min)
        higher = jnp.maximum(top, scores.max(axis=1))
        fade, weights = jnp.exp(top - higher), jnp.exp(scores - higher[:, None])
        out = fade[:, None] * out + triton.dot(weights.astype(v.dtype), v)
        return out, fade * total + weights.sum(axis=1), higher

    nothing = jnp.zeros((tile, size), jnp.float32), jnp.zeros(tile, jnp.float32)
    lowest = jnp.full(tile, jnp.finfo(jnp.float32).min)
    out, total, top = jax.lax.fori_loop(0, pl.cdiv(end, KEYS), block, (*nothing, lowest))
    triton.store(out_ref, out, mask=real[:, None])
    triton.store(total_ref, total, mask=real)
    triton.store(top_ref, top, mask=real)
