"""Who attends to whom: functions (q, k, v, cache) -> (out, cache) that the blocks of the model are handed.

A prompt is encoded once per group: response g attends to the prompt and, causally, to itself. Keys and values are never
repeated, neither over the query heads that share them nor over the G responses that share a prompt.

Axes: B prompts, T tokens, G samples per prompt, P prompt length, R response length, k key-value heads, q queries per key-value
head, h head size. An `Attend` is a `jax.tree_util.Partial`, so that its masks pass through remat and scan as arrays.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from pubswap_jax.types import Array, PyTree

# q [B, T, heads, h], k and v [B, T, kv heads, h], this layer's cache -> out [B, T, heads, h], the cache to keep (or None)
Attend = Callable[[Array, Array, Array, PyTree], tuple[Array, PyTree]]


def positions(mask: Array) -> Array:
    """Counts real tokens from 0, so that padding on the left shifts nothing."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def causal(mask: Array) -> Attend:
    """Plain causal attention over [B, T]; `mask` is False on padding."""
    return Partial(_causal, mask)


def packed(prompt_mask: Array, group: int) -> Attend:
    """The sequence [prompt | response 1 | … | response G], [B, P + G·R], in which responses do not see each other."""
    return Partial(functools.partial(_packed, group=group), prompt_mask)


def prefill(mask: Array, group: int, length: int) -> Attend:
    """Causal attention over the prompts, which leaves their keys and values in the cache, and room for G responses."""
    return Partial(functools.partial(_prefill, group=group, length=length), mask)


def decode(prompt_mask: Array, step: Array) -> Attend:
    """Token `step` of each of the G responses, [B, G]: attends to the prompt and to its own cache, which it extends."""
    return Partial(_decode, prompt_mask, step)


def _split_heads(q: Array, kv_heads: int) -> Array:
    return q.reshape(*q.shape[:-2], kv_heads, -1, q.shape[-1])


def _scores(equation: str, q: Array, k: Array) -> Array:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.einsum(equation, q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5


def _masked(scores: Array, mask: Array) -> Array:
    # A finite floor: a row of padding sees nothing, and its softmax must not be 0 / 0.
    return jnp.where(jnp.broadcast_to(mask, scores.shape), scores, jnp.finfo(scores.dtype).min)


def _causal(mask, q, k, v, cache):
    length = mask.shape[-1]
    grouped = _split_heads(q, k.shape[-2])
    seen = jnp.tril(jnp.ones((length, length), bool))[None] & mask[:, None]
    scores = _masked(_scores("btkqh,bskh->bkqts", grouped, k), seen[:, None, None])
    out = jnp.einsum("bkqts,bskh->btkqh", jax.nn.softmax(scores).astype(v.dtype), v)
    return out.reshape(q.shape), None


def _two_part(q, prefix_k, prefix_v, own_k, own_v, prompt_mask, own_mask):
    """One softmax over the prompt and the response's own tokens. q [B, G, T, k, q, h], prefix [B, P, k, h], own [B, G, S, k, h]."""
    prefix = _masked(_scores("bgtkqh,bpkh->bgkqtp", q, prefix_k), prompt_mask[:, None, None, None, None])
    own = _masked(_scores("bgtkqh,bgskh->bgkqts", q, own_k), own_mask)
    weights = jax.nn.softmax(jnp.concatenate([prefix, own], axis=-1)).astype(own_v.dtype)
    to_prefix, to_own = jnp.split(weights, [prefix_k.shape[1]], axis=-1)
    return jnp.einsum("bgkqtp,bpkh->bgtkqh", to_prefix, prefix_v) + jnp.einsum("bgkqts,bgskh->bgtkqh", to_own, own_v)


def _packed(prompt_mask, q, k, v, cache, *, group):
    batch, prompt = prompt_mask.shape
    length = (q.shape[1] - prompt) // group
    to_prompt, _ = _causal(prompt_mask, *(x[:, :prompt] for x in (q, k, v)), None)
    own_q, own_k, own_v = (x[:, prompt:].reshape(batch, group, length, *x.shape[2:]) for x in (q, k, v))
    own_mask = jnp.tril(jnp.ones((length, length), bool))[None, None, None, None]
    out = _two_part(_split_heads(own_q, k.shape[-2]), k[:, :prompt], v[:, :prompt], own_k, own_v, prompt_mask, own_mask)
    return jnp.concatenate([to_prompt, out.reshape(batch, group * length, *q.shape[2:])], axis=1), None


def _prefill(mask, q, k, v, cache, *, group, length):
    out, _ = _causal(mask, q, k, v, None)
    room = (k.shape[0], group, length, *k.shape[2:])
    return out, {"prefix_k": k, "prefix_v": v, "k": jnp.zeros(room, k.dtype), "v": jnp.zeros(room, v.dtype)}


def _decode(prompt_mask, step, q, k, v, cache):
    own_k = jax.lax.dynamic_update_index_in_dim(cache["k"], k, step, axis=2)
    own_v = jax.lax.dynamic_update_index_in_dim(cache["v"], v, step, axis=2)
    own_mask = (jnp.arange(own_k.shape[2]) <= step)[None, None, None, None, None]
    grouped = _split_heads(q, k.shape[-2])[:, :, None]
    out = _two_part(grouped, cache["prefix_k"], cache["prefix_v"], own_k, own_v, prompt_mask, own_mask)
    return out.reshape(q.shape), {**cache, "k": own_k, "v": own_v}
