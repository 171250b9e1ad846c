"""Supervised training of an adapter on given responses, in the project's own JAX: for warm-ups and for experts."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax.policy.logps import response_logps
from pubswap_jax.types import Array, Prompts, PyTree

# (base, adapter, optimizer's state, prompts [n, P], tokens and mask [n, R]) -> (adapter, optimizer's state, loss)
Step = Callable[[PyTree, PyTree, PyTree, Prompts, Array, Array], tuple[PyTree, PyTree, Array]]


def optimizer(lr: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lr))


def responses(texts: Sequence[str], tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [n, R] of the texts, each closed by the first stop token."""
    ids = [[*tokenizer.hf(text, add_special_tokens=False).input_ids, tokenizer.stop_ids[0]] for text in texts]
    longest = max(map(len, ids))
    tokens = np.array([line + [tokenizer.pad_id] * (longest - len(line)) for line in ids], np.int32)
    return tokens, np.arange(longest) < np.array([[len(line)] for line in ids])


def make_step(model, tx: optax.GradientTransformation) -> Step:
    """A jitted step that raises the likelihood of the responses; the loss is the mean over their tokens."""

    @jax.jit
    def step(base, adapter, state, prompts, tokens, mask):
        def loss(adapter):
            logps = response_logps(model, base, adapter, prompts, tokens[:, None])[:, 0]
            return -jnp.sum(logps, where=mask) / mask.sum()

        value, gradient = jax.value_and_grad(loss)(adapter)
        change, state = tx.update(gradient, state, adapter)
        return optax.apply_updates(adapter, change), state, value

    return step
