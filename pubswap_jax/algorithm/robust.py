"""Rules against hostile or broken clients: coordinate-wise median, trimmed mean, clipped norms.

Two uploads are compared entry by entry. (A, B) and (AR, R⁻¹B) are the same update, so that comparison needs a common choice of
R. The server's adapter gives it: all clients of a round start from the same A and B, and honest training moves them little. A
client that uploads (cA, B/c) is an outlier in both factors, although its product is honest; these rules outvote or clip it.

An upload that is not `sound` (NaN, infinity, or an enormous norm) counts as absent.
"""

import functools

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import changes, check_enough, mean, moved, per_client, sound, squared_norms, weights_of
from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.types import Aggregator, Array, PyTree

TIE = 1e-5  # share of the total weight by which two sums of weights may differ and still count as equal


@functools.cache
def median() -> Aggregator:
    """The rule that takes the weighted median of every entry (Yin et al., arXiv 1803.01498).

    It holds against hostile clients of less than half of the weight.

    Half of the weight is at or below the median and half at or above it. Of two such values the result is the mean, as in
    `numpy.median`.
    """

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        weights = _weights(uploads, weights)
        half = weights.sum() / 2

        def middle(x, y):
            values, heavy = _sorted(x, y, weights)
            below = jnp.cumsum(heavy, axis=0)
            # An absent client's entry has no weight, so neither sum reaches its bound there.
            low = jnp.argmax(below >= half * (1 - TIE), axis=0)[None]
            high = jnp.argmax(below > half * (1 + TIE), axis=0)[None]
            pair = jnp.take_along_axis(values, low, 0) + jnp.take_along_axis(values, high, 0)
            return pair[0] / 2

        return _moved_by(middle, adapter, uploads, weights), memory

    return Aggregator(lambda adapter: (), apply, gathers=True)


def trimmed_mean(k: int | Array) -> Aggregator:
    """The rule that averages every entry without its k largest and k smallest values, by weight (arXiv 1803.01498).

    Up to k hostile clients have a bounded effect. At least 2k + 1 clients must be present; with traced weights of fewer, the
    server's adapter stays.
    """
    known = isinstance(k, int)
    if known and k < 0:
        raise ValueError(f"trimmed_mean: k of 0 or more expected, got {k}")
    needs = 2 * k + 1 if known else 1

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        weights = _weights(uploads, weights)
        check_enough(f"trimmed_mean({k})", needs, weights, weights.shape[0])
        count = jnp.sum(weights > 0)

        def trimmed(x, y):
            values, heavy = _sorted(x, y, weights)
            place = jnp.cumsum(heavy > 0, axis=0)  # 1 for the smallest value of those present
            kept = jnp.where((place > k) & (place <= count - k), heavy, 0.0)
            total = kept.sum(0)
            return jnp.sum(kept * values, axis=0) / jnp.where(total > 0, total, 1.0)

        return _moved_by(trimmed, adapter, uploads, weights), memory

    return Aggregator(lambda adapter: (), apply, needs=needs, gathers=True)


def norm_clip(limit: float | Array, of: Aggregator = mean()) -> Aggregator:
    """The rule that scales each client's change down to a norm of at most `limit`, then applies `of` (arXiv 1911.07963).

    The norm is over the whole adapter.

    It bounds a client's effect and does not detect a hostile one: a sign flip of the usual norm passes.
    """

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        weights = _weights(uploads, weights)
        change = changes(adapter, uploads, weights)
        norm = safe_sqrt(squared_norms(change))
        scale = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1.0), 1.0)
        clipped = jax.tree.map(lambda x, d: (x[None] + per_client(scale, d) * d).astype(x.dtype), adapter, change)
        return of.apply(memory, adapter, clipped, weights, staleness, extra)

    return of._replace(apply=apply)


def _weights(uploads: PyTree, weights: Array | None) -> Array:
    """The clients' averaging weights, with 0 for uploads that hold NaN or have an enormous norm."""
    return jnp.where(sound(uploads), weights_of(uploads, weights), 0.0)


def _sorted(x: Array, change: Array, weights: Array) -> tuple[Array, Array]:
    """The clients' changes of each entry in ascending order, and the weights in the same order. [C, ...] both."""
    heavy = jnp.broadcast_to(per_client(weights, change), change.shape)
    return jax.lax.sort((change, heavy), dimension=0, num_keys=1)


def _moved_by(entry, adapter: PyTree, uploads: PyTree, weights: Array) -> PyTree:
    """Changes the adapter leaf by leaf: each leaf moves by `entry(the clients' changes of the leaf, weights)`."""
    return moved(adapter, jax.tree.map(entry, adapter, changes(adapter, uploads, weights)))
