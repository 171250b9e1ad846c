"""Rollouts: each prompt is encoded once, then one `while_loop` writes G responses to it, all clients in one batch."""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from pubswap_jax import attention, draw
from pubswap_jax.logps import variables
from pubswap_jax.types import Array, Prompts, PyTree, Rollout


@flax.struct.dataclass
class SamplingState:
    """The carry of the decode loop."""

    step: Array  # int32[], tokens written so far
    states: Array  # [C, B, G, D], what predicts the next token
    done: Array  # bool[C, B, G], an end token was drawn
    tokens: Array  # int32[C, B, G, R]
    mask: Array  # bool[C, B, G, R]
    logps: Array  # f32[C, B, G, R]
    cache: PyTree  # keys and values of prompts and responses, by layer


def row_keys(key: Array, clients: int, prompts: int, group: int) -> Array:
    """keys [C, B, G] from one key, from one per client [C], or as they are: a row's randomness is its own."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    for size in (clients, prompts, group)[key.ndim :]:
        key = _fold(key, size)
    if key.shape != (clients, prompts, group):
        raise ValueError(f"key has shape {key.shape}; give one key, one per client [C] or one per response [C, B, G]")
    return key


def _fold(keys: Array, size: int) -> Array:
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    for _ in range(keys.ndim):
        fold = jax.vmap(fold, (0, None))
    return fold(keys, jnp.arange(size))


def sample(
    model,
    params: PyTree,
    loras: PyTree | None,
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
    """G responses of each client's policy to each of its prompts: loras [C, ...], prompts [C, B, P] -> rollout [C, B, G, R].

    `key` is one key, one per client [C], or one per response [C, B, G]. The log-probs are the tempered policy's, also where top-k,
    top-p or min-p cut what is drawn from it; `greedy` takes the likeliest token. The defaults of eos_ids and pad_id are the model's.
    """
    config = model.config
    eos_ids = config.eos_ids if eos_ids is None else tuple(int(i) for i in eos_ids)
    pad_id = config.pad_id if pad_id is None else int(pad_id)
    params, loras, temperature = jax.lax.stop_gradient((params, loras, jnp.asarray(temperature, float)))
    filters = (top_k, top_p, min_p)
    return _sample(model, params, loras, prompts, key, temperature, group, max_new_tokens, eos_ids, pad_id, greedy, filters)


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8, 9, 10, 11))
def _sample(model, params, loras, prompts, key, temperature, group, length, eos_ids, pad_id, greedy, filters):
    clients, batch, _ = prompts.tokens.shape
    keys = row_keys(key, clients, batch, group)

    def forward(lora, cache, *args):
        collections = variables(params, lora) | ({} if cache is None else {"cache": cache})
        return model.apply(collections, *args, method="hidden", mutable=["cache"])

    def prefill(lora, tokens, mask):
        attend = attention.prefill(mask, group, length)
        states, new = forward(lora, None, tokens, attention.positions(mask), attend)
        return states[:, -1], new["cache"]

    def decode(lora, cache, tokens, mask, step):
        places = jnp.broadcast_to(jnp.sum(mask, axis=-1)[:, None] + step, tokens.shape)
        states, new = forward(lora, cache, tokens, places, attention.decode(mask, step))
        return states, new["cache"]

    def one_token(state: SamplingState) -> SamplingState:
        logits = model.apply({"params": params}, state.states, method="unembed") / temperature.astype(float)
        if greedy:
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        else:
            uniforms = _uniforms(keys, state.step)
            token = draw.inverse_cdf(draw.truncate(logits, *filters), uniforms)
        logp = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0] - jax.nn.logsumexp(logits, axis=-1)
        token = jnp.where(state.done, pad_id, token)
        logp = jnp.where(state.done, 0, logp)
        ends = functools.reduce(jnp.logical_or, [token == i for i in eos_ids], jnp.zeros_like(state.done))
        states, cache = jax.vmap(decode, (None if loras is None else 0, 0, 0, 0, None))(
            loras, state.cache, token, prompts.mask, state.step
        )

        def write(array, value):
            return jax.lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), state.step, axis=3)

        return SamplingState(
            step=state.step + 1,
            states=states,
            done=state.done | ends,
            tokens=write(state.tokens, token),
            mask=write(state.mask, ~state.done),
            logps=write(state.logps, logp),
            cache=cache,
        )

    states, cache = jax.vmap(prefill, (None if loras is None else 0, 0, 0))(loras, prompts.tokens, prompts.mask)
    shape = (clients, batch, group)
    state = SamplingState(
        step=jnp.zeros((), jnp.int32),
        states=jnp.broadcast_to(states[:, :, None], (*shape, states.shape[-1])),
        done=jnp.zeros(shape, bool),
        tokens=jnp.full((*shape, length), pad_id, jnp.int32),
        mask=jnp.zeros((*shape, length), bool),
        logps=jnp.zeros((*shape, length), jnp.promote_types(states.dtype, jnp.float32)),
        cache=cache,
    )
    state = jax.lax.while_loop(lambda s: (s.step < length) & ~jnp.all(s.done), one_token, state)
    return Rollout(tokens=state.tokens, mask=state.mask, logps=state.logps)


def _uniforms(keys: Array, step: Array) -> Array:
    draw_two = lambda key: jax.random.uniform(jax.random.fold_in(key, step), (2,))  # noqa: E731
    for _ in range(keys.ndim):
        draw_two = jax.vmap(draw_two)
    return draw_two(keys)
