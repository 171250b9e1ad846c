"""Aggregation rules as the config names them: each makes the shared adapter that its function makes of the clients' own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax import settings
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.algorithm.robust_pca import inverse_share
from pubswap_jax.fields import default_config
from pubswap_jax.run.methods import make_federation

RULES = {
    "mean": ({}, ps.mean),
    "median": ({}, ps.median),
    "trimmed_mean": ({"federation.trim": 1}, lambda: ps.trimmed_mean(1)),
    "norm_clip": ({"federation.clip_norm": 0.1}, lambda: ps.norm_clip(0.1)),
    "product_svd": ({}, ps.product_svd),
    "robust_pca": ({"federation.beta": 0.0}, lambda: ps.robust_pca(inverse_share())),
    "fedexp": ({}, ps.fedexp),
    "fedavgm": ({"federation.server_momentum": 0.5, "federation.server_lr": 0.7}, lambda: ps.fedopt(optax.sgd(0.7, 0.5))),
    "fedadam": ({"federation.server_lr": 0.3}, lambda: ps.fedopt(optax.adam(0.3, 0.9, 0.99, eps=1e-3))),
    "fedyogi": ({"federation.server_lr": 0.3}, lambda: ps.fedopt(optax.yogi(0.3, 0.9, 0.99, eps=1e-3))),
}


def test_every_rule_of_the_table_is_here():
    assert set(RULES) == set(next(f for f in settings.FIELDS if f.name == "federation.aggregate").choices)


@pytest.mark.parametrize("name", RULES)
def test_a_round_ends_with_what_the_rule_makes_of_the_clients_adapters(name):
    changes, rule = RULES[name]
    config = default_config()
    fields = {"federation.aggregate": name, "federation.num_clients": 4, "training.max_new_tokens": 4} | changes
    for field, value in fields.items():
        settings.override(config, field, str(value))
    settings.check(config)
    model, _, adapter = ps.toy(jax.random.key(0))
    federation = make_federation(config, model)
    state = federation.open(federation.init(adapter), direct)
    moved = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), state.clients.adapter)
    weights = jnp.array([1.0, 2.0, 0.0, 1.0])
    closed, _ = federation.close(state.replace(clients=state.clients.replace(adapter=moved)), direct, weights)
    expected, _ = rule().apply(rule().init(adapter), adapter, moved, weights, jnp.zeros(4, jnp.int32))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), federation.shared(closed), expected)
