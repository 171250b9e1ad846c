"""Averages over clients, and the error of averaging LoRA's factors. Every aggregation rule is built on this file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.policy.adapter import all_factors
from pubswap_jax.types import Adapter, Aggregator, Array, PyTree, at_least_f32

LARGEST = 1e6  # norm of an adapter, or of its moments, that an average lets in: far beyond what trains, far below overflow


@functools.cache
def mean() -> Aggregator:
    """The rule FedAvg (FedIT for LoRA): the weighted mean of the clients' A, and that of their B, each by `fedavg`."""
    return Aggregator(lambda adapter: (), _mean)


@functools.cache
def alone() -> Aggregator:
    """The rule without averaging: every client trains alone, and the server's adapter stays as it is."""
    return Aggregator(lambda adapter: (), _unchanged, shares=False)


def _mean(memory, adapter, uploads, weights, staleness, extra=None):
    return fedavg(uploads, weights), memory


def _unchanged(memory, adapter, uploads, weights, staleness, extra=None):
    return adapter, memory


def broadcast(tree: PyTree, num_clients: int) -> PyTree:
    """Copies a tree to every client: leaves [...] -> [C, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_clients, *jnp.shape(x))), tree)


def fedavg(trees: PyTree, weights: PyTree = None) -> PyTree:
    """Σ wᵢ xᵢ / Σ wᵢ over the leading axis (McMahan et al., arXiv 1602.05629). [C, ...], f32[C] -> [...].

    `weights` may also be a tree like `trees`, whose leaves [C, ...] broadcast against those of `trees` from the left. Entries
    of which nobody has a weight are 0.

    A weight of 0 means absent: whatever that client holds, NaN included, changes nothing. Weights that are known and sum to
    zero raise; traced ones that do give zeros, which `Server.aggregate` replaces by the server's adapter.
    """
    if isinstance(weights, dict):
        shares = jax.tree.map(_shares, weights)
    else:
        leaves, structure = jax.tree.flatten(trees)
        shares = jax.tree.unflatten(structure, [shares_of(weights, leaves[0].shape[0])] * len(leaves))

    def mean(x, share):
        column = share.reshape(*share.shape, *[1] * (x.ndim - share.ndim))
        averaged = jnp.sum(jnp.where(column == 0, 0.0, x) * column, axis=0)
        return averaged.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.round(averaged).astype(x.dtype)

    return jax.tree.map(mean, trees, shares)


def check_weights(weights: Array | None, num_clients: int) -> Array:
    """The weights as an array, uniform where None; raises on a wrong shape, and on values where they are known."""
    weights = jnp.ones(num_clients) if weights is None else jnp.asarray(weights)
    if weights.shape != (num_clients,):
        raise ValueError(f"weights: one a client, shape ({num_clients},), expected; got {weights.shape}")
    if not isinstance(weights, jax.core.Tracer):
        values = np.asarray(weights)
        if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
            raise ValueError(f"weights: finite, not negative and not all zero expected; got {values.tolist()}")
    return at_least_f32(weights) if jnp.issubdtype(weights.dtype, jnp.inexact) else weights.astype(float)


def weights_of(uploads: PyTree, weights: Array | None) -> Array:
    """The clients' averaging weights after `check_weights`, f32[C]: uniform where `weights` is None."""
    return check_weights(weights, jax.tree.leaves(uploads)[0].shape[0])


def shares_of(weights: Array | None, num_clients: int) -> Array:
    """Scales clients' weights to sum 1, f32[C]; uniform for None, zeros where traced weights sum to zero."""
    return _shares(check_weights(weights, num_clients))


def _shares(weights: Array) -> Array:
    """Scales weights to sum 1 over the leading axis; zeros where they sum to zero. f32[C, ...]."""
    total = weights.sum(0, keepdims=True)
    return weights / jnp.where(total == 0, 1.0, total)


def check_enough(rule: str, needed: int, weights: Array | None, num_clients: int) -> None:
    """Raises where an aggregation rule needs more clients than there are or, with known weights, than take part."""
    weights = check_weights(weights, num_clients)
    present = num_clients if isinstance(weights, jax.core.Tracer) else int(np.sum(np.asarray(weights) > 0))
    if present < needed:
        raise ValueError(f"{rule}: at least {needed} clients expected, got {present} of {num_clients}")


def gain_weights(
    weights: Array, reward: Array, baseline: Array, *, temperature: float = 1.0, decay: float = 0.9, floor: float = 0.1
) -> tuple[Array, Array]:
    """Averaging weights by each client's gain in reward over its own running mean, and the next means: f32[C], f32[C].

    wᵢ exp(gᵢ/temperature) with gᵢ = (rᵢ − bᵢ)/(|bᵢ| + floor), scaled so that the sum of the weights stays. A baseline of NaN
    has seen no round yet, and its client gains 0. Absent clients keep a weight of 0 and their baseline.
    Reading: FGRPO (arXiv 2606.03094) confirms a gain relative to the baseline, and not this formula. The floor is not small:
    rewards start near 0, where a relative gain would give one client all of the weight.
    """
    present = weights > 0
    known = jnp.where(jnp.isnan(baseline), reward, baseline)
    gain = jnp.where(present, (reward - known) / (jnp.abs(known) + floor), -jnp.inf)
    raw = jnp.where(present, weights * jnp.exp((gain - gain.max()) / temperature), 0.0)
    total = raw.sum()
    return raw * weights.sum() / jnp.where(total > 0, total, 1.0), jnp.where(
        present, decay * known + (1 - decay) * reward, baseline
    )


def per_client(values: Array, x: Array) -> Array:
    """Reshapes one value per client, [C] -> [C, 1, ..., 1], so that it broadcasts against x [C, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def changes(adapter: PyTree, uploads: PyTree, weights: Array) -> PyTree:
    """Every client's upload less the server's adapter, in at least float32; 0 for an absent client. [C, ...]."""

    def change(x, y):
        return at_least_f32(jnp.where(per_client(weights > 0, y), y, x[None])) - at_least_f32(x)[None]

    return jax.tree.map(change, adapter, uploads)


def moved(adapter: PyTree, change: PyTree) -> PyTree:
    """The adapter after a change: adapter + change, in the adapter's dtype."""
    return jax.tree.map(lambda x, d: (x + d).astype(x.dtype), adapter, change)


def rebased(adapter: PyTree, uploads: PyTree, received: PyTree, staleness: Array, waiting: PyTree = ()) -> PyTree:
    """Turns asynchronous uploads into uploads from the server's present adapter: present + what the client changed. [C, ...].

    Where the staleness is 0 this is the upload itself, since x + (y − x) is not y to the bit; else adapter + (upload −
    received). It has the type `types.Rebase`.
    """

    def rebase(x, upload, start):
        stale = (at_least_f32(x)[None] + (at_least_f32(upload) - at_least_f32(start))).astype(upload.dtype)
        return jnp.where(per_client(staleness == 0, upload), upload, stale)

    return jax.tree.map(rebase, adapter, uploads, received)


def squared_norms(trees: PyTree) -> Array:
    """‖xᵢ‖² of each client's whole tree. [C, ...] -> f32[C]."""
    squares = [jnp.sum(jnp.square(at_least_f32(x)), axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(trees)]
    return sum(squares[1:], start=squares[0])


@jax.jit
def sound(trees: PyTree) -> Array:
    """Whether each client's tree has a norm of at most LARGEST.

    False for NaN, which would spoil an average. [C, ...] -> bool[C].
    """
    inexact = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return squared_norms(inexact) <= LARGEST**2  # NaN compares as False


@jax.jit
def choose(which: Array, new: PyTree, old: PyTree) -> PyTree:
    """Takes the new tree of the clients that `which` bool[C] names, and the old tree of all other clients. Leaves [C, ...]."""
    return jax.tree.map(lambda x, y: jnp.where(per_client(which, x), x, y), new, old)


def proximal_penalty(adapter: PyTree, anchor: PyTree) -> Array:
    """FedProx's penalty (arXiv 1812.06127): ½ ‖adapter − anchor‖² over the whole tree."""
    squares = jax.tree.map(lambda x, y: jnp.sum(jnp.square(at_least_f32(x) - at_least_f32(y))), adapter, anchor)
    return 0.5 * sum(jax.tree.leaves(squares))


def aggregation_residual(
    adapters: PyTree, weights: Array | None = None, family: Adapter | None = None, basis: PyTree | None = None
) -> Array:
    """‖mean(PQ) − mean(P)·mean(Q)‖ / ‖mean(PQ)‖ over all layers: the error of averaging the factors P and Q of ΔW = PQ apart.

    P and Q are those of the adapter family, whose frozen arrays are `basis`; by default the A and B of LoRA.
    The products [in, out] are never formed: with N clients of rank r they are L·R with L = [P₁ … P_N] and R stacked alike, and
    ‖L·R‖² is the sum of (LᵀL)∘(RRᵀ), of size N·r. 0 where all products are 0.
    """
    pairs = all_factors(family, basis or {}, adapters)
    num_clients = pairs[0][0].shape[0]
    weights = check_weights(weights, num_clients)
    share = weights / jnp.where(weights.sum() == 0, 1.0, weights.sum())
    error = whole = jnp.zeros(())
    for pair in pairs:
        p, q = (at_least_f32(factor) for factor in pair)
        mean_p, mean_q = fedavg(p, weights), fedavg(q, weights)
        # mean(PQ) − mean(P)mean(Q) = Σ wᵢ (Pᵢ − P̄)(Qᵢ − Q̄): the centred form does not cancel.
        present = (share > 0).reshape(-1, *[1] * (p.ndim - 1))
        error += _product_norm2(jnp.where(present, p - mean_p[None], 0.0), jnp.where(present, q - mean_q[None], 0.0), share)
        whole += _product_norm2(jnp.where(present, p, 0.0), jnp.where(present, q, 0.0), share)
    return safe_sqrt(jnp.where(whole > 0, error / jnp.where(whole > 0, whole, 1.0), 0.0))


def _product_norm2(p: Array, q: Array, share: Array) -> Array:
    """‖Σ wᵢ pᵢ qᵢ‖² of a weighted sum of products, w = `share`, for p [C, ..., in, k] and q [C, ..., k, out]."""
    p = p * share.reshape(-1, *[1] * (p.ndim - 1))
    left = jnp.einsum("c...ir,d...is->...crds", p, p)
    right = jnp.einsum("c...ro,d...so->...crds", q, q)
    return jnp.maximum(jnp.sum(left * right), 0.0)
