"""Estimators of KL(π‖π_ref) per token (Schulman, "Approximating KL divergence", 2020), and the KL inside the reward.

The gradient of an unbiased estimate need not be unbiased: ∇E_π[k] = E_π[∇k] + E_π[k ∇log π]. An estimator in the loss yields
only the first term. An estimator in the reward (`reward_less_kl`) yields only the second term. In the docstrings below, KL is
that of one token given the tokens before it, on policy. The effect of a token on the KL of later tokens counts
only in the reward.
"""

from collections.abc import Callable

import jax.numpy as jnp

from pubswap_jax.types import Array, at_least_f32


def kl_k1(logps: Array, ref_logps: Array) -> Array:
    """Estimator k1 of the KL of one token: log π − log π_ref, an unbiased value of either sign.

    In the loss: E_π[∇k1] = E_π[∇log π] = 0, so k1 only adds noise. In the reward: E_π[k1 ∇log π] = ∇KL(π‖π_ref).
    """
    return logps - ref_logps


def kl_k2(logps: Array, ref_logps: Array) -> Array:
    """Estimator k2 of the KL of one token: ½ (log π − log π_ref)², a biased value of low variance.

    In the loss: E_π[∇k2] = E_π[(log π − log π_ref) ∇log π] = ∇KL(π‖π_ref), the true gradient.
    """
    return 0.5 * jnp.square(logps - ref_logps)


def kl_k3(logps: Array, ref_logps: Array) -> Array:
    """exp(−d) − 1 + d with d = log π − log π_ref: an unbiased value that is never negative.

    In the loss: E_π[∇k3] = −Σ π_ref ∇log π = ∇KL(π_ref‖π), the divergence with exchanged arguments, not KL(π‖π_ref).
    """
    return jnp.expm1(ref_logps - logps) + (logps - ref_logps)


def kl_of_tokens(kl: Callable[[Array, Array], Array], logps: Array, ref_logps: Array, mask: Array) -> Array:
    """Applies the estimator `kl` to the log-probs of tokens, [..., R]. Masked positions are zeroed first, so all are finite."""
    return kl(jnp.where(mask, at_least_f32(logps), 0.0), jnp.where(mask, at_least_f32(ref_logps), 0.0))


def reward_less_kl(reward: Array, kl: Array, mask: Array, kl_coef: Array) -> Array:
    """r − β Σₜ klₜ: the reward with the KL in it, which is right with `kl_k1`. [..., G], [..., G, R] -> [..., G]."""
    return reward - kl_coef * jnp.sum(kl, axis=-1, where=mask)
