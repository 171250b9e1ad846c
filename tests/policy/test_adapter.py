"""Adapter families: what they add, what merging adds, and where their frozen and trained arrays are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from small_models import SHALLOW, TINY, batch, projected

from pubswap_jax import Transformer, aggregation_residual, init_adapter, lora, response_logps, sample
from pubswap_jax.policy.adapter import all_factors, each_layer, init_basis, shapes

FAMILIES = {"lora": lora(3, 5.0), "projected": projected(3)}


@functools.cache
def adapted(name, scan=False):
    """A model, its base and an adapter of a family, all of whose arrays matter."""
    model = Transformer(TINY.replace(adapter=FAMILIES[name], scan_layers=scan))
    base = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    base = {"params": base["params"], "basis": init_basis(jax.random.key(1), model, base)}
    noise = np.random.default_rng(0)
    fresh = init_adapter(jax.random.key(2), model, base)
    return model, base, jax.tree.map(lambda x: x + jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype), fresh)


def test_equal_arguments_give_the_same_object():
    assert lora(4, 8.0) is lora(4, 8.0) and lora(4, 8.0) != lora(4, 9.0)
    assert hash(TINY.replace(adapter=lora(4, 8.0))) == hash(TINY.replace(adapter=lora(4, 8.0)))


def test_lora_by_hand():
    family, x = lora(2, 3.0), jnp.array([[1.0, 2.0]])
    layer = {"a": jnp.array([[1.0, 0.0], [0.0, 1.0]]), "b": jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])}
    np.testing.assert_allclose(family.apply(x, {}, layer), [[1.5, 3.0, 3.0]])
    np.testing.assert_allclose(family.delta({}, layer), [[1.5, 0.0, 3.0], [0.0, 1.5, 0.0]])
    assert family.upload(layer) is layer and family.download(layer) is layer
    assert family.peft({}, layer)[2] == 3.0 and family.settings == (("rank", 2), ("alpha", 3.0))
    assert shapes(family, 5, 7) == ({}, {"a": (5, 2), "b": (2, 7)})


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_adds_what_merging_it_adds(name, scan):
    model, base, adapter = adapted(name, scan)
    tokens = jnp.arange(12).reshape(2, 6)
    params, frozen, trained = (flatten_dict(tree) for tree in (base["params"], base["basis"], adapter))
    merged = dict(params)
    for path in {path[:-1] for path in trained}:
        own = [{leaf[-1]: x for leaf, x in tree.items() if leaf[:-1] == path} for tree in (frozen, trained)]
        merged[*path, "kernel"] = params[*path, "kernel"] + model.config.adapter.delta(*own)
    apply = jax.jit(model.apply)
    want = apply({"params": unflatten_dict(merged)}, tokens)
    np.testing.assert_allclose(apply(base | {"adapter": adapter}, tokens), want, rtol=1e-4, atol=1e-5)
    assert np.abs(want - apply(base, tokens)).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_the_sampler_and_the_scorer_agree_with_frozen_arrays(scan):
    model, base, adapter = adapted("projected", scan)
    prompts, _ = batch()
    one = functools.partial(jax.tree.map, lambda x: x[None])
    rollouts = sample(model, base, one(adapter), one(prompts), jax.random.key(0), group=2, max_new_tokens=5, eos_ids=())
    scored = response_logps(model, base, adapter, prompts, rollouts.tokens[0])
    np.testing.assert_allclose(rollouts.logps[0], scored, atol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_frozen_arrays_are_a_function_of_the_key_computed_in_float64(scan):
    model, base, _ = adapted("projected", scan)
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), {"params": base["params"]})
    again = init_basis(jax.random.key(1), model, half)
    jax.tree.map(np.testing.assert_array_equal, again, base["basis"])
    assert jax.tree.structure(again) == jax.tree.structure(base["basis"])
    for p in jax.tree.leaves(again):
        assert p.dtype == jnp.float32 and p.shape[-2:] in ((16, 3), (24, 3), (32, 3))
        wide = np.asarray(p, np.float64)
        np.testing.assert_allclose(
            np.swapaxes(wide, -1, -2) @ wide, np.broadcast_to(np.eye(3), (*p.shape[:-2], 3, 3)), atol=2e-7
        )
    other = init_basis(jax.random.key(3), model, half)
    assert all(np.abs(x - y).max() > 0.1 for x, y in zip(*map(jax.tree.leaves, (again, other)), strict=True))
    assert adapted("lora", scan)[1]["basis"] == {}


def test_gradients_reach_trained_arrays_only():
    model, base, adapter = adapted("projected")
    grad = jax.jit(jax.grad(lambda tree: response_logps(model, base, tree, *batch()).sum()))(adapter)
    assert {path[-1] for path in flatten_dict(grad)} == {"q"} and all(np.abs(x).max() > 0 for x in jax.tree.leaves(grad))


def test_mistakes_are_named():
    model, base, adapter = adapted("projected")
    with pytest.raises(ValueError, match=r"basis: q_proj has nothing; p \[16, 3\] expected .* projected \(rank 3\)"):
        response_logps(model, base | {"basis": {}}, adapter, *batch())
    with pytest.raises(ValueError, match=r"adapter: q_proj has a \[16, 3\] and b \[3, 32\]; q \[3, 32\] expected"):
        response_logps(model, base, adapted("lora")[2], *batch())
    bare = Transformer(SHALLOW.replace(adapter=None))
    with pytest.raises(ValueError, match="config.adapter: None"):
        init_adapter(jax.random.key(0), bare, base)
    with pytest.raises(ValueError, match="base: a dict with 'params' and 'basis' expected"):
        init_adapter(jax.random.key(0), model, base["params"])


@pytest.mark.parametrize("scan", [False, True])
def test_factors_of_stacked_clients(scan):
    model, base, adapter = adapted("projected", scan)
    family, clients = model.config.adapter, jax.tree.map(lambda x: jnp.stack([x, 2 * x]), adapter)
    pairs = all_factors(family, base["basis"], clients)
    p, q = pairs[0]
    np.testing.assert_allclose(p[0], p[1])
    np.testing.assert_allclose(p[1] @ q[1], 2 * p[0] @ q[0], rtol=1e-6)
    assert len(pairs) == len({path[:-1] for path in flatten_dict(adapter)})
    assert aggregation_residual(clients, None, family, base["basis"]) < 1e-6


def test_the_residual_is_that_of_a_and_b_whatever_alpha_is():
    _, _, adapter = adapted("lora")
    noise = np.random.default_rng(1)
    clients = jax.tree.map(lambda x: x[None] + jnp.asarray(noise.standard_normal((3, *x.shape)), x.dtype), adapter)
    plain = aggregation_residual(clients)
    assert plain > 0.1
    np.testing.assert_array_equal(plain, aggregation_residual(clients, None, lora(3, 6.0)))  # alpha / rank is a power of two
    np.testing.assert_allclose(plain, aggregation_residual(clients, None, lora(3, 5.0)), rtol=1e-5)


def test_each_layer_visits_layers_and_keeps_the_tree():
    tree = {"layers_0": {"mlp": {"up": {"a": 1, "b": 2}, "down": {"a": 3, "b": 4}}}}
    others = {"layers_0": {"mlp": {"up": {"c": 10}}}}
    found = each_layer(lambda layer, other: {"sum": sum(layer.values()) + other.get("c", 0)}, tree, others)
    assert found == {"layers_0": {"mlp": {"up": {"sum": 13}, "down": {"sum": 7}}}}
