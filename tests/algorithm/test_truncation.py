"""Truncated responses: which of them count, and how much."""

import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm import truncation


def test_truncated_responses():
    mask = jnp.asarray(np.arange(4) < np.array([2, 3, 4, 4])[:, None])
    reward, truncated = jnp.array([1.0, 0, 1, 1]), jnp.array([False, False, False, True])
    assert truncation.keep_truncated(reward, mask, truncated)[1].tolist() == [1, 1, 1, 1]
    assert truncation.mask_truncated(reward, mask, truncated)[1].tolist() == [1, 1, 1, 0]
    assert truncation.penalise_truncated(2)(reward, mask, truncated)[0].tolist() == [1.0, -0.5, 0.0, 0.0]


def test_truncated_importance():
    weights = truncation.truncated_importance(2.0)(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.1, 1.0])))
    np.testing.assert_allclose(weights, [2.0, 0.5], rtol=1e-6)


def test_weights_without_the_reward():
    reward, mask, truncated = jnp.ones((1, 2)), jnp.ones((1, 2, 4), bool), jnp.array([[True, False]])
    for rule, weights in ((truncation.mask_truncated, [[0, 1]]), (truncation.penalise_truncated(2), [[1, 1]])):
        kept, found = truncation.weights_alone(rule)(reward, mask, truncated)
        assert kept is reward and found.tolist() == weights
