"""Exact sampling of tokens from logits, without sorting and without a random number per logit.

`jax.random.categorical` draws one random number per logit. Here two uniforms per row invert the cumulative distribution, first
over chunks of the vocabulary, then inside the chosen chunk.
"""

import jax
import jax.numpy as jnp

from pubswap_jax.types import Array

CHUNK = 512


def draw(
    logits: Array, uniforms: Array, top_k: int, top_p: float, min_p: float, greedy: bool, temperature=1.0
) -> tuple[Array, Array]:
    """Draws a token from truncated softmax(logits / temperature); also returns its log-prob before truncation.

    [..., V], [..., 2] -> int32[...], f32[...]. A GPU reads the logits twice, for the maximum and for the chunk masses, and
    writes no array of their size. Dividing by `temperature` before the call would write one; the second pass divides instead.
    """
    top = jnp.max(logits, axis=-1)
    shifted = (logits - top[..., None]) / jnp.asarray(temperature, logits.dtype)
    chunks = _chunks(shifted)
    # Without the barrier XLA would turn the sum over chunk masses into one sum over all logits, a third read of them.
    mass = jax.lax.optimization_barrier(jnp.sum(jnp.exp(chunks), axis=-1))
    if greedy:
        token = jnp.argmax(logits, axis=-1)
    elif top_k or top_p < 1 or min_p > 0:
        chunks = _chunks(truncate(shifted, top_k, top_p, min_p))
        token = inverse_cdf(chunks, jnp.sum(jnp.exp(chunks), axis=-1), uniforms)
    else:
        token = inverse_cdf(chunks, mass, uniforms)
    picked = jnp.take_along_axis(shifted, token[..., None], axis=-1)[..., 0]
    return token.astype(jnp.int32), picked - jnp.log(jnp.sum(mass, axis=-1))


def inverse_cdf(chunks: Array, mass: Array, uniforms: Array) -> Array:
    """Draws a token ∝ exp(logits), from logits [..., n, CHUNK], chunk masses Σ exp [..., n] and two uniforms per row.

    One uniform is not enough: its 23 bits are too coarse for the rare tokens of a large vocabulary.
    """
    chunk = _invert(mass, uniforms[..., 0])
    inside = jnp.take_along_axis(chunks, chunk[..., None, None], axis=-2)[..., 0, :]
    return chunk * CHUNK + _invert(jnp.exp(inside), uniforms[..., 1])


def truncate(logits: Array, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Array:
    """Sets logits to −inf outside the top k, then outside the nucleus of mass p, then where p < min_p · max p.

    The nucleus is that of Holtzman et al. 2020.

    The order, and the rules for ties and edge cases, are those of Hugging Face's transformers.
    """
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


def _chunks(logits: Array) -> Array:
    padding = -logits.shape[-1] % CHUNK
    padded = jnp.pad(logits, [(0, 0)] * (logits.ndim - 1) + [(0, padding)], constant_values=-jnp.inf)
    return padded.reshape(*logits.shape[:-1], -1, CHUNK)


def _invert(weights: Array, uniform: Array) -> Array:
    """Draws an index ∝ weights by a uniform u: the first i with w₀ + … + wᵢ > u Σw.

    Also wᵢ > 0, so that rounding never selects an impossible entry.
    """
    cumulative = jnp.cumsum(weights, axis=-1)
    possible = weights > 0
    total = jnp.max(jnp.where(possible, cumulative, 0), axis=-1)
    return jnp.argmax(possible & (cumulative > (uniform * total)[..., None]), axis=-1)
