"""Decode attention of one token to its own response on a GPU, as one Triton kernel written in Pallas.

JAX 0.10 to 0.12 have Pallas' Triton backend. JAX 0.11 announces its removal in a later version.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pubswap_jax.types import Array

KEYS = 64  # keys per block
FEWEST = 16  # least rows of a tensor core's product; fewer query heads are padded


def own_attention(q: Array, k: Array, v: Array, step: Array, *, interpret: bool = False) -> tuple[Array, Array, Array]:
    """Attention of queries [..., q, h] to keys 0 … step of k and v [..., R, h]. Later keys are not read.

    Plain products would read the whole static cache at every step, also its unwritten part. The result is in f32 and not
    normalised, so that the caller can merge it with attention to the prompt: Σ exp(s − m) v [..., q, h], and
    Σ exp(s − m) and m = max s, both [..., q].
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
    """The Triton kernel for one response and one key-value head: an online softmax over blocks of keys.

    Online softmax: Milakov & Gimelshein 2018.
    """
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
