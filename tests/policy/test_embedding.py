"""Embeddings of questions: unit norm, the mean of the real tokens' states, and blind to padding."""

import jax
import jax.numpy as jnp
import numpy as np

import pubswap_jax as ps
from pubswap_jax.policy import attention
from pubswap_jax.policy.embedding import mean_hidden, normalised


def test_an_embedding_is_the_normalised_mean_over_the_real_tokens():
    model, base, _ = ps.toy(jax.random.key(0))
    tokens = jnp.array([[15, 15, 3, 11], [1, 10, 2, 11]], jnp.int32)
    encoder = mean_hidden(model)
    found = encoder.embed(base, ps.Prompts(tokens, tokens != 15))
    assert found.shape == (2, encoder.size)
    for row, real in zip(found, ([3, 11], [1, 10, 2, 11]), strict=True):
        one = model.apply(base, jnp.array([real]), jnp.arange(len(real))[None], causal(len(real)), method="hidden")
        mean = np.asarray(one[0], np.float64).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def causal(length):
    return attention.causal(jnp.ones((1, length), bool))


def test_a_vector_of_zeros_stays_and_has_a_finite_gradient():
    np.testing.assert_array_equal(normalised(jnp.array([[0.0, 0.0], [3.0, 4.0]])), np.array([[0, 0], [0.6, 0.8]], np.float32))
    assert np.isfinite(jax.grad(lambda x: normalised(x).sum())(jnp.zeros((1, 2)))).all()
