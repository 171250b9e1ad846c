"""FlexLoRA's rule: the mean of the clients' products A B, cut to the adapter's rank by a singular value decomposition."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import per_client, shares_of
from pubswap_jax.types import Aggregator, Array, PyTree, at_least_f32


def product_svd(family=None) -> Aggregator:
    """FlexLoRA's rule (arXiv 2402.11505): the pair (A, B) of the adapter's rank whose product is nearest to Σ wᵢ AᵢBᵢ.

    The mean product [in, out] is never formed: it is P Q with P = [w₁A₁ … w_N A_N] and Q stacked alike, of inner size N r. A
    client of a lower rank uploads its A and B padded with zeros to the common rank.

    A product has many pairs (A, B). Reading: A gets orthogonal columns of equal norm, turned to be nearest to the clients' mean
    A, and of the mean A's norm. FlexLoRA's A √S would be zero, and train no more, wherever B is still zero.

    Args:
      family: the adapter family; LoRA's pairs are expected, since only these represent a cut product.
    """
    if family is not None:
        _, trained = jax.eval_shape(lambda key: family.init(key, 64, 64), jax.random.key(0))
        if set(trained) != {"a", "b"}:
            raise ValueError(f"product_svd: LoRA's trained leaves a and b expected, this family trains {sorted(trained)}")

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        return _of_pairs(adapter, uploads, shares_of(weights, jax.tree.leaves(uploads)[0].shape[0])), memory

    return Aggregator(lambda adapter: (), apply, gathers=True)


def _of_pairs(adapter: PyTree, uploads: PyTree, share: Array) -> PyTree:
    if not isinstance(uploads, dict):
        raise ValueError("product_svd: an adapter of pairs a and b expected")
    if set(uploads) != {"a", "b"}:
        return {name: _of_pairs(adapter[name], uploads[name], share) for name in uploads}
    lead = uploads["a"].shape[1:-2]
    flat = {name: at_least_f32(x).reshape(x.shape[0], math.prod(lead), *x.shape[-2:]) for name, x in uploads.items()}
    pair = jax.vmap(best_pair, in_axes=(1, 1, None))(flat["a"], flat["b"], share)
    return {name: x.reshape(adapter[name].shape).astype(adapter[name].dtype) for name, x in zip("ab", pair, strict=True)}


def best_pair(a: Array, b: Array, share: Array) -> tuple[Array, Array]:
    """(A, B) of rank r whose product is nearest to Σ shareᵢ aᵢ bᵢ. [C, in, r], [C, r, out], [C] -> [in, r], [r, out]."""
    present = per_client(share > 0, a)
    a, b = jnp.where(present, a, 0.0), jnp.where(present, b, 0.0)
    weighted = per_client(share, a) * a
    rank = a.shape[-1]
    p, q = jnp.moveaxis(weighted, 0, 1).reshape(a.shape[1], -1), b.reshape(-1, b.shape[-1])
    reference = weighted.sum(0)
    square = jnp.sum(jnp.square(reference)) / rank
    scale = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    basis = leading_columns(p, q, rank)
    turn = nearest_rotation(basis.T @ reference)
    return scale * basis @ turn, turn.T @ ((basis.T @ p) @ q) / scale


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def leading_columns(p: Array, q: Array, rank: int) -> Array:
    """Orthonormal columns that span the first `rank` left singular vectors of p q. [in, n], [n, out] -> [in, at most rank].

    Only the span may be used. The derivative is the span's, which needs no gap between the singular values inside it.
    """
    return _left(p, q)[0][:, :rank]


@leading_columns.defjvp
def _leading_columns_jvp(rank, primals, tangents):
    """Derivative of `leading_columns`: the part orthogonal to the span, of (p q)(p q)ᵀ.

    Directions without a gap to the rest have derivative 0.
    """
    (p, q), (dp, dq) = primals, tangents
    vectors, sigma = _left(p, q)
    basis = vectors[:, :rank]
    kept = basis.shape[1]
    left = p.T @ basis  # [n, kept]
    right = q.T @ left  # (p q)ᵀ basis [out, kept]
    change = dp @ (q @ right) + p @ (dq @ right) + p @ (q @ (dq.T @ left + q.T @ (dp.T @ basis)))
    inside = vectors.T @ change
    tiny = 8 * jnp.finfo(sigma.dtype).eps * sigma[0] ** 2
    square = jnp.square(sigma)
    gap = square[None, :kept] - square[:, None]
    usable = (gap > tiny) & (jnp.arange(len(sigma))[:, None] >= kept)
    from_rest = vectors @ jnp.where(usable, inside / jnp.where(usable, gap, 1.0), 0.0)
    whole = square[None, :kept] > tiny
    from_outside = jnp.where(whole, (change - vectors @ inside) / jnp.where(whole, square[None, :kept], 1.0), 0.0)
    return basis, from_rest + from_outside


def _left(p: Array, q: Array) -> tuple[Array, Array]:
    """Left singular vectors and singular values of the product p q, from two QR decompositions."""
    (qp, rp), (_, rq) = jnp.linalg.qr(p), jnp.linalg.qr(q.T)
    vectors, sigma, _ = jnp.linalg.svd(rp @ rq.T, full_matrices=False)
    return qp @ vectors, sigma


@jax.custom_jvp
def nearest_rotation(x: Array) -> Array:
    """The polar factor (x xᵀ)^−½ x: orthonormal rows nearest to x. [k, r] with k at most r."""
    left, _, right = jnp.linalg.svd(x, full_matrices=False)
    return left @ right


@nearest_rotation.defjvp
def _nearest_rotation_jvp(primals, tangents):
    """Derivative of `nearest_rotation`.

    Divides by sums of singular values, where the SVD's own derivative divides by differences.
    """
    (dx,) = tangents
    left, sigma, right = jnp.linalg.svd(primals[0], full_matrices=False)
    inner = left.T @ dx @ right.T
    sums = sigma[:, None] + sigma[None]
    turn = jnp.where(sums > 0, (inner - inner.T) / jnp.where(sums > 0, sums, 1.0), 0.0)
    outside = left.T @ dx - inner @ right
    rest = jnp.where(sigma > 0, 1.0 / jnp.where(sigma > 0, sigma, 1.0), 0.0)[:, None] * outside
    return left @ right, left @ (turn @ right + rest)
