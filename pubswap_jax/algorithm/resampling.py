"""Groups without variance: left out of the loss, or replaced by groups of other questions (DAPO, arXiv 2503.14476).

`Batch.again` decides on the host whether other questions are asked and which. Everything else is pure.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.losses import zero_variance
from pubswap_jax.types import Array, Batch, Prompts, Rollout, Verdict

Groups = tuple[Prompts, Rollout, Verdict]  # of one client, leaves [B, ...]


def not_flat(advantages: Array) -> Array:
    """Whether a group has an advantage that is not 0, so that it has a gradient. [..., B, G] -> bool[..., B]."""
    return (advantages != 0).any(axis=-1)


def fill(kept: Groups, found: Groups) -> tuple[Groups, Array]:
    """Replaces the k-th group without variance by the k-th new group that has variance, as far as there are any.

    -> the groups, and source int32[B]: b where group b stays, B + b' where new group b' replaces it.
    """
    flat, useful = zero_variance(kept[2].reward), ~zero_variance(found[2].reward)
    useful_first = jnp.argsort(~useful, stable=True)
    turn = jnp.cumsum(flat) - 1  # of a group without variance: how many such groups precede it
    stay = jnp.arange(flat.size)
    source = jnp.where(flat & (turn < useful.sum()), flat.size + useful_first[turn], stay).astype(jnp.int32)
    return jax.tree.map(lambda old, new: jnp.concatenate([old, new])[source], kept, found), source


def resampled(
    batch: Batch, own: tuple[Rollout, Verdict], ask: Callable, run: Mapping[str, Callable], key: Array
) -> tuple[Prompts, tuple[Rollout, Verdict], tuple]:
    """Replaces a step's groups without variance by groups of other questions, while `batch.again` gives other questions.

    Returns prompts, (rollouts, verdicts) and draws, stacked [C, B, ...].

    `ask`: (batch, key) -> (rollouts, verdicts). A draw is the other questions' answers, and the source of every group.
    """
    groups, drawn = (batch.prompts, *own), ()
    while batch.again is not None and (other := batch.again(groups[2], len(drawn))) is not None:
        key, this = run["two_keys"](key)
        groups, source = run["fill"](groups, (other.prompts, *ask(other, this)))
        drawn += ((other.answers, source),)
    return groups[0], groups[1:], drawn
