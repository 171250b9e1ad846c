"""Aggregation rules as the config names them: each makes the shared adapter that its function makes of the clients' own."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax import settings
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.algorithm.robust_pca import inverse_share
from pubswap_jax.field_table import CORRECTIONS
from pubswap_jax.fields import default_config
from pubswap_jax.policy.toyworld import TOY_CONFIG
from pubswap_jax.run import methods
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
    assert {*RULES, *CORRECTIONS} == set(next(f for f in settings.FIELDS if f.name == "federation.aggregate").choices)


@pytest.mark.parametrize("name", RULES)
def test_a_round_ends_with_what_the_rule_makes_of_the_clients_adapters(name):
    changes, rule = RULES[name]
    check_round(config_with(name, changes), rule())


def config_with(name, changes):
    config = default_config()
    fields = {"federation.aggregate": name, "federation.num_clients": 4, "training.max_new_tokens": 4} | changes
    for field, value in fields.items():
        settings.override(config, field, str(value))
    settings.check(config)
    return config


def check_round(config, rule):
    model, _, adapter = ps.toy(jax.random.key(0), TOY_CONFIG.replace(num_layers=1))
    federation = make_federation(config, model)
    state = federation.open(federation.init(adapter), direct)
    moved = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), state.clients.adapter)
    weights = jnp.array([1.0, 2.0, 0.0, 1.0])
    closed, _ = federation.close(state.replace(clients=state.clients.replace(adapter=moved)), direct, weights)
    expected, _ = jax.jit(rule.apply)(rule.init(adapter), adapter, moved, weights, jnp.zeros(4, jnp.int32))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), federation.shared(closed), expected)


def worked_example():
    """The first block of Python on the page about aggregation."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "aggregation.md"
    return re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[1]


@pytest.mark.slow
def test_the_page_s_own_rule_in_ten_lines_runs_by_config_and_in_python(tmp_path):
    code, found = worked_example(), {}
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "rules.py").write_text(code)
    exec(compile(code, "docs/aggregation.md", "exec"), found)
    half_step = found["half_step"]()
    check_round(config_with(f"{tmp_path / 'rules.py'}:half_step", {}), half_step)
    model, _, adapter = ps.toy(jax.random.key(0))
    federation = ps.pubswap(model, optax.identity(), num_clients=4, group=2, aggregator=half_step)
    state = federation.init(adapter)
    clients = state.clients.replace(adapter=jax.tree.map(lambda x: x + 1, state.clients.adapter))
    closed, _ = federation.close(state.replace(clients=clients), direct)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y + 0.5, rtol=1e-5), federation.shared(closed), adapter)


def test_a_function_that_returns_no_rule_is_named(tmp_path):
    (tmp_path / "rules.py").write_text("def wrong():\n    return 3\n")
    config = config_with(f"{tmp_path / 'rules.py'}:wrong", {})
    with pytest.raises(ValueError, match=r"rules.py:wrong: the function must return a pubswap_jax.Aggregator.* int"):
        make_federation(config, None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), [("scaffold", {}), ("fedecado", {"training.clip_norm": 0.0})])
def test_a_rule_with_a_half_in_the_clients_brings_both_halves(monkeypatch, name, changes):
    asked = []
    monkeypatch.setattr(methods, "pubswap", lambda model, tx, **how: asked.append((tx, how)))
    make_federation(config_with(name, changes), None)
    make_federation(config_with("mean", {}), None)
    (tx, ours), (usual_tx, usual) = asked
    adapter = {"layers": {"q_proj": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 2))}}}
    memory = ours["aggregator"].init(adapter)
    sent = jax.tree.map(lambda x: x[0], ours["aggregator"].sends(memory, 4))
    own = ours["correction"].init(adapter)
    received = ours["correction"].receive(own, sent)
    assert jax.tree.structure(received) == jax.tree.structure(own)
    jax.tree.map(np.testing.assert_array_equal, {n: received[n] for n in sent}, sent)
    assert usual["correction"] is ps.proximal() and usual["aggregator"] is ps.mean()
    plain = not jax.tree.leaves(tx.init(adapter))
    assert plain == (name == "fedecado") and jax.tree.leaves(usual_tx.init(adapter))
