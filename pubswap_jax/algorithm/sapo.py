"""SAPO (arXiv 2509.08721): clients exchange no weights. Every update takes I own and J foreign responses to shared questions.

A foreign response whose own group has an advantage of zero, because all of the group is right or all of it is wrong, teaches
its sender nothing, and is dropped before the draw. With `aggregation.alone` and public steps alone, this planner is SAPO.
"""

import functools

import jax.numpy as jnp

from pubswap_jax.algorithm.losses import zero_variance
from pubswap_jax.algorithm.swap import _draw, _plan
from pubswap_jax.types import Array, Planner, SwapPlan


@functools.cache
def sapo(foreign: int) -> Planner:
    """The planner that fills J = `foreign` random slots of every group with responses of other clients.

    Reading: the paper exchanges whole groups; here J responses of a group of I + J are foreign. Donors are drawn uniformly from
    the other clients' informative groups. Where there are fewer than J, the slots keep their own responses.
    """
    if foreign < 0:
        raise ValueError(f"foreign={foreign}: 0 or more expected")

    def plan(key: Array, correct: Array, present: Array | None = None) -> SwapPlan:
        clients, prompts, group = correct.shape
        if foreign > group:
            raise ValueError(f"foreign={foreign}: at most the group's {group} responses expected")

        def draw(key, own, pool, others):
            donors = informative(pool, group) & others
            need = jnp.minimum(foreign, donors.sum(-1))
            return _draw(key, jnp.ones_like(own), donors, need)

        return _plan(draw, key, correct, present)

    return plan


def informative(pool: Array, group: int) -> Array:
    """Marks the responses of groups that are neither all right nor all wrong. bool[B, C·G] -> bool[B, C·G]."""
    return jnp.repeat(~zero_variance(pool.reshape(pool.shape[0], -1, group)), group, axis=-1)
