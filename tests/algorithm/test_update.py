"""What counts as cut off, and the KL in the reward; the rest is tested through `Algorithm.update` in test_steps.py."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm import losses, update
from pubswap_jax.algorithm.update import is_truncated
from pubswap_jax.types import ClientState, Rollout, Verdict


def test_a_response_is_truncated_where_it_fills_the_length_and_never_ends():
    tokens = jnp.array([[[5, 9, 0], [5, 6, 9], [5, 6, 7], [5, 6, 8]]])
    mask = jnp.array([[[True, True, False], [True] * 3, [True] * 3, [True] * 3]])
    rollout = Rollout(tokens, mask, jnp.zeros(tokens.shape))
    assert is_truncated(rollout, (9,)).tolist() == [[False, False, True, True]]
    assert is_truncated(rollout, (8, 9)).tolist() == [[False, False, True, False]]
    assert is_truncated(rollout, ()).tolist() == [[False, True, True, True]]


# --- the KL in the reward --------------------------------------------------------------------------------------------------

THETA, REFERENCE = np.array([0.3, -0.2, 0.9, -0.8, 0.1]), np.array([0.2, 0.4, -0.6, 0.7, 0.0])
KL_COEF = 0.5


def expected_gradient(monkeypatch, advantages, group, microbatch=None, swapped=False, inner_epochs=1):
    """The exact expectation of an update's gradient, rewards all 0, over every group of one-token responses of 5 tokens.

    Each group is a question of the batch, weighed by its probability: no sample is drawn.
    """
    groups = jnp.array(list(itertools.product(range(5), repeat=group)))[:, :, None]
    probability = jax.nn.softmax(jnp.asarray(THETA))[groups].prod(axis=1, keepdims=True)

    def logps(model, params, adapter, prompts, tokens, *, temperature, entropy=False):
        found = jax.nn.log_softmax(params if adapter is None else adapter)[tokens]
        return (found, jnp.zeros_like(found)) if entropy else found

    monkeypatch.setattr(update, "response_logps", logps)
    step = update.make_update(
        None,
        optax.identity(),
        loss=losses.grpo_term,
        microbatch=microbatch,
        inner_epochs=inner_epochs,
        advantages=advantages,
        normalise=lambda mask: jnp.broadcast_to(probability / group, mask.shape),
        kl=losses.kl_k1,
        kl_in_reward=True,
        truncation=losses.keep_truncated,
        importance=None,
        eos_ids=(),
    )
    theta, mask = jnp.asarray(THETA, jnp.float32), jnp.ones(groups.shape, bool)
    client = ClientState(jnp.int32(0), theta, ())
    rollout = Rollout(groups, mask, jnp.zeros(groups.shape))
    verdict = Verdict.from_correct(jnp.zeros(groups.shape[:2], bool))
    prompts = ps.Prompts(jnp.zeros((len(groups), 1), jnp.int32), jnp.ones((len(groups), 1), bool))
    hparams = ps.Hparams.create(lr=1.0, kl_coef=KL_COEF)
    slots = jnp.full(groups.shape[:2], swapped)
    after, metrics = step(jnp.asarray(REFERENCE, jnp.float32), theta, client, prompts, rollout, verdict, slots, hparams=hparams)
    return theta - after.adapter, metrics


def true_gradient():
    def divergence(p):
        return jnp.sum(jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(REFERENCE)))

    return KL_COEF * jax.grad(divergence)(jnp.asarray(THETA))


@pytest.mark.parametrize("microbatch", [None, 1, 5])
def test_k1_in_the_reward_has_the_gradient_of_the_divergence(monkeypatch, microbatch):
    assert np.abs(true_gradient()).max() > 0.1
    gradient, metrics = expected_gradient(monkeypatch, losses.no_baseline, 1, microbatch)
    np.testing.assert_allclose(gradient, true_gradient(), atol=1e-6)
    tokens = jnp.arange(5)
    np.testing.assert_allclose(
        metrics["kl"], np.mean(jax.nn.log_softmax(THETA)[tokens] - jax.nn.log_softmax(REFERENCE)[tokens]), rtol=1e-5
    )


def test_a_mean_that_contains_the_response_takes_one_gth_of_the_coefficient(monkeypatch):
    for group in (2, 3):
        gradient, _ = expected_gradient(monkeypatch, partial(losses.group_advantages, scale=False), group)
        np.testing.assert_allclose(gradient, true_gradient() * (group - 1) / group, atol=1e-6)
    scaled, _ = expected_gradient(monkeypatch, losses.group_advantages, 2)
    assert np.abs(scaled - true_gradient() / 2).max() > 0.05, "a deviation of the rewards divides the KL too"


def test_the_batchs_deviation_sees_the_kl_of_all_microbatches(monkeypatch):
    whole, _ = expected_gradient(monkeypatch, losses.batch_advantages, 2)
    for microbatch in (1, 5):
        parts, _ = expected_gradient(monkeypatch, losses.batch_advantages, 2, microbatch)
        np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_a_swapped_response_has_its_kl_under_the_receivers_policy(monkeypatch):
    own, _ = expected_gradient(monkeypatch, losses.no_baseline, 1)
    foreign, _ = expected_gradient(monkeypatch, losses.no_baseline, 1, swapped=True)
    np.testing.assert_array_equal(own, foreign)


def test_the_rewards_kl_is_that_before_the_first_epoch(monkeypatch):
    """The metric does not move with the epochs, while the second epoch does move the policy."""
    (one, first), (two, second) = (expected_gradient(monkeypatch, losses.no_baseline, 1, inner_epochs=n) for n in (1, 2))
    np.testing.assert_array_equal(first["kl"], second["kl"])
    assert np.abs(two - one).max() > 0.01
