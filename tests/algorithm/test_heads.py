"""Partial heads: the server draws them, only they move, and a head's mean is over the clients that trained it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm.aggregation import broadcast, fedavg
from pubswap_jax.algorithm.heads import given_heads, partial_heads

COUNTS, HEADS = (3, 2, 1), 3


def test_every_client_gets_its_number_of_heads_and_others_in_other_rounds():
    rule = partial_heads(COUNTS, HEADS, seed=5)
    drawn = np.array([rule.sends(jnp.array(round), 3)["heads"] for round in range(12)])
    assert (drawn.sum(-1) == COUNTS).all()
    assert drawn[:, 2].any(0).all() and (drawn[:, 1] != drawn[0, 1]).any()
    assert (drawn != np.array([partial_heads(COUNTS, HEADS, 6).sends(jnp.array(r), 3)["heads"] for r in range(12)])).any()
    with pytest.raises(ValueError, match="numbers from 1 to 3 heads expected"):
        partial_heads((4, 1), HEADS)
    with pytest.raises(ValueError, match="one number for each of 4 clients expected, got 3"):
        rule.sends(jnp.array(0), 4)


@pytest.mark.parametrize("stack", [(), (2,)])
@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0], [0.0, 2.0, 1.0], [0.0, 0.0, 2.0]])
def test_the_mean_of_a_head_is_over_the_clients_that_trained_it(stack, weights, getkey):
    rule = partial_heads(COUNTS, HEADS)
    adapter = {"layers": {"q_proj": {"h": jax.random.normal(getkey(), (*stack, HEADS, 2, 2))}}}
    uploads = jax.tree.map(lambda x: x + jax.random.normal(getkey(), x.shape), broadcast(adapter, 3))
    absent = np.array(weights) == 0
    uploads = jax.tree.map(lambda x: jnp.where(absent.reshape(-1, *[1] * (x.ndim - 1)), jnp.nan, x), uploads)
    trained = np.asarray(rule.sends(jnp.array(0), 3)["heads"])
    found, memory = rule.apply(jnp.array(0), adapter, uploads, jnp.array(weights), jnp.zeros(3, jnp.int32))
    ours, before, theirs = (np.asarray(tree["layers"]["q_proj"]["h"]) for tree in (found, adapter, uploads))
    kept = 0
    for head in range(HEADS):
        who = [c for c in range(3) if trained[c, head] and weights[c] > 0]
        total = sum(weights[c] for c in who)
        mean = sum(weights[c] * theirs[c][..., head, :, :] for c in who) / total if who else before[..., head, :, :]
        np.testing.assert_allclose(ours[..., head, :, :], mean, rtol=1e-5, atol=1e-6)
        kept += not who
    assert memory == 1 and kept == (2 if weights[1] == 0 else 0) + (weights[:2] == [0.0, 2.0]) * (~trained[1:].any(0)).sum()


def test_weights_as_a_tree_of_the_clients_own_are_the_clients_weights(getkey):
    trees = {"x": {"a": jax.random.normal(getkey(), (3, 4)), "b": jax.random.normal(getkey(), (3, 2, 2))}}
    weights = jnp.array([1.0, 0.0, 3.0])
    by_leaf = jax.tree.map(lambda x: weights, trees)
    jax.tree.map(np.testing.assert_array_equal, fedavg(trees, by_leaf), fedavg(trees, weights))


@pytest.mark.parametrize("stack", [(), (2,)])
def test_only_the_given_heads_move_also_by_weight_decay_and_kept_moments(stack, getkey):
    shapes = {"h": (*stack, HEADS, 2, 2), "s": (*stack, HEADS)}
    adapter = {"q_proj": {name: jax.random.normal(getkey(), shape) for name, shape in shapes.items()}}
    correction, tx = given_heads(HEADS), optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    gradient = jax.tree.map(lambda x: jax.random.normal(getkey(), x.shape), adapter)
    _, kept = tx.update(gradient, tx.init(adapter), adapter)  # moments of a round in which all heads were trained
    memory = correction.receive(correction.init(adapter), {"heads": jnp.array([True, False, True])})
    hparams = ps.Hparams.create(prox_coef=0.5)
    received = jax.tree.map(lambda x: x - 1, adapter)
    cut = correction.gradient(gradient, adapter, received, memory, hparams)
    want = ps.proximal().gradient(gradient, adapter, received, (), hparams)
    direction, _ = tx.update(cut, kept, adapter)
    moved = correction.restrict(direction, memory)
    for name, axis in (("h", -3), ("s", -1)):
        plain, given, unrestricted, ours = (
            np.moveaxis(np.asarray(tree["q_proj"][name]), axis, 0) for tree in (want, cut, direction, moved)
        )
        np.testing.assert_array_equal(given[[0, 2]], plain[[0, 2]])
        np.testing.assert_array_equal(ours[[0, 2]], unrestricted[[0, 2]])
        assert not given[1].any() and not ours[1].any() and unrestricted[1].any()
    assert correction.finish(adapter, received, memory, 1) == (memory, {})
