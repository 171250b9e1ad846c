"""Embeds questions with the base model, so that a server without labels can find similar questions."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from pubswap_jax.policy import attention
from pubswap_jax.policy.logps import check_base
from pubswap_jax.types import Array, Prompts, PyTree, at_least_f32


class Encoder(NamedTuple):
    """Maps a prompt to one vector of norm 1, by frozen weights, so that questions can be compared by cosine."""

    size: int  # D
    embed: Callable[[PyTree, Prompts], Array]  # (base, prompts [B, P]) -> f32[B, D], rows of norm 1


def mean_hidden(model) -> Encoder:
    """The encoder that averages the base's last hidden states over a prompt's tokens and divides by the norm."""

    def embed(base: PyTree, prompts: Prompts) -> Array:
        check_base(base)
        places, attend = attention.positions(prompts.mask), attention.causal(prompts.mask)
        states = at_least_f32(model.apply(base, prompts.tokens, places, attend, method="hidden"))
        return normalised(jnp.sum(states, axis=1, where=prompts.mask[..., None]))

    return Encoder(model.config.hidden_size, embed)


def normalised(x: Array) -> Array:
    """Scales vectors to norm 1, x / ‖x‖ over the last axis; zeros stay zeros."""
    squares = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
