"""Group-relative policy optimisation as functions of log-probabilities: no function here knows a model, a client or a mesh.

Leading axes are free. A loss is Σ w·ℓ over tokens, where a normaliser computes the weights w from the mask of the whole batch.
`update.py` calls the normaliser once and passes each microbatch its slice of w, so that microbatches add up to the loss.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.divergence import kl_k1 as kl_k1
from pubswap_jax.algorithm.divergence import kl_k2 as kl_k2
from pubswap_jax.algorithm.divergence import kl_k3 as kl_k3
from pubswap_jax.algorithm.divergence import kl_of_tokens
from pubswap_jax.algorithm.divergence import reward_less_kl as reward_less_kl
from pubswap_jax.algorithm.truncation import keep_truncated as keep_truncated
from pubswap_jax.algorithm.truncation import mask_truncated as mask_truncated
from pubswap_jax.algorithm.truncation import penalise_truncated as penalise_truncated
from pubswap_jax.algorithm.truncation import truncated_importance as truncated_importance
from pubswap_jax.types import Array, Hparams, at_least_f32

LARGEST_LOG_RATIO = 60.0


def masked_mean(x: Array, mask: Array, axis=None) -> Array:
    """Σ x·m / Σ m over `axis`, where m is 1 if the mask is not 0; 0 if the mask is empty.

    Masked-out values of x are not read, so they may be NaN.
    """
    x, mask = at_least_f32(jnp.asarray(x)), jnp.broadcast_to(mask, jnp.shape(x)).astype(bool)
    count = jnp.sum(mask, axis=axis, dtype=x.dtype)
    return jnp.sum(x, axis=axis, where=mask) / jnp.maximum(count, 1)


# --- advantages -------------------------------------------------------------------------------------------------------


def group_advantages(reward: Array, *, scale: bool = True, eps: float = 1e-6) -> Array:
    """Aᵢ = (rᵢ − mean r) / (std r + ε) over the last axis; without `scale`, Dr.GRPO's rᵢ − mean r.

    std is the population's standard deviation. A group of equal rewards gets exactly 0. [..., G] -> [..., G].
    """
    centred = _centred(reward)
    return centred / (_root_mean_square(centred, axis=-1) + eps) if scale else centred


def centred_advantages(reward: Array) -> Array:
    """Dr.GRPO's advantages, without a division: Aᵢ = rᵢ − mean r over the last axis. [..., G] -> [..., G]."""
    return group_advantages(reward, scale=False)


def batch_advantages(reward: Array, *, eps: float = 1e-6) -> Array:
    """Advantages (rᵢ − mean of its group) / (std r + ε), std over all rewards of the batch. [..., B, G] -> [..., B, G]."""
    spread = reward - reward.mean(axis=(-2, -1), keepdims=True)
    return _centred(reward) / (_root_mean_square(spread, axis=(-2, -1)) + eps)


def no_baseline(reward: Array) -> Array:
    """Advantages without a baseline, as in REINFORCE: the rewards themselves, A = r."""
    return reward


def zero_variance(reward: Array) -> Array:
    """Whether all rewards of a group are equal, so that its advantages are 0. [..., G] -> bool[...]."""
    return reward.max(axis=-1) == reward.min(axis=-1)


def _centred(reward: Array) -> Array:
    # In floating point the mean of eight 0.1s is not 0.1. Dividing that rounding error by ε would give a large advantage.
    reward = at_least_f32(jnp.asarray(reward))
    flat = zero_variance(reward)[..., None]
    return jnp.where(flat, 0.0, reward - reward.mean(axis=-1, keepdims=True))


def _root_mean_square(x: Array, axis) -> Array:
    return safe_sqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=True))


def safe_sqrt(x: Array) -> Array:
    """√x with slope 0 at 0. The inner `where` matters: without it, the infinite slope of sqrt at 0 makes the gradient NaN."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


# --- normalisers: bool[..., B, G, R] -> the weight of every token in the loss ---------------------------------------------
#
# `counted` bool[..., B] says which groups are in the loss and in its denominator; None: all of them.


def per_sequence(mask: Array, counted: Array | None = None) -> Array:
    """GRPO's token weights: a loss that is the mean over a sequence's tokens, then over all sequences."""
    mask, sequences = _counted(mask, counted)
    length = jnp.maximum(mask.sum(axis=-1, keepdims=True, dtype=float), 1)
    return mask / (length * sequences)


def per_token(mask: Array, counted: Array | None = None) -> Array:
    """DAPO's token weights (arXiv 2503.14476): a loss that is the mean over all tokens of the batch."""
    mask, _ = _counted(mask, counted)
    return mask / jnp.maximum(mask.sum(dtype=float), 1)


def fixed_length(length: int) -> Callable[..., Array]:
    """Dr.GRPO's token weights (arXiv 2503.20783): a sequence's sum over the constant `length`, then the mean over sequences."""

    def weights(mask: Array, counted: Array | None = None) -> Array:
        mask, sequences = _counted(mask, counted)
        return mask.astype(float) / (length * sequences)

    return weights


def _counted(mask: Array, counted: Array | None) -> tuple[Array, int | Array]:
    """The mask without the groups that `counted` leaves out, and the number of sequences in the groups that are left."""
    if counted is None:
        return mask, mask.size // mask.shape[-1]
    return mask & counted[..., None, None], mask.shape[-2] * jnp.maximum(counted.sum(dtype=float), 1)


# --- losses: the term of every token, f32[B, G, R], and metrics -----------------------------------------------------------
#
# The update maximises Σ norm·weight·(term − β·kl). `composed` builds that sum for one batch.


def grpo_term(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, hparams: Hparams, *, dual_clip: bool = False
) -> tuple[Array, dict[str, Array]]:
    """GRPO's objective of each token (arXiv 2402.03300): min(ρA, clip(ρ, 1−ε₋, 1+ε₊)A) with the ratio ρ = π/π_old.

    Args:
      logps: log π of every token, f32[B, G, R]. Differentiate a loss by this argument only.
      old_logps: log π_old, f32[B, G, R]. It is an argument and not `stop_gradient(logps)`, because a gradient through several
        update steps must reach the earlier steps.
      advantages: one per sequence, f32[B, G].
      mask: the tokens that count, bool[B, G, R].
      hparams: `clip_low`, `clip_high`, and `dual_clip` if the flag `dual_clip` is set.
      dual_clip: whether the term of a negative advantage A is bounded by hparams.dual_clip·A (arXiv 1912.09729).
    """
    return _clipped(jnp.exp(_log_ratio(logps, old_logps, advantages, mask)), advantages, mask, hparams, dual_clip)


def gspo_term(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, hparams: Hparams, *, dual_clip: bool = False
) -> tuple[Array, dict[str, Array]]:
    """GSPO's objective (arXiv 2507.18071): `grpo_term` with one ratio per sequence, ρ = (π(y)/π_old(y))^(1/|y|)."""
    mean = masked_mean(_log_ratio(logps, old_logps, advantages, mask), mask, axis=-1)[..., None]
    return _clipped(jnp.exp(jnp.where(mask, mean, 0.0)), advantages, mask, hparams, dual_clip)


def cispo_term(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, hparams: Hparams
) -> tuple[Array, dict[str, Array]]:
    """CISPO's objective of each token (arXiv 2506.13585): sg(min(ρ, 1+ε₊))·A·log π, with the ratio ρ = π/π_old.

    It clips the weight of a token, not its gradient. There is no lower bound, as in the paper's experiments. With
    `inner_epochs > 1`, the `stop_gradient` sg also hides ρ from gradients through several steps. With one epoch ρ is 1 and
    nothing is hidden.
    """
    ratio = jnp.exp(_log_ratio(logps, old_logps, advantages, mask))
    bound = 1 + hparams.clip_high
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, bound))
    term = weight * advantages[..., None] * jnp.where(mask, at_least_f32(logps), 0.0)
    return term, _ratio_metrics(ratio, ratio > bound, mask)


def less_kl(
    term: Array, kl: Callable[[Array, Array], Array], logps: Array, ref_logps: Array, mask: Array, kl_coef: Array
) -> tuple[Array, dict[str, Array]]:
    """term − kl_coef·kl per token, a KL penalty; and the metric `kl`. In the loss `kl_k2` has the gradient of KL(π‖π_ref)."""
    difference = kl_of_tokens(kl, logps, ref_logps, mask)
    return term - kl_coef * difference, {"kl": masked_mean(difference, mask)}


def total(term: Array, token_weights: Array, token_norm: Array, mask: Array) -> Array:
    """The loss f32[]: −Σ norm·weight·term over the tokens that count, from a term per token and the token weights."""
    return -jnp.sum(token_norm * (term * jnp.broadcast_to(token_weights, term.shape)), where=mask)


def composed(term_of: Callable) -> Callable:
    """Makes a whole loss of a token's term: returns (logps, old_logps, advantages, mask, hparams, ...) -> f32[], metrics."""

    def loss(
        logps: Array,
        old_logps: Array,
        advantages: Array,
        mask: Array,
        hparams: Hparams,
        *,
        ref_logps: Array | None = None,
        kl: Callable[[Array, Array], Array] | None = None,
        dual_clip: bool = False,
        token_weights: Array | None = None,
        normalise: Callable[[Array], Array] = per_sequence,
    ) -> tuple[Array, dict[str, Array]]:
        if (kl is None) != (ref_logps is None):
            raise ValueError("kl, ref_logps: an estimator and the reference's log-probs are given together or not at all")
        chosen = partial(term_of, dual_clip=True) if dual_clip else term_of
        term, metrics = chosen(logps, old_logps, advantages, mask, hparams)
        if kl is not None:
            term, more = less_kl(term, kl, logps, ref_logps, mask, hparams.kl_coef)
            metrics = metrics | more
        weights = jnp.ones((), term.dtype) if token_weights is None else token_weights
        return total(term, weights, normalise(mask), mask), metrics

    loss.__name__ = term_of.__name__.replace("term", "loss")
    loss.__doc__ = f"""The loss built from `{term_of.__name__}`: −Σ norm·weight·(term − β·kl).

    Args:
      logps, old_logps, advantages, mask, hparams: as in `{term_of.__name__}`; β is hparams.kl_coef.
      ref_logps: log π_ref of the base model, which `kl` needs.
      kl: an estimator per token, such as `kl_k2`; None for no KL.
      dual_clip: whether to bound the term of a negative advantage.
      token_weights: multiplies each token's term, not the denominator and not the advantages. Broadcast to [B, G, R].
      normalise: mask -> norm, the weight of each token.
    """
    return loss


grpo_loss, gspo_loss, cispo_loss = map(composed, (grpo_term, gspo_term, cispo_term))


def _log_ratio(logps: Array, old_logps: Array, advantages: Array, mask: Array) -> Array:
    if advantages.shape != logps.shape[:-1]:
        raise ValueError(f"advantages: one a sequence, shape {logps.shape[:-1]}, expected; got {advantages.shape}")
    for name, value in (("old_logps", old_logps), ("mask", mask)):
        if value.shape != logps.shape:
            raise ValueError(f"{name}: the shape of logps, {logps.shape}, expected; got {value.shape}")
    # Masked positions may hold anything, so zero them before exp: 0·inf is NaN, also in the gradient. exp may overflow on
    # real tokens too, and inf times an advantage of 0 is NaN, so the log-ratio is capped.
    return jnp.minimum(jnp.where(mask, at_least_f32(logps) - at_least_f32(old_logps), 0.0), LARGEST_LOG_RATIO)


def _clipped(ratio: Array, advantages: Array, mask: Array, hparams: Hparams, dual_clip: bool):
    advantages = advantages[..., None]
    low, high = 1 - hparams.clip_low, 1 + hparams.clip_high
    term = jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
    if dual_clip:
        term = jnp.where(advantages < 0, jnp.maximum(term, hparams.dual_clip * advantages), term)
    clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
    return term, _ratio_metrics(ratio, clipped, mask)


def _ratio_metrics(ratio: Array, clipped: Array, mask: Array) -> dict[str, Array]:
    return {
        "clip_share": masked_mean(clipped, mask),
        "ratio_min": jnp.where(mask.any(), jnp.min(ratio, where=mask, initial=jnp.inf), 1.0),
        "ratio_max": jnp.where(mask.any(), jnp.max(ratio, where=mask, initial=0.0), 1.0),
    }
