"""Robust PCA against a dense ADMM in numpy; planted matrices; derivatives; what it does to few clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aggregation_laws import as_dtype, assert_close, check_gradient, check_laws, next_adapter, uploads_of

from pubswap_jax.algorithm.aggregation import fedavg
from pubswap_jax.algorithm.robust_pca import inverse_share, low_rank_part, robust_pca, shrinkage


def pursuit(matrix, iterations=3000):
    """L of min ‖L‖_* + λ‖S‖₁ with L + S = matrix [m, n], by ADMM with dense SVDs and another step size."""
    weight = 1 / np.sqrt(max(matrix.shape))
    size = 0.25 * np.sqrt(max(matrix.shape)) * np.abs(matrix).mean()
    sparse = dual = np.zeros_like(matrix)
    for _ in range(iterations):
        left, sigma, right = np.linalg.svd(matrix - sparse + dual, full_matrices=False)
        low = (left * np.maximum(sigma - size, 0)) @ right
        rest = matrix - low + dual
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight * size, 0)
        dual = rest - sparse
    return low


def planted(rows=500, columns=50, rank=2, share=0.05, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))
    return low, np.where(rng.random(low.shape) < share, 5 * rng.normal(size=low.shape), 0.0)


def error(found, expected):
    return np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("dtype,iterations,bound", [(np.float64, 1000, 1e-9), (np.float32, 50, 1e-4)])
def test_both_planted_parts_are_found(dtype, iterations, bound):
    low, sparse = planted()
    with jax.enable_x64(dtype == np.float64):
        found = np.asarray(low_rank_part(jnp.asarray((low + sparse).T, dtype), jnp.asarray(50), iterations)).T
    assert found.dtype == dtype
    assert error(found, low) < bound and error(low + sparse - found, sparse) < bound


@pytest.mark.parametrize("seed,shape", [(0, (60, 6)), (1, (200, 8)), (2, (12, 20))])
def test_it_agrees_with_dense_decompositions(seed, shape):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=shape) + 2 * rng.normal(size=(shape[0], 1))
    with jax.enable_x64(True):
        found = low_rank_part(jnp.asarray(matrix.T), jnp.asarray(shape[1]), 3000).T
    assert error(found, pursuit(matrix)) < 1e-3
    early = low_rank_part(jnp.asarray(matrix.T, jnp.float32), jnp.asarray(shape[1]), 50).T
    assert error(early, pursuit(matrix)) < 0.05


@pytest.mark.parametrize("weights", [[1.0] * 5, [1.0, 2, 0, 1.5, 3]])
@pytest.mark.parametrize("beta", [2.0, inverse_share(3.0)])
def test_the_rule_is_a_loop_over_matrices(weights, beta):
    adapter, uploads = uploads_of(lead=(2,))
    there = np.asarray(weights) > 0
    share = np.asarray(weights)[there] / np.sum(weights)

    def one(x, y):
        columns = (y[there] - x).reshape(len(share), -1).T
        sparse = columns - pursuit(columns)
        whole, part = columns @ share, sparse @ share
        factor = min(max(np.linalg.norm(whole) / np.linalg.norm(part), 1), 3) if callable(beta) else beta
        return x + (whole + (factor - 1) * part).reshape(x.shape)

    expected = jax.tree.map(lambda x, y: np.stack([one(x[layer], y[:, layer]) for layer in range(2)]), adapter, uploads)
    with jax.enable_x64(True):
        args = (*(as_dtype(tree, jnp.float64) for tree in (adapter, uploads)), jnp.array(weights))
        found = jax.jit(lambda *args: next_adapter(robust_pca(beta, 3000), *args)[0])(*args)
    assert_close(found, expected, 1e-3)


def test_laws_and_gradient():
    check_laws(lambda: robust_pca(1.7, 30), same=False, tolerance=2e-4)
    check_gradient(lambda: robust_pca(inverse_share(), 30), tolerance=1e-4, lead=(2,))


def test_beta_1_is_the_mean_and_a_grid_of_betas_is_one_program():
    adapter, uploads = map(as_dtype, uploads_of())
    weights = jnp.array([1.0, 2, 0, 1, 1])
    betas = jnp.array([1.0, 1.5, 3.0])
    grid = jax.jit(jax.vmap(lambda beta: next_adapter(robust_pca(beta), adapter, uploads, weights)[0]))(betas)
    at = lambda i: jax.tree.map(lambda x: x[i], grid)  # noqa: E731
    assert_close(at(0), fedavg(uploads, weights))
    assert_close(at(1), jax.jit(lambda: next_adapter(robust_pca(1.5), adapter, uploads, weights)[0])())
    # The adapter is linear in β: three betas lie on a line.
    assert_close(at(2), jax.tree.map(lambda x, y: x + 4 * (y - x), at(0), at(1)), 1e-4)


def test_equal_uploads_come_back_from_the_mean_only_and_nearly_so_from_many_clients():
    """Where clients are few, S takes the largest entries of what all of them share: that is the optimum, not an error of it."""
    rng = np.random.default_rng(0)
    change = jnp.float32(rng.normal(size=2000))
    sizes = []
    for clients in (1, 3, 16):
        columns = jnp.broadcast_to(change, (clients, 2000))
        sizes.append(error(low_rank_part(columns, jnp.asarray(clients), 200)[0], change))
    assert sizes[0] > 0.99 and 0.1 < sizes[1] < 0.3 and sizes[2] < 0.01, sizes


def test_no_update_and_tiny_updates_are_no_trouble():
    adapter = {"a": jnp.ones((7, 3))}
    run = jax.jit(lambda uploads: next_adapter(robust_pca(inverse_share(), 20), adapter, uploads)[0])
    still = {"a": jnp.ones((5, 7, 3))}
    assert_close(run(still), adapter, 0)
    gradient = jax.grad(lambda y: sum(jnp.sum(x) for x in jax.tree.leaves(run(y))))(still)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    rng = np.random.default_rng(0)
    columns = jnp.float32(rng.normal(size=(5, 40)))
    part = low_rank_part(columns, jnp.asarray(5), 30)
    np.testing.assert_allclose(low_rank_part(1e-20 * columns, jnp.asarray(5), 30) * 1e20, part, rtol=1e-4, atol=1e-5)


def test_the_spectrum_s_derivative_is_right_at_repeated_eigenvalues_and_at_the_threshold():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        turn = jnp.asarray(np.linalg.qr(rng.normal(size=(6, 6)))[0])
        slope = rng.normal(size=(6, 6))
        slope = jnp.asarray(slope + slope.T)
        gram = turn @ jnp.diag(jnp.array([9.0, 9.0, 4.0, 0.5, 0.5, 0.0])) @ turn.T
        _, found = jax.jvp(shrinkage, (gram,), (slope,))
        numeric = (shrinkage(gram + 1e-6 * slope) - shrinkage(gram - 1e-6 * slope)) / 2e-6
        np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-7)
        assert jnp.isfinite(jax.jvp(shrinkage, (jnp.eye(6),), (slope,))[1]).all()


def test_iterations_of_zero_are_refused():
    with pytest.raises(ValueError, match="1 or more iterations expected, got 0"):
        robust_pca(2.0, 0)
