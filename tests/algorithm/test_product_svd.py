"""The mean of products, cut to the rank, against numpy's SVD of the formed product; its derivative; unequal ranks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aggregation_laws import as_dtype, assert_close, check_gradient, check_laws, next_adapter, products, uploads_of

from pubswap_jax.algorithm.product_svd import best_pair, leading_columns, nearest_rotation, product_svd


def cut_by_svd(uploads, weights, rank):
    """Σ wᵢ AᵢBᵢ / Σ wᵢ of every pair, formed, then cut to the rank."""
    share = np.asarray(weights) / np.sum(weights)
    cut = {}
    for name, pair in uploads["layers"].items():
        whole = sum(w * a @ b for w, a, b in zip(share, pair["a"], pair["b"], strict=True))
        left, sigma, right = np.linalg.svd(whole, full_matrices=False)
        cut[name] = (left[..., :rank] * sigma[..., None, :rank]) @ right[..., :rank, :]
    return cut


@pytest.mark.parametrize("weights", [[1.0] * 5, [1.0, 2, 0, 1.5, 3]])
@pytest.mark.parametrize("lead,rank", [((), 2), ((2,), 3), ((), 1)])
def test_the_product_is_the_dense_svd_s(weights, lead, rank):
    adapter, uploads = uploads_of(lead=lead, rank=rank)
    found = jax.jit(lambda *args: next_adapter(product_svd(), *args)[0])(*map(as_dtype, (adapter, uploads)), jnp.array(weights))
    assert_close(products(found), cut_by_svd(uploads, weights, rank), 2e-5)


def test_laws():
    check_laws(product_svd, view=products, tolerance=1e-4)


@pytest.mark.parametrize("case", [{}, {"spread": 1e-3}, {"rank": 3, "clients": 3}, {"rank": 1, "lead": (2,)}])
def test_the_gradient_is_finite_and_right(case):
    check_gradient(product_svd, tolerance=1e-5, **case)


def test_it_errs_less_than_averaging_a_and_b_apart():
    adapter, uploads = uploads_of()
    whole = {name: np.mean(pair["a"] @ pair["b"], axis=0) for name, pair in uploads["layers"].items()}
    found = products(next_adapter(product_svd(), *map(as_dtype, (adapter, uploads)))[0])
    apart = products(jax.tree.map(lambda x: x.mean(0), uploads))
    for name, target in whole.items():
        assert np.linalg.norm(found[name] - target) < 0.95 * np.linalg.norm(apart[name] - target)


def test_clients_of_unequal_rank_are_padded_with_zeros():
    rng = np.random.default_rng(0)
    ranks, rank, weights = (1, 3, 2), 3, np.array([1.0, 2, 1])
    a, b = np.zeros((3, 7, rank)), np.zeros((3, rank, 6))
    for client, own in enumerate(ranks):
        a[client, :, :own], b[client, :own] = rng.normal(size=(7, own)), rng.normal(size=(own, 6))
    expected = cut_by_svd({"layers": {"q": {"a": a, "b": b}}}, weights, rank)["q"]
    left, right = best_pair(*map(jnp.float32, (a, b, weights / weights.sum())))
    np.testing.assert_allclose(left @ right, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wide,out,rank", [(7, 2, 3), (2, 7, 3), (2, 2, 4)])
def test_a_rank_above_the_sizes_of_the_layer_loses_nothing(wide, out, rank):
    rng = np.random.default_rng(0)
    a, b = jnp.float32(rng.normal(size=(4, wide, rank))), jnp.float32(rng.normal(size=(4, rank, out)))
    left, right = best_pair(a, b, jnp.full(4, 0.25))
    assert left.shape == (wide, rank) and right.shape == (rank, out)
    np.testing.assert_allclose(left @ right, jnp.mean(a @ b, 0), rtol=1e-4, atol=1e-5)


def test_a_is_near_the_mean_a_and_does_not_vanish_where_b_is_zero():
    rng = np.random.default_rng(0)
    a, b = jnp.float32(rng.normal(size=(1, 200, 4))), jnp.float32(rng.normal(size=(1, 4, 50)))
    clients = a + 0.01 * rng.normal(size=(6, 200, 4)).astype(np.float32)
    for others in (b + 0.01 * rng.normal(size=(6, 4, 50)).astype(np.float32), jnp.zeros((6, 4, 50))):
        left, right = best_pair(clients, others, jnp.full(6, 1 / 6))
        assert jnp.linalg.norm(left - a[0]) < 0.15 * jnp.linalg.norm(a[0])
        np.testing.assert_allclose(jnp.linalg.norm(left), jnp.linalg.norm(clients.mean(0)), rtol=1e-5)
    assert not right.any()
    gradient = jax.grad(lambda a, b: jnp.sum(jnp.sin(best_pair(a, b, jnp.full(6, 1 / 6))[0])), argnums=(0, 1))(clients, others)
    assert all(jnp.isfinite(g).all() for g in gradient)


def test_the_span_and_the_rotation_have_derivatives_where_singular_values_are_equal():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        p = jnp.asarray(np.linalg.qr(rng.normal(size=(8, 5)))[0])
        q = jnp.diag(jnp.array([2.0, 2.0, 1.0, 1.0, 1.0])) @ jnp.asarray(np.linalg.qr(rng.normal(size=(9, 5)))[0]).T
        dp, dq = jnp.asarray(rng.normal(size=p.shape)), jnp.asarray(rng.normal(size=q.shape))
        projector = lambda h: (lambda u: u @ u.T)(leading_columns(p + h * dp, q + h * dq, 2))  # noqa: E731
        turned = lambda h: nearest_rotation(q[:3] / q[:3].max() + h * dq[:3])  # noqa: E731
        for function in (projector, turned):
            _, slope = jax.jvp(function, (0.0,), (1.0,))
            np.testing.assert_allclose(slope, (function(1e-6) - function(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-7)


class Family(NamedTuple):
    trained: tuple

    def init(self, key, wide, out):
        return {}, {name: jnp.zeros((wide, 2)) for name in self.trained}


def test_what_has_no_pairs_is_refused():
    assert product_svd(Family(("a", "b"))).init({}) == ()
    with pytest.raises(ValueError, match=r"this family trains \['h', 's'\]"):
        product_svd(Family(("h", "s")))
    with pytest.raises(ValueError, match="pairs a and b expected"):
        next_adapter(product_svd(), {"q": {"h": jnp.ones((2, 2))}}, {"q": {"h": jnp.ones((3, 2, 2))}})
