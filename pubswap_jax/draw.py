"""Drawing tokens from logits: exact, without sorting and without a random number per entry."""

import jax
import jax.numpy as jnp

from pubswap_jax.types import Array

CHUNK = 512


def truncate(logits: Array, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Array:
    """−inf outside of the k likeliest, then the smallest nucleus of mass p (Holtzman et al. 2020), then p ≥ min_p · max p."""
    if top_k:
        kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if top_p < 1:
        order = jnp.argsort(logits, axis=-1)
        rising = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1)), axis=-1)
        kept = (rising > 1 - top_p).at[..., -1].set(True)
        logits = jnp.where(jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1), logits, -jnp.inf)
    if min_p > 0:
        floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(jnp.asarray(min_p, logits.dtype))
        logits = jnp.where(logits < floor, -jnp.inf, logits)
    return logits


def inverse_cdf(logits: Array, uniforms: Array) -> Array:
    """token ~ softmax(logits), [..., V] and [..., 2] -> int32[...]: a chunk of the vocabulary first, then a token inside it.

    Two uniforms, since 23 bits are too coarse to reach the rare tokens of a large vocabulary. −inf is never drawn.
    """
    padding = -logits.shape[-1] % CHUNK
    pad = [(0, 0)] * (logits.ndim - 1) + [(0, padding)]
    top = jnp.max(logits, axis=-1, keepdims=True)
    chunks = jnp.pad(logits - top, pad, constant_values=-jnp.inf).reshape(*logits.shape[:-1], -1, CHUNK)
    chunk = _invert(jnp.sum(jnp.exp(chunks), axis=-1), uniforms[..., 0])
    inside = jnp.take_along_axis(chunks, chunk[..., None, None], axis=-2)[..., 0, :]
    return (chunk * CHUNK + _invert(jnp.exp(inside), uniforms[..., 1])).astype(jnp.int32)


def _invert(weights: Array, uniform: Array) -> Array:
    """The first i with w₀ + … + wᵢ > u Σw, among positive weights: rounding never selects an impossible entry."""
    cumulative = jnp.cumsum(weights, axis=-1)
    possible = weights > 0
    total = jnp.max(jnp.where(possible, cumulative, 0), axis=-1)
    return jnp.argmax(possible & (cumulative > (uniform * total)[..., None]), axis=-1)
