"""KL estimators: values that a person can check, and their exact gradients in the loss and in the reward."""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm import divergence, losses
from pubswap_jax.types import Hparams


def test_kl_estimators():
    logps, ref = jnp.log(jnp.array([0.5, 0.25])), jnp.log(jnp.array([0.25, 0.5]))
    two = np.log(2)
    np.testing.assert_allclose(divergence.kl_k1(logps, ref), [two, -two], rtol=1e-6)
    np.testing.assert_allclose(divergence.kl_k2(logps, ref), [two**2 / 2] * 2, rtol=1e-6)
    np.testing.assert_allclose(divergence.kl_k3(logps, ref), [two - 0.5, 1 - two], rtol=1e-6)
    assert (divergence.kl_k3(logps, logps) == 0).all()


# --- what each KL estimator's gradient is, exactly: sums over 5 tokens instead of samples ------------------------------------

THETA, REFERENCE = np.array([0.3, -0.2, 0.9, -0.8, 0.1]), np.array([0.2, 0.4, -0.6, 0.7, 0.0])


def kl_divergence(p, q):
    return jnp.sum(jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q)))


def expected_gradient_in_the_loss(kl):
    """Σ_y π(y) ∇(the loss of y), with no reward: what a step expects of the KL term."""
    tokens, weights = jnp.arange(5), jax.nn.softmax(THETA)

    def loss(theta):
        logps, ref = (jax.nn.log_softmax(x)[tokens][None, :, None] for x in (theta, jnp.asarray(REFERENCE)))
        old = jax.lax.stop_gradient(logps)
        parts = old, jnp.zeros((1, 5)), jnp.ones((1, 5, 1), bool), Hparams.create(kl_coef=1.0)
        return losses.grpo_loss(logps, *parts, ref_logps=ref, kl=kl, normalise=lambda mask: weights[None, :, None])[0]

    return jax.grad(loss)(jnp.asarray(THETA))


def test_in_the_loss_k1_has_no_gradient_k2_the_divergences_and_k3_that_of_exchanged_arguments():
    true = jax.grad(kl_divergence)(THETA, REFERENCE)
    exchanged = jax.grad(lambda theta: kl_divergence(REFERENCE, theta))(THETA)
    assert np.abs(true).max() > 0.1 and np.abs(true - exchanged).max() > 0.05
    np.testing.assert_allclose(expected_gradient_in_the_loss(divergence.kl_k1), np.zeros(5), atol=1e-7)
    np.testing.assert_allclose(expected_gradient_in_the_loss(divergence.kl_k2), true, atol=1e-6)
    np.testing.assert_allclose(expected_gradient_in_the_loss(divergence.kl_k3), exchanged, atol=1e-6)


def test_the_reward_less_kl_reads_nothing_off_the_mask():
    logps, ref = (
        jnp.array([[[-1.0, -2.0, jnp.nan], [-0.5, jnp.nan, jnp.nan]]]),
        jnp.array([[[-1.5, -1.0, 0.0], [-1.5, 0.0, jnp.inf]]]),
    )
    mask = jnp.array([[[True, True, False], [True, False, False]]])
    kl = divergence.kl_of_tokens(divergence.kl_k1, logps, ref, mask)
    np.testing.assert_allclose(divergence.reward_less_kl(jnp.array([[1.0, 0.0]]), kl, mask, 0.1), [[1.05, -0.1]], rtol=1e-6)
    np.testing.assert_array_equal(divergence.reward_less_kl(jnp.array([[1.0, 0.0]]), kl, mask, 0.0), [[1.0, 0.0]])
