"""Mathematics of FedGRPO (arXiv 2602.12014): which clients judge a question as experts, and what their rewards teach.

Axes: C clients, A auxiliary questions, B questions, G candidates of a question, M experts of a question.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.losses import masked_mean, safe_sqrt
from pubswap_jax.types import Array

# (competence f32[C, B], usable bool[C], key, M) -> int32[B, M], the experts of every question
Chooser = Callable[[Array, Array, Array, int], Array]

# The axes of [..., G, M] that rewards are compared over.
AXES = {"candidates_and_experts": (-2, -1), "candidates": (-2,), "experts_then_mean": (-1,)}


# --- who judges -----------------------------------------------------------------------------------------------------------


def nearest(questions: Array, auxiliary: Array, count: int) -> Array:
    """For each question, the `count` auxiliary questions of largest cosine, or all if fewer: [B, D], [A, D] -> int32[B, L].

    Rows have norm 1. Auxiliary questions have known answers.
    """
    similarity = jnp.matmul(questions, auxiliary.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.top_k(similarity, min(count, auxiliary.shape[0]))[1]


def competence(known: Array, neighbours: Array) -> Array:
    """The share of a question's neighbours that each client answered right. bool[C, A], int[B, L] -> f32[C, B]."""
    return known[:, neighbours].mean(axis=-1, dtype=float)


def by_competence(competence: Array, usable: Array, key: Array, count: int) -> Array:
    """The `count` most competent clients for each question; ties are broken at random. [C, B], bool[C] -> int32[B, M].

    A client that is not usable comes after all others.
    Reading: the paper names no rule for ties, which are frequent in shares of 20. The lowest number would favour one client.
    """
    if not 1 <= count <= competence.shape[0]:
        raise ValueError(f"experts: 1 to {competence.shape[0]} a question expected, got {count}")
    rank = jnp.where(usable[:, None], competence, -1.0)
    order = jnp.lexsort((jax.random.uniform(key, rank.shape), rank), axis=0)  # the last key is the first to sort by
    return order[::-1][:count].T.astype(jnp.int32)


def at_random(competence: Array, usable: Array, key: Array, count: int) -> Array:
    """Chooses any `count` usable clients for each question: the control of `by_competence`. [C, B], bool[C] -> int32[B, M].

    The paper's repository does this.
    """
    return by_competence(jnp.zeros_like(competence), usable, key, count)


def asked_of(experts: Array, num_clients: int) -> Array:
    """Which clients are experts of which questions, from the experts' numbers: int32[B, M] -> bool[C, B]."""
    return (experts[None] == jnp.arange(num_clients)[:, None, None]).any(axis=-1)


# --- what their rewards teach ---------------------------------------------------------------------------------------------


def rewards_of_experts(rewards: Array, experts: Array) -> Array:
    """Picks, from all clients' rewards, those of each question's experts. [C, B, G], int32[B, M] -> [B, G, M]."""
    return jnp.moveaxis(rewards[experts, jnp.arange(experts.shape[0])[:, None]], 1, 2)


def expert_advantages(rewards: Array, over: str = "candidates_and_experts", *, scale: bool = True, eps: float = 1e-6) -> Array:
    """A candidate's advantage from its experts' rewards. [..., G, M] -> [..., G].

    A_g = mean over experts m of (r_gm − μ) / (σ + ε); without `scale`, of r_gm − μ.

    A reward that is not finite is missing: it enters neither μ nor σ nor the mean, and a candidate without rewards gets 0.

    Args:
      over: what μ and σ are taken over. `candidates_and_experts`: all rewards of a question. `candidates`: an expert's rewards
        of the question. `experts_then_mean`: a candidate's rewards. Reading: that is the paper's formula (its eq. of R_k) for
        one candidate; the mean over experts is then 0, whatever they say, so that nothing is learned.
    """
    if over not in AXES:
        raise ValueError(f"over: one of {', '.join(AXES)} expected, got {over!r}")
    given = jnp.isfinite(rewards)
    known, axes = jnp.where(given, rewards, 0.0), AXES[over]
    count = jnp.maximum(given.sum(axis=axes, keepdims=True, dtype=known.dtype), 1)
    centred = jnp.where(given, known - known.sum(axis=axes, keepdims=True) / count, 0.0)
    flat = largest(known, given, axes) <= smallest(known, given, axes)  # the rounding of a mean is no reason to learn
    centred = jnp.where(flat, 0.0, centred)
    if scale:
        centred = centred / (safe_sqrt(jnp.square(centred).sum(axis=axes, keepdims=True) / count) + eps)
    return masked_mean(centred, given, axis=-1)


def mean_rewards(rewards: Array) -> Array:
    """Each candidate's mean over its experts' finite rewards; 0 if there are none. [..., G, M] -> [..., G]."""
    given = jnp.isfinite(rewards)
    return masked_mean(jnp.where(given, rewards, 0.0), given, axis=-1)


def largest(x: Array, where: Array, axis) -> Array:
    return jnp.max(x, axis=axis, keepdims=True, where=where, initial=-jnp.inf)


def smallest(x: Array, where: Array, axis) -> Array:
    return jnp.min(x, axis=axis, keepdims=True, where=where, initial=jnp.inf)


class Judging(NamedTuple):
    """How FedGRPO chooses the experts of a question, and how their rewards become advantages."""

    experts: int = 2  # M, experts of a question
    neighbours: int = 20  # L, auxiliary questions that a client's competence on a question is measured by
    auxiliary: int = 100  # A, auxiliary questions
    choose: Chooser = by_competence
    over: str = "candidates_and_experts"  # a key of AXES
    scale: bool = True  # divide centred rewards by their deviation


# --- what experts did in a round ------------------------------------------------------------------------------------------


@flax.struct.dataclass
class Use:
    """Counts of each client's work as an expert since the round began. f32[C] each."""

    asked: Array  # rewards that were asked of it
    given: Array  # finite rewards that it gave
    total: Array  # the sum of these
    least: Array  # inf before the first reward
    most: Array  # -inf before the first reward


def no_use(num_clients: int) -> Use:
    zero, most = jnp.zeros(num_clients), jnp.full(num_clients, -jnp.inf)
    return Use(zero, zero, zero, -most, most)


def used(use: Use, rewards: Array, asked: Array) -> Use:
    """Adds one step's work to the counts: rewards [C, B, G], and `asked` bool[C, B], who was an expert of which question."""
    wanted = jnp.broadcast_to(asked[..., None], rewards.shape)
    given = wanted & jnp.isfinite(rewards)
    known = jnp.where(given, rewards, 0.0)
    return Use(
        asked=use.asked + wanted.sum((1, 2), dtype=use.asked.dtype),
        given=use.given + given.sum((1, 2), dtype=use.given.dtype),
        total=use.total + known.sum((1, 2)),
        least=jnp.minimum(use.least, smallest(known, given, (1, 2))[:, 0, 0]),
        most=jnp.maximum(use.most, largest(known, given, (1, 2))[:, 0, 0]),
    )


def figures(use: Use, known: Array) -> dict[str, Array]:
    """A round's metrics of the experts, f32[C] each: shares of rewards asked and given, mean reward, mean competence."""
    asked = use.asked.sum()
    return {
        "experts_asked": use.asked / jnp.maximum(asked, 1),
        "experts_given": use.given / jnp.maximum(use.asked, 1),
        "experts_reward": use.total / jnp.maximum(use.given, 1),
        "experts_constant": ((use.given > 0) & (use.least == use.most)).astype(use.total.dtype),
        "experts_competence": known.mean(axis=1, dtype=float),
    }
