"""Group-relative policy optimisation as functions of log-probabilities: nothing here knows a model, a client or a mesh.

Leading axes are free. A loss is Σ w·ℓ over tokens with w from a normaliser, so it is additive over microbatches once the
normaliser has seen the whole batch: `update.py` calls it once and hands each microbatch its slice.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from pubswap_jax.types import Array, Hparams, at_least_f32

LARGEST_LOG_RATIO = 60.0


def masked_mean(x: Array, mask: Array, axis=None) -> Array:
    """Σ x·m / Σ m over `axis`, m being 1 where the mask is not 0; 0 where it is empty.

    What stands off the mask is never read, NaN included.
    """
    x, mask = at_least_f32(jnp.asarray(x)), jnp.broadcast_to(mask, jnp.shape(x)).astype(bool)
    count = jnp.sum(mask, axis=axis, dtype=x.dtype)
    return jnp.sum(x, axis=axis, where=mask) / jnp.maximum(count, 1)


# --- advantages -------------------------------------------------------------------------------------------------------


def group_advantages(reward: Array, *, scale: bool = True, eps: float = 1e-6) -> Array:
    """Aᵢ = (rᵢ − mean r) / (std r + ε) over the last axis; without `scale`, Dr.GRPO's rᵢ − mean r.

    The deviation is the population's; a group of equal rewards gets exactly 0. [..., G] -> [..., G].
    """
    centred = _centred(reward)
    return centred / (_root_mean_square(centred, axis=-1) + eps) if scale else centred


def centred_advantages(reward: Array) -> Array:
    """Aᵢ = rᵢ − mean r over the last axis (Dr.GRPO). [..., G] -> [..., G]."""
    return group_advantages(reward, scale=False)


def batch_advantages(reward: Array, *, eps: float = 1e-6) -> Array:
    """Aᵢ = (rᵢ − mean of its group) / (std r + ε), the deviation taken over groups and batch. [..., B, G] -> [..., B, G]."""
    spread = reward - reward.mean(axis=(-2, -1), keepdims=True)
    return _centred(reward) / (_root_mean_square(spread, axis=(-2, -1)) + eps)


def no_baseline(reward: Array) -> Array:
    """A = r: REINFORCE without a baseline."""
    return reward


def zero_variance(reward: Array) -> Array:
    """Groups whose rewards are all equal, which teach nothing. [..., G] -> bool[...]."""
    return reward.max(axis=-1) == reward.min(axis=-1)


def _centred(reward: Array) -> Array:
    # The mean of eight 0.1s is not 0.1 in floating point, and dividing that dust by ε would make an advantage of it.
    reward = at_least_f32(jnp.asarray(reward))
    flat = zero_variance(reward)[..., None]
    return jnp.where(flat, 0.0, reward - reward.mean(axis=-1, keepdims=True))


def _root_mean_square(x: Array, axis) -> Array:
    return safe_sqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=True))


def safe_sqrt(x: Array) -> Array:
    """√x with a slope of 0 at 0, where sqrt's own is infinite: the inner `where` keeps it off the differentiated path."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


# --- KL estimators, per token (Schulman, "Approximating KL divergence", 2020) -------------------------------------------
#
# The gradient of an unbiased estimate need not be unbiased: ∇E_π[k] = E_π[∇k] + E_π[k ∇log π]. An estimator in the loss has the
# first term alone, one in the reward (`reward_less_kl`) the second alone. Below, KL is that of one token given those before it,
# on policy. How a token changes the KL of later tokens counts only in the reward.


def kl_k1(logps: Array, ref_logps: Array) -> Array:
    """log π − log π_ref: unbiased, of either sign.

    In the loss: E_π[∇k1] = E_π[∇log π] = 0, so it does nothing but add noise. In the reward: E_π[k1 ∇log π] = ∇KL(π‖π_ref).
    """
    return logps - ref_logps


def kl_k2(logps: Array, ref_logps: Array) -> Array:
    """½ (log π − log π_ref)²: a biased value, of low variance.

    In the loss: E_π[∇k2] = E_π[(log π − log π_ref) ∇log π] = ∇KL(π‖π_ref), the true gradient.
    """
    return 0.5 * jnp.square(logps - ref_logps)


def kl_k3(logps: Array, ref_logps: Array) -> Array:
    """exp(−d) − 1 + d with d = log π − log π_ref: an unbiased value, never negative.

    In the loss: E_π[∇k3] = −Σ π_ref ∇log π = ∇KL(π_ref‖π): the divergence with its arguments exchanged, not KL(π‖π_ref).
    """
    return jnp.expm1(ref_logps - logps) + (logps - ref_logps)


def kl_of_tokens(kl: Callable[[Array, Array], Array], logps: Array, ref_logps: Array, mask: Array) -> Array:
    """An estimator on masked log-probs, [..., R]: finite also where nothing is read. Its `masked_mean` is the metric `kl`."""
    return kl(jnp.where(mask, at_least_f32(logps), 0.0), jnp.where(mask, at_least_f32(ref_logps), 0.0))


def reward_less_kl(reward: Array, kl: Array, mask: Array, kl_coef: Array) -> Array:
    """r − β Σₜ klₜ, for advantages: the KL in the reward, where `kl_k1` is right. [..., G], [..., G, R] -> [..., G]."""
    return reward - kl_coef * jnp.sum(kl, axis=-1, where=mask)


# --- normalisers: bool[..., B, G, R] -> the weight of every token in the loss ---------------------------------------------


def per_sequence(mask: Array) -> Array:
    """Mean over a sequence's tokens, then over all sequences (GRPO)."""
    length = jnp.maximum(mask.sum(axis=-1, keepdims=True, dtype=float), 1)
    return mask / (length * (mask.size // mask.shape[-1]))


def per_token(mask: Array) -> Array:
    """Mean over all tokens of the batch (DAPO, arXiv 2503.14476)."""
    return mask / jnp.maximum(mask.sum(dtype=float), 1)


def fixed_length(length: int) -> Callable[[Array], Array]:
    """Sum over a sequence's tokens divided by one constant, then the mean over sequences (Dr.GRPO, arXiv 2503.20783)."""
    return lambda mask: mask.astype(float) / (length * (mask.size // mask.shape[-1]))


# --- losses: the term of every token, f32[B, G, R], and metrics -----------------------------------------------------------
#
# A term is to be maximised. The update weighs the terms, subtracts the KL and adds them up; `composed` does so for one batch.


def grpo_term(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, hparams: Hparams, *, dual_clip: bool = False
) -> tuple[Array, dict[str, Array]]:
    """min(ρA, clip(ρ, 1−ε₋, 1+ε₊)A) with ρ = π/π_old per token (DeepSeekMath, arXiv 2402.03300).

    Args:
      logps: log π of every token. A loss is meant to be differentiated by this argument alone.
      old_logps: log π_old, an argument and not a `stop_gradient` of `logps`: that would cut the path by which a gradient
        through several steps depends on the earlier ones.
      advantages: one a sequence, f32[B, G].
      mask: the tokens that count.
      hparams: clip_low and clip_high; dual_clip where that is asked for.
      dual_clip: bounds the term of a negative advantage by c·A (arXiv 1912.09729).
    """
    return _clipped(jnp.exp(_log_ratio(logps, old_logps, advantages, mask)), advantages, mask, hparams, dual_clip)


def gspo_term(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, hparams: Hparams, *, dual_clip: bool = False
) -> tuple[Array, dict[str, Array]]:
    """`grpo_term` with one ratio a sequence, ρ = (π(y)/π_old(y))^(1/|y|) (GSPO, arXiv 2507.18071)."""
    mean = masked_mean(_log_ratio(logps, old_logps, advantages, mask), mask, axis=-1)[..., None]
    return _clipped(jnp.exp(jnp.where(mask, mean, 0.0)), advantages, mask, hparams, dual_clip)


def cispo_term(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, hparams: Hparams
) -> tuple[Array, dict[str, Array]]:
    """sg(min(ρ, 1+ε₊))·A·log π: clips the weight of a token and never its gradient (CISPO, arXiv 2506.13585).

    As in the paper's experiments there is no lower bound. With `inner_epochs > 1` the `stop_gradient` that defines CISPO
    also hides ρ from gradients through several steps; with one epoch ρ is 1 and nothing is hidden.
    """
    ratio = jnp.exp(_log_ratio(logps, old_logps, advantages, mask))
    bound = 1 + hparams.clip_high
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, bound))
    term = weight * advantages[..., None] * jnp.where(mask, at_least_f32(logps), 0.0)
    return term, _ratio_metrics(ratio, ratio > bound, mask)


def less_kl(
    term: Array, kl: Callable[[Array, Array], Array], logps: Array, ref_logps: Array, mask: Array, kl_coef: Array
) -> tuple[Array, dict[str, Array]]:
    """term − β·kl per token, and the metric `kl`: `kl_k2` for the gradient of KL(π‖π_ref). `kl_k1` has none here."""
    difference = kl_of_tokens(kl, logps, ref_logps, mask)
    return term - kl_coef * difference, {"kl": masked_mean(difference, mask)}


def total(term: Array, token_weights: Array, token_norm: Array, mask: Array) -> Array:
    """−Σ norm·weight·term over the tokens that count: the loss, f32[]."""
    return -jnp.sum(token_norm * (term * jnp.broadcast_to(token_weights, term.shape)), where=mask)


def composed(term_of: Callable) -> Callable:
    """The loss of one batch made of a term: (logps, old_logps, advantages, mask, hparams, ...) -> f32[], metrics."""

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
    loss.__doc__ = f"""The loss made of `{term_of.__name__}`: −Σ norm·weight·(term − β·kl).

    Args:
      logps, old_logps, advantages, mask, hparams: those of `{term_of.__name__}`; hparams.kl_coef where `kl` is given.
      ref_logps: log π_ref of the base model, for `kl`.
      kl: an estimator per token.
      dual_clip: bounds the term of a negative advantage.
      token_weights: broadcastable to [B, G, R]; multiplies each token's term, never a denominator or the advantages.
      normalise: how tokens are weighed against each other.
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


# --- truncated responses: (reward f32[B, G], mask bool[B, G, R], truncated bool[B, G]) -> reward, weight f32[B, G] ------------


def keep_truncated(reward: Array, mask: Array, truncated: Array) -> tuple[Array, Array]:
    """A response cut off by the length limit counts as any other."""
    return reward, jnp.ones_like(reward)


def mask_truncated(reward: Array, mask: Array, truncated: Array) -> tuple[Array, Array]:
    """A response cut off by the length limit has no term in the loss; its reward stays in the group (DAPO's filtering)."""
    return reward, jnp.where(truncated, 0.0, jnp.ones_like(reward))


def penalise_truncated(buffer: int):
    """Subtracts up to 1 from the reward, linearly in the last `buffer` tokens before the limit (DAPO's soft punishment)."""

    def penalise(reward: Array, mask: Array, truncated: Array) -> tuple[Array, Array]:
        free = mask.shape[-1] - buffer
        over = jnp.maximum(mask.sum(axis=-1) - free, 0)
        return reward - over.astype(reward.dtype) / buffer, jnp.ones_like(reward)

    return penalise


def truncated_importance(cap: float) -> Callable[[Array, Array], Array]:
    """min(π_old / π_sampler, cap) per token, for a sampler that computes otherwise than the scorer does."""
    return lambda old_logps, sampler_logps: jnp.minimum(jnp.exp(old_logps - sampler_logps), cap)
