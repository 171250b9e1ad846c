"""The KL term of `training.kl` on a bandit of one token, where the optimum is known: π* ∝ π_ref exp(r/β).

Responses are single tokens, so all groups of G responses can be listed. The expected gradient of the product's own loss is the
sum over all groups, each weighted by its probability under the policy: no sampling and no noise.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.losses import group_advantages, grpo_loss, kl_k1, kl_k2, kl_k3, kl_of_tokens, reward_less_kl
from pubswap_jax.types import Array, Hparams

ESTIMATORS = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}


class Bandit(NamedTuple):
    """Rewards f64[V] of V tokens, the logarithm of the reference policy f64[V], and the KL coefficient β."""

    reward: np.ndarray
    log_ref: np.ndarray
    beta: float


def optimum(bandit: Bandit, beta: float | None = None) -> np.ndarray:
    """π* ∝ π_ref exp(r/β), the maximum of E[r] − β KL(π‖π_ref). f64[V]."""
    return np.asarray(jax.nn.softmax(bandit.log_ref + bandit.reward / (bandit.beta if beta is None else beta)))


# --- advantages of a group, [..., G] -> [..., G] ---------------------------------------------------------------------------


def leave_one_out(reward: Array) -> Array:
    """rᵢ − mean of the other responses' rewards: the product's group mean times G/(G − 1)."""
    group = reward.shape[-1]
    return group_advantages(reward, scale=False) * group / (group - 1)


group_mean = partial(group_advantages, scale=False)  # training.advantages=centred
mean_and_std = group_advantages  # training.advantages=group, the default
ADVANTAGES = {"leave one out": leave_one_out, "group mean": group_mean, "mean and std": mean_and_std}


# --- the expected gradient -------------------------------------------------------------------------------------------------


def expected_gradient(bandit: Bandit, kl: str, place: str, advantages: Callable[[Array], Array], group: int = 4) -> Callable:
    """logits f64[V] -> the gradient of the expected objective, f64[V].

    The loss is the product's `grpo_loss` with one "question" a group: its token weights are the groups' probabilities.
    """
    responses = jnp.array(list(product(range(len(bandit.reward)), repeat=group)))  # [V^G, G]
    mask = jnp.ones((*responses.shape, 1), bool)
    reward, ref_logps = jnp.asarray(bandit.reward)[responses], jnp.asarray(bandit.log_ref)[responses][..., None]
    names = ("lr", "clip_low", "clip_high", "dual_clip", "kl_coef", "prox_coef", "swap_weight", "temperature")
    hparams = Hparams(**dict.fromkeys(names, jnp.asarray(0.2)) | {"kl_coef": jnp.asarray(bandit.beta)})
    estimator = ESTIMATORS[kl]

    def loss(logits: Array, old: Array) -> Array:
        logps, old_logps = (jax.nn.log_softmax(x)[responses][..., None] for x in (logits, old))
        probability, judged = jnp.exp(old_logps.sum((1, 2))), reward
        in_loss = {"ref_logps": ref_logps, "kl": estimator} if place == "loss" else {}
        if place == "reward":
            divergence = kl_of_tokens(estimator, old_logps, ref_logps, mask)
            judged = reward_less_kl(reward, divergence, mask, hparams.kl_coef)
        weights = probability[:, None, None]
        # Weights of groups sum to one, so each response of a group weighs 1/G; `per_sequence` would divide by all groups.
        value, _ = grpo_loss(
            logps, old_logps, advantages(judged), mask, hparams, token_weights=weights, normalise=lambda m: m / group, **in_loss
        )
        return value

    return lambda logits: -jax.grad(loss)(logits, logits)


def ascend(gradient: Callable, start: np.ndarray, steps: int = 3000, rate: float = 0.5, decay: bool = True) -> np.ndarray:
    """The policy f64[V] after natural gradient ascent on the logits; with `decay` the rate falls to 1/1000 of `rate`.

    The gradient of logit a is π(a) times how much better a is than the rest. Plain ascent hardly moves unlikely tokens, so
    divide by π(a): the fixed points are the same.
    """

    def step(logits, t):
        policy = jax.nn.softmax(logits)
        better = jnp.where(policy > 1e-200, gradient(logits) / jnp.maximum(policy, 1e-200), 0.0)
        return logits + rate * (1e-3 ** (t / steps) if decay else 1.0) * better, None

    logits, _ = jax.lax.scan(step, jnp.asarray(start), jnp.arange(steps))
    return np.asarray(jax.nn.softmax(logits))


def distance(policy: np.ndarray, other: np.ndarray) -> float:
    """Total variation, ½ Σ |π − π'|."""
    return float(0.5 * np.abs(policy - other).sum())


def effective_beta(bandit: Bandit, policy: np.ndarray) -> tuple[float, float]:
    """(β', distance): the member of the family π_ref exp(r/β') with the expected reward of `policy`, and its distance to it."""
    low, high, wanted = 1e-4, 1e4, float(policy @ bandit.reward)
    for _ in range(200):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if optimum(bandit, middle) @ bandit.reward > wanted else (low, middle)
    return float(middle), distance(policy, optimum(bandit, middle))
