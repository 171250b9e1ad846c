"""Drawing a token: exact in distribution, with transformers' filters, at both ends of the unit interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statistics_of_draws import chi_square

from pubswap_jax.policy import token_draw


@pytest.mark.parametrize("cut", [{}, {"top_k": 7}, {"top_p": 0.6}, {"min_p": 0.3}])
def test_draws_are_exactly_distributed(cut, getkey):
    """Chi-square against the softmax, over three chunks of the vocabulary, the last of them partial."""
    how = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "greedy": False} | cut
    logits = 2 * jax.random.normal(getkey(), (1200,))
    uniforms = jax.random.uniform(getkey(), (50, 1000, 2))
    tokens, logps = jax.jit(lambda u: jax.lax.map(jax.vmap(lambda u: token_draw.draw(logits, u, **how)), u))(uniforms)
    counts = np.bincount(tokens.reshape(-1), minlength=1200)
    exact = np.asarray(jax.jit(lambda x: jax.nn.softmax(token_draw.truncate(x, **cut)))(logits))
    assert counts[exact == 0].sum() == 0 and abs(chi_square(counts, exact)) < 4
    np.testing.assert_allclose(logps, jax.nn.log_softmax(logits)[tokens], atol=1e-4)


def test_the_temperature_divides_the_logits(getkey):
    logits, uniforms = 2 * jax.random.normal(getkey(), (40, 600)), jax.random.uniform(getkey(), (40, 2))
    how = {"top_k": 0, "top_p": 0.9, "min_p": 0.0, "greedy": False}
    token, logp = token_draw.draw(logits, uniforms, **how, temperature=0.7)
    expected, expected_logp = token_draw.draw(logits / 0.7, uniforms, **how)
    np.testing.assert_array_equal(token, expected)
    np.testing.assert_allclose(logp, expected_logp, rtol=1e-5)


def test_the_ends_of_the_unit_interval_draw_possible_tokens():
    logits = jnp.full((1100,), -jnp.inf).at[jnp.array([5, 700])].set(jnp.array([0.0, 1.0]))
    below_one = np.nextafter(np.float32(1), np.float32(0))
    how = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "greedy": False}
    for uniform, token in ((0.0, 5), (below_one, 700)):
        assert token_draw.draw(logits, jnp.full((2,), uniform, jnp.float32), **how)[0] == token


def transformers_filters(logits, top_k, top_p, min_p):
    """numpy restatement of transformers' TopK-, TopP- and MinPLogitsWarper, in the order in which generate applies them."""

    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    if top_k:
        logits = np.where(logits < np.sort(logits)[-top_k], -np.inf, logits)
    if top_p < 1:
        order = np.argsort(logits, kind="stable")
        remove = np.cumsum(softmax(logits[order])) <= 1 - top_p
        remove[-1] = False
        logits = np.where(remove[np.argsort(order, kind="stable")], -np.inf, logits)
    if min_p > 0:
        probabilities = softmax(logits)
        logits = np.where(probabilities < min_p * probabilities.max(), -np.inf, logits)
    return logits


@pytest.mark.parametrize("cut", [(5, 1.0, 0.0), (0, 0.7, 0.0), (0, 0.01, 0.0), (0, 1.0, 0.2), (9, 0.8, 0.1), (500, 0.999, 0.0)])
def test_filters_are_those_of_transformers(cut, getkey):
    logits = 2 * np.asarray(jax.random.normal(getkey(), (6, 50)), np.float64)
    cut_safely = (min(cut[0], 50), *cut[1:])
    expected = np.stack([transformers_filters(row, *cut_safely) for row in logits])
    truncated = jax.jit(lambda x: token_draw.truncate(x, *cut))(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(truncated, expected, rtol=1e-6)
