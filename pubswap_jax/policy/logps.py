"""Log-probs of given responses: one packed forward pass, then logits for a chunk of tokens at a time."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from pubswap_jax.policy import attention, kernel_check
from pubswap_jax.types import Array, ModelConfig, Prompts, PyTree

# Logits in memory at once, per client: 2^25 logits are 128 MB in f32.
LOGITS_AT_ONCE = 2**25


def check_base(base: PyTree) -> None:
    """Raises unless `base` is a dict of collections: `params`, and `basis` with an adapter family's frozen arrays."""
    if "params" not in base:
        found = ", ".join(sorted(base)[:3]) or "nothing"
        raise ValueError(f"base: a dict with 'params' and 'basis' expected, got one with {found}; give {{'params': params}}")


def variables(base: PyTree, adapter: PyTree | None) -> dict:
    """The Flax collections with which a model is called: the base's and, unless it is None, the adapter.

    Raises if the adapter has a layer that the base lacks.
    """
    check_base(base)
    if adapter is None:
        return base
    layers = {path[:-1] for path in flatten_dict(base["params"]) if path[-1] == "kernel"}
    for path in sorted({path[:-1] for path in flatten_dict(adapter)} - layers):
        raise ValueError(f"adapter: the base has no layer {'/'.join(path)!r}, so that its adapter would be ignored")
    return base | {"adapter": adapter}


def check_temperature(temperature) -> None:
    """Raises if the temperature is not positive. A traced temperature is not checked."""
    if not isinstance(temperature, jax.core.Tracer) and not np.all(np.asarray(temperature) > 0):
        raise ValueError(
            f"temperature: more than 0 expected, got {temperature}; `sample(..., greedy=True)` takes the likeliest"
        )


def check_positions(config: ModelConfig, prompt: tuple[str, int], response: tuple[str, int]) -> None:
    """Raises if a prompt and its response, each a pair (name, tokens), need more positions than the base supports.

    The limit is Hugging Face's `max_position_embeddings`, which is the extended length where Llama 3's RoPE scaling is set.
    """
    total = prompt[1] + response[1]
    if total > config.max_positions:
        raise ValueError(
            f"{prompt[0]}={prompt[1]} and {response[0]}={response[1]} are {total} positions together, and the base has "
            f"{config.max_positions} (max_position_embeddings); lower one of the two"
        )


def response_logps(
    model, base: PyTree, adapter: PyTree | None, prompts: Prompts, tokens: Array, *, temperature=1.0, entropy: bool = False
) -> Array | tuple[Array, Array]:
    """Log-probs of given responses under a policy, f32[B, G, R]: log π(tokens[t] | prompt, tokens[:t]) at `temperature`.

    With `entropy`, the pair (logps, entropies).

    The prompt is encoded once for its G responses. The positions of each response start at the prompt's real length.
    `adapter=None` is the base.
    """
    check_temperature(temperature)
    states, unembed = response_states(model, base, adapter, prompts, tokens), unembedding(model, base)
    chunk = chunk_size(model.config, tokens.shape)
    logps, entropies = chunked_logps(unembed, states, tokens, temperature, chunk=chunk, entropy=entropy)
    return (logps, entropies) if entropy else logps


def response_states(model, base: PyTree, adapter: PyTree | None, prompts: Prompts, tokens: Array) -> Array:
    """The hidden states that predict each response token: int32[B, G, R] -> [B, G, R, D]. `adapter=None` is the base's."""
    check_base(base)
    batch, group, length = tokens.shape
    width = prompts.tokens.shape[-1]
    check_positions(model.config, ("the prompts' width", width), ("the responses' length", length))
    sequence = jnp.concatenate([prompts.tokens, tokens.reshape(batch, group * length)], axis=1)
    real = jnp.sum(prompts.mask, axis=-1)
    after = jnp.tile(real[:, None] + jnp.arange(length)[None], (1, group))
    positions = jnp.concatenate([attention.positions(prompts.mask), after], axis=1)
    dtype = model.config.dtype or base["params"]["embed_tokens"]["embedding"].dtype
    attend = attention.packed(prompts.mask, group, kernel_check.training_kernel(dtype, width, length))
    hidden = model.apply(variables(base, adapter), sequence, positions, attend, method="hidden")
    # The shift by one: the prompt's last state predicts the first token of each of its responses.
    first = jnp.broadcast_to(hidden[:, None, width - 1 : width], (batch, group, 1, hidden.shape[-1]))
    own = hidden[:, width:].reshape(batch, group, length, -1)
    return jnp.concatenate([first, own[:, :, :-1]], axis=2)


def unembedding(model, base: PyTree) -> Callable[[Array], Array]:
    """Returns the function from hidden states [..., D] to logits [..., V] of the base model."""
    return functools.partial(model.apply, {"params": base["params"]}, method="unembed")


def chunk_size(config: ModelConfig, shape: tuple[int, int, int], models: int = 1) -> int:
    """How many positions of responses [B, G, R] have their logits in memory at once, under `models` models."""
    batch, group, length = shape
    return min(max(1, LOGITS_AT_ONCE // (models * config.vocab_size * batch * group)), length)


def response_divergence(model, base: PyTree, teacher: Array, student: Array, *, temperature=1.0) -> Array:
    """KL(teacher‖student) of the distributions of every token, from hidden states [B, G, R, D]. f32[B, G, R]."""
    unembed = unembedding(model, base)

    def one(of_teacher, of_student):
        scaled = lambda states: (lambda z: z / jnp.asarray(temperature, z.dtype))(unembed(states))  # noqa: E731
        ours, theirs = jax.nn.log_softmax(scaled(of_student)), jax.nn.log_softmax(scaled(of_teacher))
        return jnp.sum(jnp.exp(theirs) * (theirs - ours), axis=-1)

    return in_chunks(one, (teacher, student), chunk_size(model.config, student.shape[:3], models=2))


def token_logps(unembed, states: Array, tokens: Array, temperature, *, entropy: bool) -> tuple[Array, Array | None]:
    """log softmax(z / temperature)[token], and the entropy −Σ p log p, from states [..., D] with logits z."""
    logits = unembed(states)
    logits = logits / jnp.asarray(temperature, logits.dtype)
    total = jax.nn.logsumexp(logits, axis=-1)
    logps = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0] - total
    if not entropy:
        return logps, None
    return logps, total - jnp.sum(jax.nn.softmax(logits) * logits, axis=-1)


def chunked_logps(unembed, states, tokens, temperature, *, chunk: int, entropy: bool):
    """`token_logps` of [B, G, R], `chunk` positions at a time, recomputed in the backward pass: [B, G, R, V] never exists."""
    return in_chunks(lambda h, t: token_logps(unembed, h, t, temperature, entropy=entropy), (states, tokens), chunk)


def in_chunks(function: Callable, arrays: tuple[Array, ...], chunk: int) -> PyTree:
    """Computes function(*arrays) with `chunk` positions of R at a time. Arrays [B, G, R, ...], results [B, G, R]."""
    batch, group, length = arrays[0].shape[:3]
    padding = -length % chunk

    def chunks(x):
        x = jnp.pad(x, ((0, 0), (0, 0), (0, padding), *[(0, 0)] * (x.ndim - 3)))
        return jnp.moveaxis(x.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)

    one = jax.checkpoint(function, prevent_cse=False)
    _, parts = jax.lax.scan(lambda _, xs: (None, one(*xs)), None, tuple(map(chunks, arrays)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(batch, group, -1)[..., :length], parts)
