"""Attention patterns: functions (q, k, v, cache) -> (out, cache) that are passed to the model's blocks.

A prompt is encoded once per group: response g attends to the prompt and, causally, to itself. Keys and values are repeated
neither over the query heads that share them nor over the G responses that share a prompt. Only the cuDNN form repeats them.

Axes: B prompts, T queries, S keys, G samples per prompt, P prompt length, R response length, k key-value heads, q queries per
key-value head, h head size. An `Attend` is a `jax.tree_util.Partial`: its masks pass through remat and scan as arrays.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.tree_util import Partial

from pubswap_jax.policy.triton_attention import own_attention
from pubswap_jax.types import Array, PyTree

# q [B, T, heads, h], k and v [B, T, kv heads, h], this layer's cache -> out [B, T, heads, h], the cache to keep (or None)
Attend = Callable[[Array, Array, Array, PyTree], tuple[Array, PyTree]]

# Attention scores in memory at once, per client. Above 2^24 (64 MB in f32) queries are processed in blocks, and the backward
# pass recomputes each block.
SCORES_AT_ONCE = 2**24


def positions(mask: Array) -> Array:
    """Positions of tokens for rotary embeddings. Real tokens are counted from 0, so left padding does not shift them."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def causal(mask: Array) -> Attend:
    """Returns plain causal attention over [B, T]; `mask` is False on padding."""
    return Partial(_causal, mask)


def packed(prompt_mask: Array, group: int, kernel: str = "xla") -> Attend:
    """Returns attention over [prompt | response 1 | … | response G], [B, P + G·R]. Responses do not attend to each other."""
    return Partial(functools.partial(_packed, group=group, kernel=kernel), prompt_mask)


def prefill(mask: Array, group: int, length: int) -> Attend:
    """Causal attention over the prompts. The cache that it returns holds their keys and values, and zeros for G responses."""
    return Partial(functools.partial(_prefill, group=group, length=length), mask)


def decode(prompt_mask: Array, step: Array, kernel: str = "xla") -> Attend:
    """Attention of token `step` of each response, [B, G], to the prompt and to its own cache, which gets this token too."""
    return Partial(functools.partial(_decode, kernel=kernel), prompt_mask, step)


def _product(equation: str, x: Array, y: Array) -> Array:
    """An einsum that accumulates in float32 or wider, and returns that dtype."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    if jax.default_backend() == "cpu":
        x, y = x.astype(wide), y.astype(wide)  # XLA's CPU backend lacks some batched half-precision products with f32 output
    return jnp.einsum(equation, x, y, preferred_element_type=wide)


def _scores(equation: str, q: Array, k: Array, mask: Array) -> Array:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = _product(equation, q, k) * q.shape[-1] ** -0.5
    # A finite floor, not −inf: a padding row attends to nothing, and −inf would make its softmax 0 / 0.
    return jnp.where(jnp.broadcast_to(mask, scores.shape), scores, jnp.finfo(wide).min)


def _two_part(q, own_k, own_v, own_mask, prefix_k, prefix_v, prefix_mask):
    """Attention with one softmax over the shared prompt and the response's own tokens.

    q [B, G, T, k, q, h], own [B, G, S, k, h], prefix [B, P, k, h] -> [B, G, T, k, q, h]; masks bool[T, S] and bool[B, P].
    """
    own = _scores("bgtkqh,bgskh->bgkqts", q, own_k, own_mask[None, None, None, None])
    prefix = _scores("bgtkqh,bpkh->bgkqtp", q, prefix_k, prefix_mask[:, None, None, None, None])
    weights = jax.nn.softmax(jnp.concatenate([prefix, own], axis=-1)).astype(own_v.dtype)
    to_prefix, to_own = jnp.split(weights, [prefix_k.shape[1]], axis=-1)
    return jnp.einsum("bgkqtp,bpkh->bgtkqh", to_prefix, prefix_v) + jnp.einsum("bgkqts,bgskh->bgtkqh", to_own, own_v)


def _one_part(q, k, v, causal_mask, mask):
    """Plain softmax attention: q [B, T, k, q, h], k and v [B, S, k, h], masks bool[T, S] and bool[B, S] -> [B, T, k, q, h]."""
    seen = causal_mask[None] & mask[:, None]
    weights = jax.nn.softmax(_scores("btkqh,bskh->bkqts", q, k, seen[:, None, None]))
    return jnp.einsum("bkqts,bskh->btkqh", weights.astype(v.dtype), v)


def equal_parts(length: int, fewest: int) -> tuple[int, int]:
    """(number, size) of equal parts that cover `length`: `fewest` parts, or `fewest + 1` if only that divides `length`.

    If neither divides `length`, number · size exceeds `length` by less than `number`, and the last part is padded. Requiring a
    divisor of `length` would fail for primes, whose only divisors are 1 and the prime.
    """
    for number in (fewest, fewest + 1):
        if length % number == 0:
            return number, length // number
    size = -(-length // fewest)
    return -(-length // size), size


def _blocks(length: int, scores: int) -> tuple[int, int]:
    """(number, size) of query blocks, as few as keep the scores of one block within SCORES_AT_ONCE."""
    largest = min(max(1, length * SCORES_AT_ONCE // scores), length)
    return equal_parts(length, -(-length // largest))


def _by_blocks(attend, q: Array, causal_mask: Array, axis: int, keys: int) -> Array:
    """Computes attend(q, causal_mask) in blocks of queries on `axis`, whose scores stay within SCORES_AT_ONCE."""
    length = q.shape[axis]
    number, size = _blocks(length, q.size // q.shape[-1] * keys)
    if number == 1:
        return attend(q, causal_mask)
    # Padded queries attend to no key, still get finite values (see `_scores`), and are sliced off at the end.
    padding = number * size - length
    q = jnp.pad(q, [(0, padding if i == axis else 0) for i in range(q.ndim)])
    causal_mask = jnp.pad(causal_mask, ((0, padding), (0, 0)))
    parts = jnp.moveaxis(q.reshape(*q.shape[:axis], number, size, *q.shape[axis + 1 :]), axis, 0)
    one = jax.checkpoint(attend, prevent_cse=False)
    _, out = jax.lax.scan(lambda _, xs: (None, one(*xs)), None, (parts, causal_mask.reshape(number, size, length)))
    return jax.lax.slice_in_dim(jnp.moveaxis(out, 0, axis).reshape(q.shape), 0, length, axis=axis)


def _grouped(q: Array, kv_heads: int) -> Array:
    return q.reshape(*q.shape[:-2], kv_heads, -1, q.shape[-1])


def _tril(length: int) -> Array:
    return jnp.tril(jnp.ones((length, length), bool))


def _causal(mask, q, k, v, cache):
    length = mask.shape[-1]
    out = _by_blocks(lambda q, seen: _one_part(q, k, v, seen, mask), _grouped(q, k.shape[-2]), _tril(length), 1, length)
    return out.reshape(q.shape), None


def _packed(prompt_mask, q, k, v, cache, *, group, kernel):
    batch, prompt = prompt_mask.shape
    length = (q.shape[1] - prompt) // group
    to_prompt, _ = _causal(prompt_mask, *(x[:, :prompt] for x in (q, k, v)), None)
    own_q, own_k, own_v = (x[:, prompt:].reshape(batch, group, length, *x.shape[2:]) for x in (q, k, v))
    prefix_k, prefix_v = k[:, :prompt], v[:, :prompt]
    if kernel == "xla":
        attend = lambda q, seen: _two_part(q, own_k, own_v, seen, prefix_k, prefix_v, prompt_mask)  # noqa: E731
        out = _by_blocks(attend, _grouped(own_q, k.shape[-2]), _tril(length), 2, prompt + length)
    else:
        out = _repeated(own_q, own_k, own_v, prefix_k, prefix_v, prompt_mask, kernel)
    return jnp.concatenate([to_prompt, out.reshape(batch, group * length, *q.shape[2:])], axis=1), None


def _repeated(own_q, own_k, own_v, prefix_k, prefix_v, prompt_mask, kernel):
    """Responses' attention by the kernels of `jax.nn.dot_product_attention`, which need the prompt's keys once per response."""
    batch, group, length = own_q.shape[:3]

    def rows(x):
        return x.reshape(batch * group, *x.shape[2:])

    def whole(prefix, own):
        repeated = jnp.broadcast_to(prefix[:, None], (batch, group, *prefix.shape[1:]))
        return rows(jnp.concatenate([repeated, own], axis=2))

    prompt = jnp.broadcast_to(prompt_mask[:, None, None], (batch, group, length, prompt_mask.shape[-1]))
    own = jnp.broadcast_to(_tril(length)[None, None], (batch, group, length, length))
    mask = rows(jnp.concatenate([prompt, own], axis=-1))
    # Repeat the mask for every head: JAX's batching rule for the cuDNN kernel does not broadcast a mask of one head.
    mask = jnp.broadcast_to(mask[:, None], (batch * group, own_q.shape[3], *mask.shape[1:]))
    keys, values = whole(prefix_k, own_k), whole(prefix_v, own_v)
    out = jax.nn.dot_product_attention(rows(own_q), keys, values, mask=mask, implementation=kernel)
    return out.reshape(own_q.shape)


def _prefill(mask, q, k, v, cache, *, group, length):
    # Caches put heads before positions, unlike k and v: decode steps then multiply them without a transpose.
    out, _ = _causal(mask, q, k, v, None)
    room = (k.shape[0], group, k.shape[2], length, k.shape[3])
    prefix_k, prefix_v = (jnp.swapaxes(x, 1, 2) for x in (k, v))
    return out, {"prefix_k": prefix_k, "prefix_v": prefix_v, "k": jnp.zeros(room, k.dtype), "v": jnp.zeros(room, v.dtype)}


def _one_write(cache, row, step):
    """Writes `row` [..., 1, h] into cache [..., R, h] at `step`. Axes of size one would keep XLA from writing in place."""
    axes = [n for n in cache.shape[:-2] if n > 1]
    cache_, row_ = (x.reshape(*axes, *x.shape[-2:]) for x in (cache, row))
    return jax.lax.dynamic_update_slice_in_dim(cache_, row_, step, axis=-2).reshape(cache.shape)


# JAX's default batching rule would make a scatter, before which XLA copies the whole cache.
_write = custom_vmap(_one_write)


@_write.def_vmap
def _write_all(_, batched, cache, row, step):
    if batched == [True, True, False]:
        return _write(cache, row, step), True
    axes = [0 if one else None for one in batched]
    return jax.vmap(_one_write, axes)(cache, row, step), True


def _decode(prompt_mask, step, q, k, v, cache, *, kernel):
    """Attention of one new token to the keys of the prompt [B, k, P, h] and of its own response [B, G, k, R, h].

    The two parts' scores are not concatenated.
    """
    own_k, own_v = (_write(cache[name], row[..., None, :], step) for name, row in (("k", k), ("v", v)))
    grouped = _grouped(q, k.shape[-2])
    prefix = _scores("bgkqh,bkph->bkgqp", grouped, cache["prefix_k"], prompt_mask[:, None, None, None])
    halves = _halves if kernel == "xla" else _halves_by_triton
    out = halves(grouped, prefix, cache["prefix_v"], own_k, own_v, step)
    return out.astype(q.dtype).reshape(q.shape), {**cache, "k": own_k, "v": own_v}


def _halves(grouped, prefix, prefix_v, own_k, own_v, step):
    seen = (jnp.arange(own_k.shape[3]) <= step)[None, None, None, None]
    own = jnp.swapaxes(_scores("bgkqh,bgksh->bgkqs", grouped, own_k, seen), 1, 2)
    top = jnp.maximum(jnp.max(prefix, axis=-1), jnp.max(own, axis=-1))[..., None]
    prefix, own = jnp.exp(prefix - top), jnp.exp(own - top)
    total = jnp.sum(prefix, axis=-1) + jnp.sum(own, axis=-1)
    to_prefix, to_own = prefix.astype(own_v.dtype), jnp.swapaxes(own, 1, 2).astype(own_v.dtype)
    out = _product("bkgqp,bkph->bgkqh", to_prefix, prefix_v)
    out = out + _product("bgkqs,bgksh->bgkqh", to_own, own_v)
    return out / jnp.swapaxes(total, 1, 2)[..., None]


def _halves_by_triton(grouped, prefix, prefix_v, own_k, own_v, step):
    own, own_total, own_top = own_attention(grouped, own_k, own_v, step)
    prefix = jnp.moveaxis(prefix, 2, 1)  # [B, G, k, q, P], the layout of `own`
    top = jnp.maximum(jnp.max(prefix, axis=-1), own_top)
    prefix, fade = jnp.exp(prefix - top[..., None]), jnp.exp(own_top - top)
    out = _product("bgkqp,bkph->bgkqh", prefix.astype(own_v.dtype), prefix_v)
    total = jnp.sum(prefix, axis=-1) + fade * own_total
    return (out + fade[..., None] * own) / total[..., None]
