"""Adapter families with an exact average: ΔW is linear in what crosses, frozen arrays are shared and orthogonal."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import pubswap_jax as ps
from pubswap_jax.policy.adapter import basis_shapes, described, each_layer, init_adapter, init_basis
from pubswap_jax.policy.toyworld import TOY_CONFIG

FAMILIES = {"ffa_lora": ps.ffa_lora(2, 4.0), "ravan": ps.ravan(2, 2), "lora": ps.lora(2, 4.0)}


def moved(tree, key, size=0.3):
    keys = iter(jax.random.split(key, len(jax.tree.leaves(tree))))
    return jax.tree.map(lambda x: x + size * jax.random.normal(next(keys), x.shape, x.dtype), tree)


@pytest.mark.parametrize("stack", [(), (3,)])
@pytest.mark.parametrize("name", FAMILIES)
def test_apply_is_the_product_with_the_factors(name, stack, getkey):
    family = FAMILIES[name]
    frozen, trained = family.init(getkey(), 6, 5, stack)
    trained = moved(trained, getkey())
    x, delta = jax.random.normal(getkey(), (4, 6)), family.delta(frozen, trained)
    assert delta.shape == (*stack, 6, 5)
    one = [jax.tree.map(lambda a: a[0], part) if stack else part for part in (frozen, trained)]
    np.testing.assert_allclose(family.apply(x, *one), x @ (delta[0] if stack else delta), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ffa_lora", "ravan"])
def test_the_mean_of_the_clients_changes_is_the_change_of_the_mean(name, getkey):
    family = FAMILIES[name]
    frozen, trained = family.init(getkey(), 6, 5)
    clients = [moved(trained, getkey()) for _ in range(3)]
    crossed = jax.tree.map(lambda *x: jnp.stack(x).mean(0), *[family.upload(one) for one in clients])
    mean = sum(family.delta(frozen, one) for one in clients) / 3
    np.testing.assert_allclose(family.delta(frozen, family.download(crossed)), mean, atol=1e-6)


def test_lora_shows_the_residual_that_the_others_do_not_have(getkey):
    family = FAMILIES["lora"]
    frozen, trained = family.init(getkey(), 6, 5)
    clients = [moved(trained, getkey()) for _ in range(3)]
    crossed = jax.tree.map(lambda *x: jnp.stack(x).mean(0), *clients)
    mean = sum(family.delta(frozen, one) for one in clients) / 3
    assert np.abs(family.delta(frozen, crossed) - mean).max() > 1e-2


def test_ravans_heads_are_orthogonal_and_reach_the_rank_of_all_heads(getkey):
    frozen, trained = ps.ravan(3, 2).init(getkey(), 9, 8)
    left = np.moveaxis(frozen["a"], 0, 1).reshape(9, 6)
    np.testing.assert_allclose(left.T @ left, np.eye(6), atol=1e-5)
    right = np.asarray(frozen["b"]).reshape(6, 8)
    np.testing.assert_allclose(right @ right.T, np.eye(6), atol=1e-5)
    assert not ps.ravan(3, 2).delta(frozen, trained).any()
    assert np.linalg.matrix_rank(ps.ravan(3, 2).delta(frozen, moved(trained, getkey()))) == 6


def test_random_bases_are_normal_of_norm_1_and_reach_the_same_rank(getkey):
    family = ps.ravan(3, 2, "random")
    assert family is ps.ravan(3, 2, bases="random") and ps.ravan(3, 2) is ps.ravan(3, 2, "orthogonal") is not family
    frozen, trained = family.init(getkey(), 400, 300)
    np.testing.assert_allclose(np.linalg.norm(frozen["a"], axis=-2).mean(), 1, atol=0.1)
    np.testing.assert_allclose(np.linalg.norm(frozen["b"], axis=-1).mean(), 1, atol=0.1)
    left = np.moveaxis(frozen["a"], 0, 1).reshape(400, 6)
    assert 1e-3 < np.abs(left.T @ left - np.diag(np.diag(left.T @ left))).max() < 0.3
    assert np.linalg.matrix_rank(family.delta(frozen, moved(trained, getkey()))) == 6
    assert described(family) == "ravan (heads 3, rank 2, bases random)"
    with pytest.raises(ValueError, match="bases: one of orthogonal, random expected, got 'gram'"):
        ps.ravan(3, 2, "gram")


@pytest.mark.parametrize("name", ["ffa_lora", "ravan"])
def test_exported_factors_hold_the_frozen_a_as_it_is(name, getkey):
    family = FAMILIES[name]
    frozen, trained = family.init(getkey(), 6, 5)
    left = (family.peft or family.factors)(frozen, moved(trained, getkey()))[0]
    np.testing.assert_array_equal(left, frozen["a"] if name == "ffa_lora" else np.moveaxis(frozen["a"], 0, 1).reshape(6, 4))


def test_gradients_reach_the_heads_and_their_scales_only():
    model, base, adapter = ps.toy(jax.random.key(0), TOY_CONFIG.replace(adapter=FAMILIES["ravan"], num_layers=1))
    adapter = moved(adapter, jax.random.key(1))
    gradient = jax.jit(jax.grad(lambda x: ps.response_logps(model, base, x, *ps.toy_targets).sum()))(adapter)
    by_name = {"h": [], "s": []}
    for path, leaf in flatten_dict(gradient).items():
        by_name[path[-1]].append(np.abs(leaf).min())
    assert {name: len(found) for name, found in by_name.items()} == {"h": 7, "s": 7}
    assert min(map(min, by_name.values())) > 0


@pytest.mark.parametrize("name", ["lora", "ffa_lora", "ravan"])
def test_the_residual_is_that_of_what_crosses(name):
    """Over the layers of a model: the mean of the clients' changes against the change of the averaged adapter."""
    family = FAMILIES[name]
    model, base, adapter = ps.toy(jax.random.key(0), TOY_CONFIG.replace(adapter=family))
    clients = [moved(adapter, key) for key in jax.random.split(jax.random.key(1), 3)]
    crossed = ps.fedavg(jax.tree.map(lambda *x: jnp.stack(x), *[each_layer(family.upload, one) for one in clients]))
    shared, errors = each_layer(family.download, crossed), []

    def of_layer(averaged, frozen, *own):
        change = sum(family.delta(frozen, one) for one in own) / 3
        errors.append(np.abs(family.delta(frozen, averaged) - change).max())
        return {}

    each_layer(of_layer, shared, base["basis"], *clients)
    assert len(errors) == 14 and (min(errors) > 1e-2 if name == "lora" else max(errors) < 1e-6)


def test_heads_that_do_not_fit_are_an_error_with_the_sizes(getkey):
    with pytest.raises(ValueError, match=r"ravan: 4 heads of rank 2 need 8 orthogonal directions, and a layer of 6 x 9 has 6"):
        ps.ravan(4, 2).init(getkey(), 6, 9)
    config = TOY_CONFIG.replace(adapter=ps.ravan(5, 2))
    model, base, _ = ps.toy(jax.random.key(0))
    for function in (lambda model: init_basis(getkey(), model, base), lambda model: init_adapter(getkey(), model, base)):
        with pytest.raises(ValueError, match="^layers_0/self_attn/k_proj: ravan: 5 heads of rank 2 need 10 .* 16 x 8 has 8;"):
            function(ps.Transformer(config))


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_shapes_of_frozen_arrays_are_known_without_computing_them(scan):
    model, base, _ = ps.toy(jax.random.key(0), TOY_CONFIG.replace(adapter=FAMILIES["ravan"], scan_layers=scan))
    found = basis_shapes(model, {"params": base["params"]})
    assert jax.tree.map(lambda x: (x.shape, x.dtype), base["basis"]) == jax.tree.map(lambda x: (x.shape, x.dtype), found)


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["ffa_lora", "ravan"])
def test_a_round_of_the_family(name, scan):
    """Sampler and scorer agree, and what crosses is what the family uploads: frozen arrays do not."""
    config = TOY_CONFIG.replace(adapter=FAMILIES[name], scan_layers=scan)
    model, base, adapter = ps.toy(jax.random.key(0), config)
    again = init_basis(jax.random.key(7), model, base)
    assert jax.tree.structure(again) == jax.tree.structure(base["basis"]) and jax.tree.leaves(again)
    crossed = []

    def noted(record):
        crossed.append(record)
        return record

    channel = ps.Channel(noted, noted)
    federation = ps.pubswap(model, optax.scale_by_adam(), num_clients=3, group=4)
    state = federation.open(federation.init(adapter), channel)
    batches = ps.toy_batches(jax.random.key(1), 3)
    for step, batch in enumerate(batches):
        key, hparams = jax.random.key(step), ps.Hparams.create(lr=0.05)
        state, seen = federation.step(base, state, batch, ps.parity_judge, channel, key, hparams)
    assert np.abs(seen.metrics["sampler_gap"]).max() < 1e-5
    state, figures = federation.close(state, channel)
    sizes = {sum(x.size for x in jax.tree.leaves(r.arrays)) for r in crossed if r.kind == "adapters"}
    trained = each_layer(FAMILIES[name].upload, adapter)
    assert sizes == {3 * sum(x.size for x in jax.tree.leaves(trained))}
    shared = federation.shared(state)
    assert jax.tree.structure(shared) == jax.tree.structure(adapter)
    moved_by = ps.response_logps(model, base, shared, *ps.toy_targets) - ps.response_logps(model, base, None, *ps.toy_targets)
    assert np.abs(moved_by).max() > 1e-3 and figures["residual"] == 0
