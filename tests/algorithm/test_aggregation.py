"""Averages and their residual: numbers, linearity, absence, and the obvious form that multiplies B·A out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.algorithm import aggregation
from pubswap_jax.algorithm.aggregation import alone, fedavg, mean


def some_adapters(getkey, clients=3, sizes=((5, 4), (4, 6)), rank=2):
    """A nested tree of adapters [C, ...], none of them zero."""
    pair = lambda wide, out: {  # noqa: E731
        "a": jax.random.normal(getkey(), (clients, wide, rank)),
        "b": jax.random.normal(getkey(), (clients, rank, out)),
    }
    return {f"layers_{i}": {"self_attn": {"q_proj": pair(*size)}} for i, size in enumerate(sizes)}


def residual_by_products(adapters, weights):
    """‖mean(BA) − mean(B)mean(A)‖ / ‖mean(BA)‖ with every product formed."""
    share = np.asarray(weights) / np.sum(weights)
    error = whole = 0.0
    for layer in adapters.values():
        a, b = (np.asarray(layer["self_attn"]["q_proj"][name], np.float64) for name in "ab")
        mean = sum(w * x @ y for w, x, y in zip(share, a, b, strict=True))
        apart = np.tensordot(share, a, 1) @ np.tensordot(share, b, 1)
        error += np.sum((mean - apart) ** 2)
        whole += np.sum(mean**2)
    return np.sqrt(error / whole)


def test_broadcast_then_average_is_the_identity(getkey):
    tree = jax.tree.map(lambda x: x[0], some_adapters(getkey))
    stacked = aggregation.broadcast(tree, 4)
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(stacked))
    jax.tree.map(np.testing.assert_array_equal, aggregation.fedavg(stacked), tree)


def test_weighted_mean():
    x = {"x": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "count": jnp.array([3, 3])}
    mean = aggregation.fedavg(x, jnp.array([3.0, 1.0]))
    assert mean["x"].tolist() == [1.5, 3.0]
    assert mean["count"] == 3 and mean["count"].dtype == x["count"].dtype
    assert aggregation.fedavg(x["x"]).tolist() == [2.0, 4.0]
    assert aggregation.fedavg(x["x"], jnp.array([1, 3])).tolist() == [2.5, 5.0]


def test_linearity_and_relabelling(getkey):
    x, y, weights = some_adapters(getkey), some_adapters(getkey), jnp.array([1.0, 2.0, 0.5])
    both = aggregation.fedavg(jax.tree.map(lambda a, b: 2 * a - b, x, y), weights)
    apart = jax.tree.map(lambda a, b: 2 * a - b, aggregation.fedavg(x, weights), aggregation.fedavg(y, weights))
    order = np.array([2, 0, 1])
    relabelled = aggregation.fedavg(jax.tree.map(lambda a: a[order], x), weights[order])
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
    jax.tree.map(close, both, apart)
    jax.tree.map(close, relabelled, aggregation.fedavg(x, weights))


def test_an_absent_client_changes_nothing_even_full_of_nan(getkey):
    x = jax.random.normal(getkey(), (3, 4))
    poisoned = x.at[1].set(jnp.nan)
    weights = jnp.array([2.0, 0.0, 1.0])
    np.testing.assert_array_equal(aggregation.fedavg(poisoned, weights), aggregation.fedavg(x, weights))
    adapters = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), some_adapters(getkey))
    assert jnp.isfinite(aggregation.aggregation_residual(adapters, weights))
    gradient = jax.grad(lambda w: aggregation.fedavg(poisoned, w).sum())(weights)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("weights", [[0.0, 0, 0], [1.0, -1, 1], [1.0, np.nan, 1], [1.0, 1]])
def test_useless_weights_raise_and_are_named(weights):
    with pytest.raises(ValueError, match="weights: .*expected; got"):
        aggregation.fedavg(jnp.ones((3, 2)), jnp.asarray(weights))


def test_traced_weights_that_sum_to_zero_give_no_nan():
    mean = jax.jit(aggregation.fedavg)(jnp.ones((3, 2)), jnp.zeros(3))
    assert mean.tolist() == [0, 0]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30, 1e7])
def test_a_tree_without_a_sound_norm_may_have_no_weight(getkey, poison):
    trees = {"a": jax.random.normal(getkey(), (4, 3, 2)), "count": jnp.arange(4), "b": jnp.zeros((4, 5)).at[2, 1].set(poison)}
    assert aggregation.sound(trees).tolist() == [True, True, False, True]
    weights = jnp.where(aggregation.sound(trees), jnp.array([0.0, 1.0, 5.0, 3.0]), 0)
    honest = jax.tree.map(lambda x: x[jnp.array([0, 1, 3])], trees)
    mean, expected = aggregation.fedavg(trees, weights), aggregation.fedavg(honest, jnp.array([0.0, 1.0, 3.0]))
    assert mean["a"].tobytes() == expected["a"].tobytes() and np.isfinite(mean["b"]).all()
    kept = aggregation.choose(aggregation.sound(trees), trees, jax.tree.map(jnp.zeros_like, trees))
    assert not kept["a"][2].any() and np.array_equal(kept["a"][3], trees["a"][3]) and np.isfinite(kept["b"]).all()


def test_proximal_penalty_and_its_gradient(getkey):
    adapter, anchor = (jax.tree.map(lambda x: x[0], some_adapters(getkey)) for _ in range(2))
    squares = sum(
        np.sum((np.asarray(x) - y) ** 2) for x, y in zip(jax.tree.leaves(adapter), jax.tree.leaves(anchor), strict=True)
    )
    np.testing.assert_allclose(aggregation.proximal_penalty(adapter, anchor), squares / 2, rtol=1e-6)
    gradient = jax.grad(aggregation.proximal_penalty)(adapter, anchor)
    jax.tree.map(lambda g, x, y: np.testing.assert_allclose(g, x - y, rtol=1e-6), gradient, adapter, anchor)


@pytest.mark.parametrize("weights", [[1.0, 1, 1], [0.2, 3, 1], [1.0, 0, 2]])
def test_residual_equals_the_products(getkey, weights):
    adapters = some_adapters(getkey)
    residual = aggregation.aggregation_residual(adapters, jnp.asarray(weights))
    np.testing.assert_allclose(residual, residual_by_products(adapters, weights), rtol=1e-5)


def test_residual_of_equal_clients_and_of_a_fresh_adapter(getkey):
    adapters = some_adapters(getkey)
    same = jax.tree.map(lambda x: jnp.stack([x[0]] * 3), adapters)
    assert aggregation.aggregation_residual(same) < 1e-6
    assert aggregation.aggregation_residual(jax.tree.map(lambda x: x[:1], adapters)) == 0
    fresh = {"q_proj": {"a": jnp.ones((3, 4, 2)), "b": jnp.zeros((3, 2, 4))}}
    assert aggregation.aggregation_residual(fresh) == 0
    assert jnp.isfinite(jax.grad(lambda t: aggregation.aggregation_residual(t))(fresh)["q_proj"]["a"]).all()


def test_residual_of_layers_that_are_stacked_for_a_scan(getkey):
    adapters = some_adapters(getkey, sizes=((5, 4), (5, 4)))
    pairs = [layer["self_attn"]["q_proj"] for layer in adapters.values()]
    stacked = {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *pairs)}
    np.testing.assert_allclose(aggregation.aggregation_residual(stacked), aggregation.aggregation_residual(adapters), rtol=1e-5)


def test_the_mean_is_fedavg_and_alone_changes_nothing(getkey):
    trees, weights = {"q": {"a": jax.random.normal(getkey(), (3, 4, 2))}}, jnp.array([1.0, 0.0, 2.0])
    adapter = jax.tree.map(lambda x: x[1], trees)
    for rule, expected in ((mean(), fedavg(trees, weights)), (alone(), adapter)):
        found, memory = rule.apply(rule.init(adapter), adapter, trees, weights, jnp.zeros(3, jnp.int32))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert memory == () and rule.due(memory, weights)
    assert mean() is mean() and mean().shares and not alone().shares, "equal rules are one object: nothing compiles twice"


def test_helpers_of_rules_leave_absent_clients_out(getkey):
    uploads, weights = {"a": jax.random.normal(getkey(), (3, 4, 2)).at[1].set(jnp.nan)}, jnp.array([1.0, 0.0, 3.0])
    adapter = {"a": jnp.ones((4, 2))}
    change = aggregation.changes(adapter, uploads, weights)
    np.testing.assert_allclose(change["a"], np.where([[[1]], [[0]], [[1]]], uploads["a"] - 1, 0), rtol=1e-6)
    np.testing.assert_allclose(aggregation.squared_norms(change), np.sum(np.square(change["a"]), axis=(1, 2)), rtol=1e-6)
    assert aggregation.shares_of(weights, 3).tolist() == [0.25, 0, 0.75]
    assert aggregation.weights_of(uploads, None).tolist() == [1, 1, 1]
    assert jax.jit(lambda w: aggregation.shares_of(w, 3))(jnp.zeros(3)).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="median of means: at least 3 clients expected, got 2 of 3"):
        aggregation.check_enough("median of means", 3, weights, 3)
    with pytest.raises(ValueError, match="got 3 of 3"):
        jax.jit(lambda w: aggregation.check_enough("x", 4, w, 3))(weights)
    aggregation.check_enough("x", 2, weights, 3)


def test_weights_by_gain():
    weights, baseline = jnp.array([1.0, 1.0, 0.0, 2.0]), jnp.array([0.4, 0.4, 0.2, jnp.nan])
    reward = jnp.array([0.4, 0.9, jnp.nan, 0.5])
    found, following = jax.jit(aggregation.gain_weights)(weights, reward, baseline)
    expected = np.array([1.0, np.exp(0.5 / 0.5), 0.0, 2.0])  # gains 0, 1, absent, 0 for a first round
    np.testing.assert_allclose(found, expected * 4 / expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(following, [0.4, 0.45, 0.2, 0.5], rtol=1e-6)
    assert jax.jit(aggregation.gain_weights)(jnp.zeros(4), reward, baseline)[0].tolist() == [0, 0, 0, 0]
    extreme, _ = aggregation.gain_weights(jnp.ones(2), jnp.array([1e4, 0.0]), jnp.zeros(2))
    assert jnp.isfinite(extreme).all()
