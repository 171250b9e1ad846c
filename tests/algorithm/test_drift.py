"""Drift against the obvious: flattened adapters, one client after the other."""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import aggregation_residual
from pubswap_jax.algorithm.drift import drift, modules, opposing_share
from pubswap_jax.policy.families import ffa_lora, ravan


def tree(key, *lead):
    shapes = {
        "layers_0": {"mlp": {"up_proj": {"a": (4, 2), "b": (2, 6)}}},
        "layers_10": {"self_attn": {"q_proj": {"a": (4, 2), "b": (2, 4)}}},
    }
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [jax.random.normal(k, (*lead, *shape)) for k, shape in zip(keys, leaves, strict=True)])


def flat(adapter):
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(adapter)])


def test_norms_angles_and_modules(getkey):
    adapters, anchor = tree(getkey(), 3), tree(getkey())
    found = drift(adapters, anchor)
    moves = [flat(jax.tree.map(lambda x, a, i=i: x[i] - a, adapters, anchor)) for i in range(3)]
    np.testing.assert_allclose(found["drift"], [np.linalg.norm(m) for m in moves], rtol=1e-5)
    cosines = [[m @ n / np.linalg.norm(m) / np.linalg.norm(n) for n in moves] for m in moves]
    np.testing.assert_allclose(found["cosine"], cosines, atol=1e-5)
    assert modules(anchor) == ["layers_000/up_proj", "layers_010/q_proj"]
    squares = np.sum(np.square(found["drift_by_module"]), axis=1)
    np.testing.assert_allclose(squares, np.square(found["drift"]), rtol=1e-5)
    last = flat(jax.tree.map(lambda x, a: x[1] - a, adapters["layers_10"], anchor["layers_10"]))
    np.testing.assert_allclose(found["drift_by_module"][1, 1], np.linalg.norm(last), rtol=1e-5)
    np.testing.assert_allclose(found["residual"], aggregation_residual(adapters), rtol=1e-6)
    weights = jnp.array([0.5, 0.0, 0.5])
    np.testing.assert_array_equal(drift(adapters, anchor, weights)["opposing"], opposing_share(adapters, anchor, weights))


def test_nobody_moved(getkey):
    anchor = tree(getkey())
    found = drift(jax.tree.map(lambda x: jnp.stack([x, x]), anchor), anchor)
    assert all(np.isfinite(value).all() for value in found.values())
    assert found["drift"].tolist() == [0, 0] and found["cosine"].tolist() == [[0, 0], [0, 0]]


def test_stacked_layers_are_told_apart(getkey):
    stacked = {"layers": {"mlp": {"up_proj": {"a": jax.random.normal(getkey(), (3, 2, 4, 2)), "b": jnp.ones((3, 2, 2, 6))}}}}
    anchor = jax.tree.map(lambda x: x[0] * 0, stacked)
    apart = {f"layers_{i}": jax.tree.map(lambda x, i=i: x[:, i], stacked["layers"]) for i in range(2)}
    start = jax.tree.map(lambda x: x[0] * 0, apart)
    assert modules(anchor) == modules(start) == ["layers_000/up_proj", "layers_001/up_proj"]
    one, other = drift(stacked, anchor)["drift_by_module"], drift(apart, start)["drift_by_module"]
    assert one.shape == (3, 2)
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_units_that_oppose_the_mean_by_hand():
    anchor = {"layers_0": {"mlp": {"up_proj": {"a": jnp.ones((3, 2)), "b": jnp.zeros((2, 4))}}}}
    a, b = np.zeros((3, 3, 2)), np.zeros((3, 2, 4))
    a[:, 0, 0] = [2, 2, -1]  # unit 0 by its column of A: client 2 opposes
    b[:, 1, 3] = [1, -3, 1]  # unit 1 by its row of B: clients 0 and 2 oppose the mean of −1/3
    adapters = {"layers_0": {"mlp": {"up_proj": {"a": jnp.asarray(1 + a), "b": jnp.asarray(b)}}}}
    assert opposing_share(adapters, anchor).tolist() == [0.5, 0, 1]
    assert opposing_share(adapters, anchor, jnp.array([1.0, 0, 0])).tolist() == [0, 0.5, 0.5]
    still = jax.tree.map(lambda x: jnp.stack([x, x]), anchor)
    assert opposing_share(still, anchor).tolist() == [0, 0]


def test_units_that_oppose_the_mean_against_a_loop(getkey):
    adapters, anchor = tree(getkey(), 4), tree(getkey())
    counts = np.zeros(4)
    for stack, block, name in (("layers_0", "mlp", "up_proj"), ("layers_10", "self_attn", "q_proj")):
        pair, start = adapters[stack][block][name], anchor[stack][block][name]
        for k in range(2):
            moves = [np.concatenate([(pair["a"][i] - start["a"])[:, k], (pair["b"][i] - start["b"])[k]]) for i in range(4)]
            counts += [float(move @ np.mean(moves, 0) < 0) for move in moves]
    np.testing.assert_allclose(opposing_share(adapters, anchor), counts / 4)
    stacked = {"layers": jax.tree.map(lambda x: jnp.stack([x, x], 1), adapters["layers_0"])}  # two equal layers
    start = {"layers": jax.tree.map(lambda x: jnp.stack([x, x]), anchor["layers_0"])}
    alone = opposing_share({"layers_0": adapters["layers_0"]}, {"layers_0": anchor["layers_0"]})
    np.testing.assert_allclose(opposing_share(stacked, start), alone)


def test_units_of_a_family_that_trains_b_alone_and_of_one_without_units():
    anchor = {"layers_0": {"mlp": {"up_proj": {"b": jnp.zeros((2, 1))}}}}
    adapters = {"layers_0": {"mlp": {"up_proj": {"b": jnp.array([[[1.0], [1.0]], [[2.0], [-3.0]]])}}}}
    assert (
        opposing_share(adapters, anchor).tolist()
        == drift(adapters, anchor, None, ffa_lora(2, 4.0))["opposing"].tolist()
        == [0.5, 0]
    )
    heads = {"layers_0": {"mlp": {"up_proj": {"h": jnp.ones((3, 2, 4, 4)), "s": jnp.ones((3, 2))}}}}
    assert "opposing" not in drift(heads, jax.tree.map(lambda x: x[0], heads), None, ravan(2, 4))
