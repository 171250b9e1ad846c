"""Median, trimmed mean and clipped norms against loops in numpy; hostile uploads; too few clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aggregation_laws import as_dtype, assert_close, check_gradient, check_laws, next_adapter, products, uploads_of

from pubswap_jax.algorithm.aggregation import mean
from pubswap_jax.algorithm.robust import median, norm_clip, trimmed_mean


def weighted_median(values, weights):
    """Of a few numbers: the mean of the smallest and the largest number that has half of the weight on either side."""
    inside = [v for v in values if all(weights[side(values, v)].sum() >= weights.sum() / 2 - 1e-9 for side in SIDES)]
    return (min(inside) + max(inside)) / 2


SIDES = (np.less_equal, np.greater_equal)


def trimmed(values, weights, k):
    order = np.argsort(values)[k : len(values) - k]
    return np.average(values[order], weights=weights[order])


@jax.jit
def run_median(adapter, uploads, weights):
    return next_adapter(median(), adapter, uploads, weights)[0]


def by_entry(function, uploads, weights):
    present = np.asarray(weights) > 0
    entry = lambda values: function(values[present], np.asarray(weights)[present])  # noqa: E731
    return jax.tree.map(lambda x: np.apply_along_axis(entry, 0, x), uploads)


@pytest.mark.parametrize("weights", [[1.0] * 5, [0.3] * 5, [1.0, 1, 0, 1, 1], [1.0, 2, 0.5, 1.5, 3], [0, 0, 1, 0, 2.0]])
def test_the_median_of_every_entry(weights):
    adapter, uploads = uploads_of()
    found = run_median(*map(as_dtype, (adapter, uploads)), jnp.array(weights))
    assert_close(found, by_entry(weighted_median, uploads, weights))
    if len(set(weights) - {0}) == 1:
        assert_close(found, jax.tree.map(lambda x: np.median(x[np.asarray(weights) > 0], axis=0), uploads))


@pytest.mark.parametrize("k,weights", [(0, [1.0, 2, 0, 1, 1]), (1, [1.0] * 5), (1, [1.0, 2, 0, 1.5, 3]), (2, [1.0] * 5)])
def test_the_trimmed_mean_of_every_entry(k, weights):
    adapter, uploads = uploads_of()
    found = next_adapter(trimmed_mean(k), *map(as_dtype, (adapter, uploads)), weights)[0]
    assert_close(found, by_entry(lambda values, w: trimmed(values, w, k), uploads, weights))


@pytest.mark.parametrize("limit", [0.1, 3.0, 1e9])
def test_norms_are_clipped_over_the_whole_adapter(limit):
    adapter, uploads = uploads_of()
    weights = np.array([1.0, 2, 0, 1, 1])
    expected = jax.tree.map(np.copy, adapter)
    for client, weight in enumerate(weights / weights.sum()):
        change = jax.tree.map(lambda y, x, client=client: y[client] - x, uploads, adapter)
        norm = np.sqrt(sum(np.sum(d**2) for d in jax.tree.leaves(change)))
        factor = weight * min(1, limit / norm)
        expected = jax.tree.map(lambda x, d, factor=factor: x + factor * d, expected, change)
    assert_close(next_adapter(norm_clip(limit), *map(as_dtype, (adapter, uploads)), weights)[0], expected)


@pytest.mark.parametrize("make", [median, lambda: trimmed_mean(1), lambda: norm_clip(30.0)], ids=["median", "trimmed", "clip"])
def test_laws(make):
    check_laws(make)
    check_gradient(make, clients=6)


ATTACKS = {
    "sign flip": lambda x, y: 2 * x - y,
    "times 100": lambda x, y: x + 100 * (y - x),
    "gaussian": lambda x, y: x + 50 * np.random.default_rng(1).normal(size=x.shape),
    "nan": lambda x, y: np.full_like(x, np.nan),
    "infinite": lambda x, y: np.full_like(x, np.inf),
    "huge": lambda x, y: np.full_like(x, 1e30),
}


@pytest.mark.parametrize("clients,hostile", [(4, 1), (8, 2)])
@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_hostile_clients_stay_within_the_range_of_the_honest_ones(name, clients, hostile):
    adapter, uploads = uploads_of(clients)
    honest = jax.tree.map(lambda y: y[hostile:], uploads)
    rule = median() if name == "median" else trimmed_mean(hostile)
    run = jax.jit(lambda *args: next_adapter(rule, *args)[0])
    for attack in ATTACKS.values():
        hostile_uploads = [jax.tree.map(lambda x, y, i=i: attack(x, y[i]), adapter, uploads) for i in range(hostile)]  # noqa: B023
        attacked = jax.tree.map(lambda y, *bad: np.stack([*bad, *y]), honest, *hostile_uploads)
        found = run(*map(as_dtype, (adapter, attacked)))
        inside = jax.tree.map(lambda f, y: (f >= y.min(0) - 1e-5).all() and (f <= y.max(0) + 1e-5).all(), found, honest)
        assert all(jax.tree.leaves(inside))


def test_a_pair_scaled_by_c_and_by_one_over_c_is_an_outlier_although_its_product_is_honest():
    adapter, uploads = uploads_of(4, spread=0.05)
    scaled = jax.tree.map(np.copy, uploads)
    for pair in scaled["layers"].values():
        pair["a"][0] *= 100
        pair["b"][0] /= 100
    honest = products(jax.tree.map(lambda y: y[1:].mean(0), uploads))
    errors = {}
    for name, rule in {"median": median(), "trimmed": trimmed_mean(1), "clip": norm_clip(0.5), "mean": mean()}.items():
        found = products(next_adapter(rule, *map(as_dtype, (adapter, scaled)))[0])
        errors[name] = max(np.linalg.norm(found[n] - honest[n]) / np.linalg.norm(honest[n]) for n in honest)
    assert max(errors["median"], errors["trimmed"], errors["clip"]) < 0.2 and errors["mean"] > 5, errors


def test_a_sign_flip_of_the_usual_norm_passes_the_clip_and_not_the_median():
    adapter, uploads = uploads_of(4, spread=0.05)
    flipped = jax.tree.map(lambda x, y: np.stack([2 * x - y[0], *y[1:]]), adapter, uploads)
    honest = jax.tree.map(lambda y: y[1:].mean(0), uploads)
    distance = lambda tree: np.sqrt(  # noqa: E731
        sum(np.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(honest), strict=True))
    )
    clipped, voted, plain = (
        distance(next_adapter(rule, *map(as_dtype, (adapter, flipped)))[0]) for rule in (norm_clip(1e3), median(), mean())
    )
    np.testing.assert_allclose(clipped, plain, rtol=1e-5)
    assert voted < plain


def test_too_few_clients_are_an_error_before_anything_runs():
    adapter, uploads = map(as_dtype, uploads_of(4))
    assert trimmed_mean(2).needs == 5 and median().needs == 1 and norm_clip(1.0, of=trimmed_mean(2)).needs == 5
    with pytest.raises(ValueError, match=r"trimmed_mean\(2\): at least 5 clients expected, got 4 of 4"):
        jax.jit(lambda *args: next_adapter(trimmed_mean(2), *args))(adapter, uploads)
    with pytest.raises(ValueError, match=r"trimmed_mean\(1\): at least 3 clients expected, got 2 of 4"):
        next_adapter(trimmed_mean(1), adapter, uploads, [1.0, 0, 0, 1])
    with pytest.raises(ValueError, match="k of 0 or more"):
        trimmed_mean(-1)
    kept = jax.jit(lambda w: next_adapter(trimmed_mean(1), adapter, uploads, w)[0])(jnp.array([1.0, 0, 0, 1]))
    assert_close(kept, adapter)


def test_a_grid_of_knobs_is_one_program():
    adapter, uploads = map(as_dtype, uploads_of())
    limits, ks = jnp.array([0.5, 2.0, 8.0]), jnp.arange(3)
    for make, knobs in ((norm_clip, limits), (trimmed_mean, ks)):
        grid = jax.jit(jax.vmap(lambda knob, make=make: next_adapter(make(knob), adapter, uploads)[0]))(knobs)
        for i, knob in enumerate(knobs.tolist()):
            assert_close(jax.tree.map(lambda x, i=i: x[i], grid), next_adapter(make(knob), adapter, uploads)[0])


def test_a_thousand_random_trees_give_finite_adapters():
    rng = np.random.default_rng(3)
    values = rng.choice([0.0, 1.0, -1e-30, 1e30, np.inf, -np.inf, np.nan, 3.0, 1e6], size=(1000, 5, 4, 3), p=[0.2] + [0.1] * 8)
    weights = jnp.asarray(rng.choice([0.0, 1.0, 2.5], size=(1000, 5)), jnp.float32)
    adapter = {"a": jnp.zeros((4, 3))}
    for rule in (median(), trimmed_mean(1), norm_clip(1.0)):
        found = jax.jit(jax.vmap(lambda u, w, rule=rule: next_adapter(rule, adapter, {"a": u}, w)[0]))(
            jnp.asarray(values, jnp.float32), weights
        )
        assert jnp.isfinite(found["a"]).all()
