"""Rollouts: each prompt is encoded once, then one loop samples G responses per prompt, with all clients in one batch.

There is one compiled program per shape: prefill, then a `while_loop`. The loop updates its carry, which includes the keys and
values of every layer, in place. Clients are vmapped inside the loop: only the adapters differ, and the base matrices multiply
one batch. Vmapping the loop itself would scatter into the caches and select over the whole carry.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from pubswap_jax.policy import attention, kernel_check, token_draw
from pubswap_jax.policy.logps import check_base, check_positions, check_temperature, variables
from pubswap_jax.policy.matmul import copies
from pubswap_jax.types import Array, Prompts, PyTree, Rollout

# Tokens between two checks whether all responses have ended. A check after every token is slow: it waits for the device.
TOKENS_PER_TEST = 8


class How(NamedTuple):
    """Static arguments of a sampling call. With the arrays' shapes they decide which compiled program is used."""

    group: int
    length: int
    eos_ids: tuple[int, ...]
    pad_id: int
    top_k: int
    top_p: float
    min_p: float
    greedy: bool


@flax.struct.dataclass
class SamplingState:
    """What the decode loop carries from token to token: the responses so far, the caches, and the next states."""

    step: Array  # int32[], tokens written so far
    states: Array  # [C, B, G, D], last hidden states, which predict the next token
    done: Array  # bool[C, B, G], the response has ended
    tokens: Array  # int32[C, B, G, R]
    mask: Array  # bool[C, B, G, R]
    logps: Array  # f32[C, B, G, R]
    cache: PyTree  # by layer: keys and values of the prompts [C, B, k, P, h] and of the responses [C, B, G, k, R, h];
    # axes of size one are squeezed, since XLA would copy arrays that have them


def sample(
    model,
    base: PyTree,
    adapters: PyTree | None,
    prompts: Prompts,
    key: Array,
    *,
    group: int,
    max_new_tokens: int,
    temperature=1.0,
    eos_ids: tuple[int, ...] | None = None,
    pad_id: int | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    greedy: bool = False,
) -> Rollout:
    """Samples G responses of each client's policy to each of its prompts: prompts [C, B, P] -> rollout [C, B, G, R].

    `adapters` has leaves [C, ...].

    `key` is one key, one per client [C] or one per response [C, B, G]; a response depends on its own policy, prompt and key.
    Log-probs are those of the policy at `temperature`, before truncation by top-k, top-p or min-p. `greedy` takes the likeliest
    token and returns the same log-probs. `adapters=None` samples the base. `eos_ids` and `pad_id` default to the model's.
    """
    check_base(base)
    if prompts.tokens.ndim != 3:
        raise ValueError(f"prompts.tokens has shape {prompts.tokens.shape}; sample wants [C, B, P], with C = 1 for one client")
    if top_k < 0 or not 0 <= top_p <= 1 or not 0 <= min_p <= 1:
        raise ValueError(f"top_k >= 0, top_p and min_p from 0 to 1 expected, got {top_k}, {top_p} and {min_p}")
    check_temperature(temperature)
    config = model.config
    check_positions(config, ("the prompts' width", prompts.tokens.shape[-1]), ("max_new_tokens", max_new_tokens))
    eos_ids = tuple(int(i) for i in (config.eos_ids if eos_ids is None else eos_ids))
    pad_id = config.pad_id if pad_id is None else int(pad_id)
    how = How(group, max_new_tokens, eos_ids, pad_id, top_k, top_p, min_p, greedy)
    # A while_loop has no reverse mode, and none is needed: tokens have no gradient.
    base, adapters, temperature = jax.lax.stop_gradient((base, adapters, jnp.asarray(temperature, float)))
    return _sample(model, base, adapters, prompts, key, temperature, how)


@functools.partial(jax.jit, static_argnames=("model", "how"))
def _sample(model, base, adapters, prompts: Prompts, key: Array, temperature: Array, how: How) -> Rollout:
    clients, batch, _ = prompts.tokens.shape
    length = how.length
    tests, stride = attention.equal_parts(length, -(-length // TOKENS_PER_TEST))
    how = how._replace(length=tests * stride)  # rounded up to whole strides; the extra tokens are cut off
    uniforms = _uniforms(row_keys(key, clients, batch, how.group), how.length)
    start = _start(model, base, adapters, prompts, how)
    if model.config.scan_layers:
        model, base, adapters, cache = _unrolled(model, base, adapters, start.cache)
        start = start.replace(cache=cache)
    base = base | copies(base["params"], clients * batch * how.group, model.config.dtype)
    unembed = functools.partial(model.apply, base, method="unembed")

    def one_token(_, state: SamplingState) -> SamplingState:
        logits = unembed(state.states)
        token, logp = token_draw.draw(logits, uniforms[state.step], how.top_k, how.top_p, how.min_p, how.greedy, temperature)
        token = jnp.where(state.done, how.pad_id, token)
        ends = functools.reduce(jnp.logical_or, [token == i for i in how.eos_ids], state.done)
        cache = jax.tree.map(lambda x, whole: x.reshape(whole.shape), state.cache, whole)
        states, cache = _decode(model, base, adapters, cache, token, prompts.mask, state.step)

        def write(array, value):
            return jax.lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), state.step, axis=-1)

        return SamplingState(
            step=state.step + 1,
            states=states,
            done=ends,
            tokens=write(state.tokens, token),
            mask=write(state.mask, ~state.done),
            logps=write(state.logps, jnp.where(state.done, 0, logp)),
            cache=jax.tree.map(jnp.squeeze, cache),
        )

    whole = jax.eval_shape(lambda: start.cache)
    start = start.replace(cache=jax.tree.map(jnp.squeeze, start.cache))
    state = jax.lax.while_loop(
        lambda state: (state.step < how.length) & ~jnp.all(state.done),
        lambda state: jax.lax.fori_loop(0, stride, one_token, state),
        start,
    )
    return Rollout(tokens=state.tokens[..., :length], mask=state.mask[..., :length], logps=state.logps[..., :length])


def _start(model, base, adapters, prompts: Prompts, how: How) -> SamplingState:
    """Prefill: the initial loop state, with the prompts' keys and values and the states that predict the first tokens."""

    def prefill(adapter, tokens, mask):
        attend = attention.prefill(mask, how.group, how.length)
        places = attention.positions(mask)
        states, new = model.apply(variables(base, adapter), tokens, places, attend, method="hidden", mutable=["cache"])
        return states[:, -1], new["cache"]

    states, cache = jax.vmap(prefill, (None if adapters is None else 0, 0, 0))(adapters, prompts.tokens, prompts.mask)
    rows = (*prompts.tokens.shape[:2], how.group)
    return SamplingState(
        step=jnp.zeros((), jnp.int32),
        states=jnp.broadcast_to(states[:, :, None], (*rows, states.shape[-1])),
        done=jnp.zeros(rows, bool),
        tokens=jnp.full((*rows, how.length), how.pad_id, jnp.int32),
        mask=jnp.zeros((*rows, how.length), bool),
        logps=jnp.zeros((*rows, how.length), jnp.promote_types(states.dtype, jnp.float32)),
        cache=cache,
    )


def _unrolled(model, base: PyTree, adapters: PyTree | None, cache: PyTree) -> tuple:
    """A scanned model, its base, adapters and cache with one module per layer, sliced from the stacks once per rollout.

    A scan inside the loop would copy every layer's matrices and caches out of the stacks and back at each token.
    """
    config = model.config

    def cut(tree, axis):
        if not tree:  # no adapters, or an empty collection
            return tree
        layers = {
            f"layers_{i}": jax.tree.map(lambda x, i=i: jax.lax.index_in_dim(x, i, axis, keepdims=False), tree["layers"])
            for i in range(config.num_layers)
        }
        return {name: x for name, x in tree.items() if name != "layers"} | jax.lax.optimization_barrier(layers)

    base = {collection: cut(tree, 0) for collection, tree in base.items()}
    return type(model)(config.replace(scan_layers=False)), base, cut(adapters, 1), cut(cache, 1)


def _decode(
    model, base: PyTree, adapters, cache: PyTree, tokens: Array, prompt_mask: Array, step: Array
) -> tuple[Array, PyTree]:
    """One decode step: the states after `tokens`, one per response, and the caches with these tokens added."""
    cache_dtype = jax.tree.leaves(cache)[0].dtype

    def decode(adapter, cache, tokens, mask):
        places = jnp.broadcast_to(jnp.sum(mask, axis=-1)[:, None] + step, tokens.shape)
        collections = base | ({} if adapter is None else {"adapter": adapter}) | {"cache": cache}
        attend = attention.decode(mask, step, kernel_check.decode_kernel(cache_dtype, model.config))
        states, new = model.apply(collections, tokens, places, attend, method="hidden", mutable=["cache"])
        return states, new["cache"]

    return jax.vmap(decode, (None if adapters is None else 0, 0, 0, 0))(adapters, cache, tokens, prompt_mask)


def row_keys(key: Array, clients: int, prompts: int, group: int) -> Array:
    """One random key per response, [C, B, G], from one key, keys [C] or keys [C, B, G].

    Missing axes are added by `fold_in` of their indices.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    shape = (clients, prompts, group)
    if key.shape != shape[: key.ndim]:
        raise ValueError(f"key has shape {key.shape}; give one key, one per client {shape[:1]} or one per response {shape}")
    for size in shape[key.ndim :]:
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        for _ in range(key.ndim):
            fold = jax.vmap(fold, (0, None))
        key = fold(key, jnp.arange(size))
    return key


def _uniforms(keys: Array, length: int) -> Array:
    """Random numbers [R, ..., 2]: two uniforms per token of each row, which depend only on the row's key and the position."""

    def two(key, step):
        return jax.random.uniform(jax.random.fold_in(key, step), (2,))

    for _ in range(keys.ndim):
        two = jax.vmap(two, (0, None))
    return jax.vmap(two, (None, 0))(keys, jnp.arange(length))
