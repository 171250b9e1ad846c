"""What to do with responses cut off by the length limit, and with tokens whose sampler and scorer disagree.

A rule for truncated responses maps (reward f32[B, G], mask bool[B, G, R], truncated bool[B, G]) to the reward and a weight of
each response in the loss, both f32[B, G].
"""

from collections.abc import Callable

import jax.numpy as jnp

from pubswap_jax.types import Array


def keep_truncated(reward: Array, mask: Array, truncated: Array) -> tuple[Array, Array]:
    """Rule for truncated responses: they count like any other response."""
    return reward, jnp.ones_like(reward)


def mask_truncated(reward: Array, mask: Array, truncated: Array) -> tuple[Array, Array]:
    """Rule for truncated responses: no term in the loss.

    The reward stays in the group (overlong filtering, arXiv 2503.14476).
    """
    return reward, jnp.where(truncated, 0.0, jnp.ones_like(reward))


def penalise_truncated(buffer: int):
    """Rule for long responses: subtracts up to 1 from the reward, linearly in the last `buffer` tokens before the limit.

    It is DAPO's soft overlong punishment (arXiv 2503.14476).
    """

    def penalise(reward: Array, mask: Array, truncated: Array) -> tuple[Array, Array]:
        free = mask.shape[-1] - buffer
        over = jnp.maximum(mask.sum(axis=-1) - free, 0)
        return reward - over.astype(reward.dtype) / buffer, jnp.ones_like(reward)

    return penalise


def weights_alone(rule: Callable) -> Callable:
    """The rule with its weights, and with the reward as it is."""
    return lambda reward, mask, truncated: (reward, rule(reward, mask, truncated)[1])


def truncated_importance(cap: float) -> Callable[[Array, Array], Array]:
    """Returns a token's loss weight min(π_old / π_sampler, cap), for a sampler whose log-probs differ from the scorer's."""
    return lambda old_logps, sampler_logps: jnp.minimum(jnp.exp(old_logps - sampler_logps), cap)
