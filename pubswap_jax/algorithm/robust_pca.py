"""FedRPCA: client updates are split into what they share (low rank) and what is particular to one (sparse)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import changes, moved, shares_of, weights_of
from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.types import Aggregator, Array

# Threshold of the entries of S, λ/μ, in units of the mean |entry|. With arXiv 0912.3599's μ = mn/(4‖D‖₁) it is 4/√m, too small
# for long columns: after 50 iterations S would have half of its final size. With 0.6, L is within 0.5 % of its limit by then.
THRESHOLD = 0.6


def robust_pca(beta: float | Array | Callable[[Array], Array] = 2.0, iterations: int = 50) -> Aggregator:
    """The rule FedRPCA (arXiv 2506.01194): x + mean(L) + β mean(S), where D = L + S is a robust PCA of the updates.

    Each matrix of the adapter, A and B apart and each layer of a scanned stack, has its own D, with one client's update in each
    column: min ‖L‖_* + λ‖S‖₁, λ = 1/√max(m, n) for n clients with m entries. β = 1 is the mean, to rounding, since S is D − L.

    Reading: A and B apart, and λ. The fewer the clients, the more of D is in S even where they agree: E = ‖mean S‖/‖mean D‖ of
    equal Gaussian updates is 0.12 for 4 clients and 0.03 for 8. A single client, or clients that share nothing, have S = D, and
    then the rule multiplies the mean update by β. It is no defence against hostile clients.

    Args:
      beta: weight of the sparse parts, a number, or a function of E = ‖mean S‖/‖mean D‖ such as `inverse_share()`.
      iterations: of the alternating direction method; static.
    """
    if iterations < 1:
        raise ValueError(f"robust_pca: 1 or more iterations expected, got {iterations}")

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        weights = weights_of(uploads, weights)
        share = shares_of(weights, weights.shape[0])

        def update(columns):
            sparse = columns - low_rank_part(columns, jnp.sum(weights > 0), iterations)
            average, average_sparse = share @ columns, share @ sparse
            factor = beta(_ratio(average_sparse, average)) if callable(beta) else beta
            return average + (factor - 1) * average_sparse

        def of_leaf(x, change):
            stacked = change.reshape(change.shape[0], math.prod(x.shape[:-2]), -1)
            return jax.vmap(update, in_axes=1)(stacked).reshape(x.shape)

        return moved(adapter, jax.tree.map(of_leaf, adapter, changes(adapter, uploads, weights))), memory

    return Aggregator(lambda adapter: (), apply, gathers=True)


def of_beta(beta: float) -> Aggregator:
    """`robust_pca` with this β; 0 stands for `inverse_share()`, which adapts it to the updates."""
    return robust_pca(beta or inverse_share())


def inverse_share(most: float | Array = 10.0) -> Callable[[Array], Array]:
    """Returns the adaptive β of FedRPCA: β = 1/E, at least 1 and at most `most`, with E = ‖mean S‖/‖mean D‖.

    Without a bound a sparse part that is only rounding would grow to the size of the mean update.
    Reading: the sources confirm an adaptive β and not this formula.
    """
    return lambda share: jnp.clip(1.0 / jnp.where(share > 0, share, 1.0), 1.0, most)


def low_rank_part(columns: Array, count: Array, iterations: int) -> Array:
    """The low-rank part L of D = L + S, by ADMM (principal component pursuit, arXiv 0912.3599). f32[C, m] -> f32[C, m].

    The rows here are D's columns: one a client. `count` clients are present, and the rows of the others are zero. Singular
    values are thresholded through the C x C Gram matrix, so no decomposition of a long matrix is needed.
    """
    clients, entries = columns.shape
    unit = jnp.sum(jnp.abs(columns)) / (jnp.maximum(count, 1) * entries)  # mean |entry| of those present
    scaled = columns / jnp.where(unit > 0, unit, 1.0)
    most = jnp.maximum(count, entries).astype(columns.dtype)
    gram_unit = 1 / (THRESHOLD**2 * most)  # singular values are measured in their threshold, THRESHOLD/λ

    def iterate(_, state):
        low, sparse, dual = state
        target = scaled - sparse + dual
        low = shrinkage(gram_unit * (target @ target.T)) @ target
        rest = scaled - low + dual
        sparse = jnp.sign(rest) * jnp.maximum(jnp.abs(rest) - THRESHOLD, 0.0)
        return low, sparse, rest - sparse

    start = jnp.zeros_like(scaled)
    low, _, _ = jax.lax.fori_loop(0, iterations, iterate, (start, start, start))
    return unit * low


@jax.custom_jvp
def shrinkage(gram: Array) -> Array:
    """The matrix F for which F X is X with every singular value σ lowered to max(σ − 1, 0). `gram`: X Xᵀ, [C, C]."""
    _, vectors, factor = _spectrum(gram)
    return (vectors * factor[None]) @ vectors.T


@shrinkage.defjvp
def _shrinkage_jvp(primals, tangents):
    """Derivative of `shrinkage` by Daleckii and Krein: divided differences where `eigh`'s derivative has 1/(λᵢ − λⱼ).

    They stay finite at repeated eigenvalues, such as the zeros of absent clients.
    """
    sigma, vectors, factor = _spectrum(primals[0])
    high, low = jnp.maximum(sigma[:, None], sigma[None]), jnp.minimum(sigma[:, None], sigma[None])
    over_high, over_low = jnp.maximum(high, 1.0), jnp.maximum(low, 1.0)
    one = (1 - 1 / over_high) / jnp.where(high > low, (high - low) * (high + low), 1.0)
    both = 1 / (over_high * over_low * (over_high + over_low))
    quotient = jnp.where(low > 1, both, jnp.where(high > 1, one, 0.0))
    change = vectors @ (quotient * (vectors.T @ tangents[0] @ vectors)) @ vectors.T
    return (vectors * factor[None]) @ vectors.T, change


def _spectrum(gram: Array) -> tuple[Array, Array, Array]:
    """From X Xᵀ: singular values of X, the eigenvectors, and the factor by which `shrinkage` scales each singular value."""
    values, vectors = jnp.linalg.eigh(gram)
    sigma = jnp.sqrt(jnp.maximum(values, 0.0))
    return sigma, vectors, 1 - 1 / jnp.maximum(sigma, 1.0)


def _ratio(part: Array, whole: Array) -> Array:
    """The ratio of two trees' norms, ‖part‖/‖whole‖; 0 where the whole is 0."""
    square = jnp.sum(jnp.square(whole))
    return safe_sqrt(jnp.sum(jnp.square(part)) / jnp.where(square > 0, square, 1.0))
