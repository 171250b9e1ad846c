"""Rules with a state at the server: Adam, FedExP, SCAFFOLD's control and FedBuff against loops written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from aggregation_laws import as_dtype, assert_close, check_gradient, check_laws, next_adapter, uploads_of

from pubswap_jax.algorithm.aggregation import alone, fedavg, mean
from pubswap_jax.algorithm.robust import median, norm_clip, trimmed_mean
from pubswap_jax.algorithm.server_optimizers import buffered, fedexp, fedopt, scaffold_rule

WEIGHTS = np.array([1.0, 2, 0, 1, 1])


def average(tree, weights):
    return jax.tree.map(lambda x: np.tensordot(weights / np.sum(weights), x, 1), tree)


def test_sgd_of_rate_one_is_the_mean():
    adapter, uploads = map(as_dtype, uploads_of())
    assert_close(next_adapter(fedopt(optax.sgd(1.0)), adapter, uploads, WEIGHTS)[0], fedavg(uploads, jnp.array(WEIGHTS)))


def test_adam_and_momentum_at_the_server_are_the_written_out_ones():
    rounds = [uploads_of(seed=seed)[1] for seed in range(4)]
    start = uploads_of()[0]
    adam, momentum = fedopt(optax.adam(0.1, 0.9, 0.99, eps=1e-3)), fedopt(optax.sgd(0.5, momentum=0.9))
    found = {}
    for name, rule in {"adam": adam, "momentum": momentum}.items():
        apply = jax.jit(rule.apply)
        adapter, memory = as_dtype(start), rule.init(as_dtype(start))
        for uploads in rounds:
            adapter, memory = apply(memory, adapter, as_dtype(uploads), jnp.array(WEIGHTS), jnp.zeros(5, jnp.int32))
        found[name] = adapter
    x, y, m, v, trace = start, start, *[jax.tree.map(np.zeros_like, start)] * 3
    for number, uploads in enumerate(rounds, 1):
        g = jax.tree.map(np.subtract, x, average(uploads, WEIGHTS))
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g**2, v, g)
        step = lambda x, m, v, t=number: x - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-3)  # noqa: E731
        x = jax.tree.map(step, x, m, v)
        trace = jax.tree.map(lambda t, y, u: 0.9 * t + y - u, trace, y, average(uploads, WEIGHTS))
        y = jax.tree.map(lambda y, t: y - 0.5 * t, y, trace)
    assert_close(found["adam"], x, 1e-4)
    assert_close(found["momentum"], y, 1e-4)


@pytest.mark.parametrize("eps", [1e-3, 50.0])
@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_fedexp_lengthens_the_step_where_clients_disagree(eps, spread):
    rng = np.random.default_rng(0)
    adapter, _ = uploads_of()
    uploads = jax.tree.map(lambda x: x + spread * rng.normal(size=(5, *x.shape)), adapter)
    share, change = WEIGHTS / WEIGHTS.sum(), jax.tree.map(lambda x, y: y - x, adapter, uploads)
    norms = sum(np.sum(d**2, axis=(1, 2)) for d in jax.tree.leaves(change))
    moved = average(change, WEIGHTS)
    eta = max(1.0, share @ norms / (2 * (sum(np.sum(d**2) for d in jax.tree.leaves(moved)) + eps)))
    assert (eta > 1.2) == (eps < 1)
    found = jax.jit(lambda *args: next_adapter(fedexp(eps), *args)[0])(*map(as_dtype, (adapter, uploads)), jnp.array(WEIGHTS))
    assert_close(found, jax.tree.map(lambda x, d: x + eta * d, adapter, moved), 1e-4)


RULES = {
    "fedopt": lambda: fedopt(optax.yogi(0.1)),
    "fedexp": lambda: fedexp(1e-3),
    "buffered": lambda: buffered(2),
    "nested": lambda: fedopt(optax.sgd(0.5), of=norm_clip(3.0, of=median())),
}


@pytest.mark.parametrize("name", RULES)
def test_laws(name):
    check_laws(RULES[name], same=name in ("fedexp", "buffered"), tolerance=1e-4)


@pytest.mark.parametrize(
    "rule", [lambda: fedopt(optax.sgd(0.7)), fedexp, lambda: buffered(2, 0.5)], ids=["opt", "exp", "buffer"]
)
def test_gradients(rule):
    check_gradient(rule)


def test_a_grid_of_server_rates_is_one_program():
    adapter, uploads = map(as_dtype, uploads_of())
    rates = jnp.array([0.1, 1.0])
    grid = jax.jit(jax.vmap(lambda rate: next_adapter(fedopt(optax.sgd(rate)), adapter, uploads)[0]))(rates)
    for i, rate in enumerate(rates.tolist()):
        assert_close(jax.tree.map(lambda x, i=i: x[i], grid), next_adapter(fedopt(optax.sgd(rate)), adapter, uploads)[0])


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_buffer_is_fedbuff_s_loop(decay):
    """Uploads arrive one at a time from changing clients, and one call brings two; every third makes a version."""
    size, rng = 3, np.random.default_rng(0)
    adapter = uploads_of()[0]
    rule = buffered(size, decay)
    apply, due = jax.jit(rule.apply), jax.jit(rule.due)
    found, memory = as_dtype(adapter), rule.init(as_dtype(adapter))
    expected, waiting = adapter, []
    for number, arriving in enumerate([(0,), (2,), (1,), (2,), (0, 1), (1,), (1,)]):
        uploads = uploads_of(seed=number)[1]
        staleness = rng.integers(0, 4, size=5)
        weights = np.isin(np.arange(5), arriving).astype(np.float32)
        poisoned = jax.tree.map(lambda y, w=weights: np.where(w.reshape(-1, 1, 1) > 0, y, np.nan), uploads)
        for client in arriving:
            factor = (1 + staleness[client]) ** -decay
            change = lambda x, y, c=client, f=factor: f * (y[c] - x)  # noqa: E731
            waiting.append(jax.tree.map(change, expected, uploads))
        full = len(waiting) >= size
        assert due(memory, jnp.array(weights)) == full
        found, memory = apply(memory, found, as_dtype(poisoned), jnp.array(weights), jnp.int32(staleness))
        if full:
            expected = jax.tree.map(lambda x, *d: x + sum(d) / len(d), expected, *waiting)
            waiting = []
        assert int(jnp.sum(memory["weights"] > 0)) == len(waiting)
        assert_close(found, expected)


def test_a_buffer_hands_all_of_its_uploads_to_another_rule_at_once():
    adapter, uploads = uploads_of(3)
    rule = buffered(3, of=trimmed_mean(1))
    found, memory = as_dtype(adapter), rule.init(as_dtype(adapter))
    for client in range(3):
        weights = jnp.float32(np.arange(3) == client)
        found, memory = jax.jit(rule.apply)(memory, found, as_dtype(uploads), weights, jnp.zeros(3, jnp.int32))
    assert_close(found, jax.tree.map(lambda y: np.median(y, axis=0), uploads))
    with pytest.raises(ValueError, match="size of 3 or more expected, since its rule needs as many clients; got 2"):
        buffered(2, of=trimmed_mean(1))
    with pytest.raises(ValueError, match="size of 1 or more"):
        buffered(0)


def test_the_control_grows_by_the_share_of_present_clients():
    adapter, uploads = uploads_of()
    deltas = jax.tree.map(lambda y: y - y.mean(), uploads)
    rule = scaffold_rule()
    poisoned = jax.tree.map(lambda y: np.where(WEIGHTS.reshape(-1, 1, 1) > 0, y, np.nan), (uploads, deltas))
    extra = {"control": as_dtype(poisoned[1])}
    found, memory = next_adapter(rule, as_dtype(adapter), as_dtype(poisoned[0]), WEIGHTS, extra)
    assert_close(found, average(uploads, WEIGHTS))
    assert_close(memory["control"], jax.tree.map(lambda d: 0.8 * d, average(deltas, WEIGHTS)))
    sent = rule.sends(memory, 5)["control"]
    jax.tree.map(lambda s, c: np.testing.assert_array_equal(s, np.stack([c] * 5)), sent, memory["control"])
    with pytest.raises(ValueError, match="control changes expected"):
        next_adapter(rule, as_dtype(adapter), as_dtype(uploads))


@pytest.mark.parametrize("of", [buffered(2), scaffold_rule(), alone()], ids=["buffered", "scaffold", "alone"])
def test_a_rule_that_does_more_than_average_cannot_be_inside_another(of):
    with pytest.raises(ValueError, match="of: a rule that only turns uploads into an adapter expected"):
        fedopt(optax.sgd(1.0), of=of)
    assert fedopt(optax.sgd(1.0), of=trimmed_mean(2)).needs == 5 and fedopt(optax.sgd(1.0), of=mean()).needs == 1
