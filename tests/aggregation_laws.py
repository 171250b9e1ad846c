"""Laws that every aggregation rule obeys, and the uploads that they are checked on."""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import broadcast

SHAPES = {"q_proj": (7, 6), "v_proj": (5, 4)}  # in, out


def uploads_of(clients=5, seed=0, lead=(), rank=2, spread=0.5):
    """A server's adapter and the clients' uploads near it, as numpy arrays in float64; `lead` is a scanned layer axis."""
    rng = np.random.default_rng(seed)
    shapes = {name: {"a": (*lead, wide, rank), "b": (*lead, rank, out)} for name, (wide, out) in SHAPES.items()}
    adapter = {"layers": jax.tree.map(lambda s: rng.normal(size=s), shapes, is_leaf=lambda s: isinstance(s, tuple))}
    common = jax.tree.map(lambda x: spread * rng.normal(size=x.shape), adapter)
    change = lambda x, d: x + d + spread * rng.normal(size=(clients, *x.shape))  # noqa: E731
    return adapter, jax.tree.map(change, adapter, common)


def as_dtype(tree, dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def next_adapter(rule, adapter, uploads, weights=None, extra=None):
    """The adapter after one call of a rule in its first state, and the rule's memory."""
    clients = jax.tree.leaves(uploads)[0].shape[0]
    weights = jnp.ones(clients) if weights is None else jnp.asarray(weights)
    return rule.apply(rule.init(adapter), adapter, uploads, weights, jnp.zeros(clients, jnp.int32), extra)


def assert_close(found, expected, tolerance=1e-5):
    compare = lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=tolerance, atol=tolerance)  # noqa: E731
    jax.tree.map(compare, found, expected)


def products(adapter):
    """A B of every pair."""
    return {name: np.asarray(pair["a"], float) @ np.asarray(pair["b"], float) for name, pair in adapter["layers"].items()}


def check_laws(make, *, view=lambda adapter: adapter, same=True, tolerance=2e-5):
    """Holds a rule to the laws; `view` is what of an adapter is compared, `same` whether equal uploads come back."""
    rule, weights = make(), np.array([1.0, 2.0, 0.5, 1.5, 3.0])
    jitted = jax.jit(lambda *args: next_adapter(make(), *args))
    run = lambda *args: jitted(*args)[0]  # noqa: E731
    close = lambda found, expected: assert_close(view(found), view(expected), tolerance)  # noqa: E731
    adapter, uploads = map(as_dtype, uploads_of(lead=(2,)))
    expected, memory = next_adapter(rule, adapter, uploads, weights)
    assert jax.tree.structure(memory) == jax.tree.structure(rule.init(adapter)), "the memory keeps its structure"
    assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, rule.init(adapter))
    close(run(adapter, uploads, weights), expected)
    close(run(adapter, uploads, 7.3 * weights), expected)
    order, there = np.array([3, 0, 4, 1, 2]), np.array([0, 1, 3, 4])
    close(run(adapter, jax.tree.map(lambda x: x[order], uploads), weights[order]), expected)

    absent = np.where(np.arange(5) == 2, 0.0, weights)
    poisoned = jax.tree.map(lambda x: x.at[2].set(jnp.nan), uploads)
    without = run(adapter, jax.tree.map(lambda x: x[there], uploads), weights[there])
    close(run(adapter, poisoned, absent), without)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(jitted(adapter, poisoned, np.zeros(5))))
    if same:
        one = jax.tree.map(lambda x: x[1], uploads)
        close(run(adapter, broadcast(one, 5), weights), one)
    with jax.enable_x64(True):
        wide = jax.jit(lambda *args: next_adapter(make(), *args))(
            *(as_dtype(x, jnp.float64) for x in uploads_of(lead=(2,))), weights
        )[0]
        assert all(x.dtype == jnp.float64 for x in jax.tree.leaves(wide))
        assert_close(view(wide), view(expected), 1e-4)


def check_gradient(make, tolerance=1e-6, lead=(), **case):
    """The gradient of a rule by uploads, adapter and weights equals finite differences, in float64, one client being absent."""
    with jax.enable_x64(True):
        adapter, uploads = (as_dtype(tree, jnp.float64) for tree in uploads_of(lead=lead, **case))
        clients = jax.tree.leaves(uploads)[0].shape[0]
        weights = jnp.arange(clients, dtype=float)
        rng = np.random.default_rng(5)
        probe = jax.tree.map(lambda x: rng.normal(size=x.shape), adapter)
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), (adapter, uploads))
        direction = (*direction, jnp.where(weights > 0, rng.normal(size=clients), 0.0))

        @jax.jit
        def value(point):
            found = next_adapter(make(), *point)[0]
            return sum(jnp.sum(p * x) for p, x in zip(jax.tree.leaves(probe), jax.tree.leaves(found), strict=True))

        point, step = (adapter, uploads, weights), 1e-6
        moved = lambda h: jax.tree.map(lambda x, d: x + h * d, point, direction)  # noqa: E731
        gradient = jax.grad(value)(point)
        assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
        along = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
        np.testing.assert_allclose(along, (value(moved(step)) - value(moved(-step))) / (2 * step), rtol=tolerance, atol=1e-6)
