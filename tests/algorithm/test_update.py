"""A client's update: against the obvious loss, what each setting changes, what counts as cut off, and the KL in the reward."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_rounds
from toy_rounds import CLIENTS, HPARAMS, close, gradient_of, learner, public_step, same, sgd, with_layers, world

import pubswap_jax as ps
from pubswap_jax.algorithm import losses, update
from pubswap_jax.algorithm.resampling import not_flat
from pubswap_jax.algorithm.truncation import mask_truncated, truncated_importance
from pubswap_jax.algorithm.update import Learning, is_truncated
from pubswap_jax.types import ClientState, Rollout, Verdict


def largest_difference(x, y):
    return max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))


def test_update_is_the_gradient_of_the_obvious_loss():
    """`grpo_loss` of `response_logps`, differentiated in one piece with a stop_gradient for the old policy."""
    model, base, *_ = world()
    _, clients, prompts, rollouts, verdicts, _ = public_step()
    gradients, metrics = gradient_of(learner(sgd()), public_step())
    for c in range(CLIENTS):
        pick = partial(jax.tree.map, lambda x, c=c: x[c])

        def loss(adapter, pick=pick):
            logps = ps.response_logps(model, base, adapter, pick(prompts), pick(rollouts.tokens))
            old = jax.lax.stop_gradient(logps)
            advantages = ps.group_advantages(pick(verdicts.reward))
            return ps.grpo_loss(logps, old, advantages, pick(rollouts.mask), HPARAMS)[0]

        value, expected = jax.jit(jax.value_and_grad(loss))(pick(clients.adapter))
        close(pick(gradients), expected, atol=1e-5)
        np.testing.assert_allclose(metrics["loss"][c], value, atol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"][c], optax.tree.norm(expected), rtol=1e-4)


@pytest.mark.parametrize("normalise", [losses.per_sequence, losses.per_token])
def test_the_microbatch_size_changes_nothing(normalise):
    whole, parts = (
        learner(microbatch=size, normalise=normalise, inner_epochs=2)(*public_step(), HPARAMS) for size in (None, 1)
    )
    close(parts[0].adapter, whole[0].adapter, atol=1e-5)
    close(parts[1], whole[1], atol=1e-5)


def test_groups_without_a_gradient_can_leave_the_denominator():
    """With one flat group of four, the gradient of the mean over the others is 4/3 of that over all."""
    *before, verdicts, swapped = public_step()
    reward = jnp.tile(jnp.array([0.0, 1.0, 0.0, 1.0]), (CLIENTS, 4, 1)).at[:, 1].set(1.0)
    given = (*before, Verdict.from_correct(reward > 0), swapped)
    kept, metrics = gradient_of(learner(sgd()), given)
    without, others = gradient_of(learner(sgd(), counted=not_flat), given)
    close(without, jax.tree.map(lambda g: g * 4 / 3, kept), atol=1e-5)
    assert largest_difference(without, kept) > 1e-4
    np.testing.assert_allclose(others["zero_variance"], 0.25)


def test_the_swap_weight_scales_the_swapped_terms():
    """Gradient(w) is linear in w; at 0 the swapped slots count for nothing, while advantages stay the swapped group's."""

    def gradient(weight, given=None):
        given = public_step() if given is None else given
        hparams = HPARAMS.replace(lr=jnp.array(1.0), swap_weight=jnp.array(weight))
        updated, _ = learner(sgd())(*given, hparams)
        return jax.tree.map(lambda old, new: old - new, given[1].adapter, updated.adapter)

    none, half, full = gradient(0.0), gradient(0.5), gradient(1.0)
    close(half, jax.tree.map(lambda x, y: (x + y) / 2, none, full), atol=1e-5)
    assert largest_difference(none, full) > 1e-4
    *before, rollouts, verdicts, swapped = public_step()
    noise = jnp.where(swapped[..., None], (rollouts.tokens + 1) % 10, rollouts.tokens)
    close(gradient(0.0, (*before, rollouts.replace(tokens=noise), verdicts, swapped)), none, atol=1e-5)


@pytest.mark.slow
def test_a_sampler_gap_is_seen_and_corrected_on_own_slots_only():
    *before, rollouts, verdicts, swapped = public_step()
    logps = ps.response_logps(*world()[:2], jax.tree.map(lambda x: x[0], before[1].adapter), *_of_first(before[2], rollouts))
    shifted = rollouts.replace(logps=rollouts.logps.at[0].set(logps - 0.1))
    nothing = (*before, shifted, verdicts, jnp.zeros_like(swapped))
    _, metrics = learner(sgd())(*nothing, HPARAMS)
    np.testing.assert_allclose(metrics["sampler_gap"][0], 0.1, atol=1e-4)
    corrected = learner(sgd(), importance=truncated_importance(2.0))
    everything = (*before, shifted, verdicts, jnp.ones_like(swapped))
    close(gradient_of(corrected, everything)[0], gradient_of(learner(sgd()), everything)[0])
    first = partial(jax.tree.map, lambda x: x[0])
    scaled = jax.tree.map(lambda x: x * jnp.exp(0.1), first(gradient_of(learner(sgd()), nothing)[0]))
    close(first(gradient_of(corrected, nothing)[0]), scaled, atol=1e-4)


def _of_first(prompts, rollouts):
    return jax.tree.map(lambda x: x[0], (prompts, rollouts.tokens))


def test_the_clip_acts_from_the_second_epoch_on():
    hot = HPARAMS.replace(lr=jnp.array(0.3))
    one, two = (learner(inner_epochs=epochs)(*public_step(), hot)[1] for epochs in (1, 2))
    assert (one["ratio_min"] == 1).all() and (one["ratio_max"] == 1).all() and (one["clip_share"] == 0).all()
    assert (two["ratio_max"] > 1.2).any() and (two["clip_share"] > 0).any()


def test_fedprox_pulls_towards_the_server():
    received, clients, *rest = public_step()
    away = clients.replace(adapter=jax.tree.map(lambda x: x + 1.0, clients.adapter))
    free, pulled = (
        learner(sgd())(received, away, *rest, HPARAMS.replace(lr=jnp.array(1.0), prox_coef=jnp.array(mu)))[0].adapter
        for mu in (0.0, 0.5)
    )
    close(jax.tree.map(lambda x, y: x - y, free, pulled), jax.tree.map(lambda x: jnp.full_like(x, 0.5), free), atol=1e-5)


def test_a_correction_reaches_the_optimizer_and_not_the_metric_of_the_gradients_norm():
    doubled = ps.Correction(
        lambda adapter: (),
        lambda gradient, adapter, received, memory, hparams: jax.tree.map(lambda g: 2 * g, gradient),
        lambda adapter, received, memory, steps: (memory, {}),
    )
    plain, metrics = gradient_of(learner(sgd()), public_step())
    twice, others = gradient_of(learner(sgd(), correction=doubled), public_step())
    close(twice, jax.tree.map(lambda g: 2 * g, plain), atol=1e-5)
    close(others["grad_norm"], metrics["grad_norm"])


def test_truncated_responses_can_be_left_out():
    *before, rollouts, verdicts, swapped = public_step()
    cut = rollouts.replace(mask=jnp.ones_like(rollouts.mask), tokens=jnp.zeros_like(rollouts.tokens))
    gradient, metrics = gradient_of(learner(sgd(), truncation=mask_truncated), (*before, cut, verdicts, swapped))
    assert (metrics["truncated"] == 1).all() and all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_flat_rewards_move_nothing():
    *before, verdicts, swapped = public_step()
    flat = verdicts.replace(reward=jnp.ones_like(verdicts.reward))
    updated, metrics = learner()(*before, flat, swapped, HPARAMS)
    same(updated.adapter, before[1].adapter)
    assert (metrics["zero_variance"] == 1).all() and (metrics["grad_norm"] == 0).all()


@pytest.mark.slow
def test_a_kl_of_weight_zero_in_the_reward_changes_no_bit(monkeypatch):
    with_layers(monkeypatch, 2)
    plain = toy_rounds.learner(inner_epochs=2)(*toy_rounds.public_step(), HPARAMS)
    zero = toy_rounds.learner(kl=ps.kl_k1, kl_in_reward=True, inner_epochs=2)(*toy_rounds.public_step(), HPARAMS)
    same(zero[0], plain[0])


def test_the_kl_in_the_reward_moves_the_adapter_and_not_with_the_microbatch():
    how = {"kl": ps.kl_k1, "kl_in_reward": True, "inner_epochs": 2}
    plain = learner(inner_epochs=2)(*public_step(), HPARAMS)
    zero = learner(**how)(*public_step(), HPARAMS)
    moved = lambda found: (found[0].adapter, found[0].opt_state)  # noqa: E731
    close(moved(zero), moved(plain), atol=1e-7)  # two programs, whose sums round apart with one layer
    some = HPARAMS.replace(kl_coef=jnp.array(0.2))
    whole, parts = learner(**how)(*public_step(), some), learner(**how, microbatch=1)(*public_step(), some)
    close(parts[0].adapter, whole[0].adapter, atol=1e-5)
    close(parts[1], whole[1], atol=1e-5)
    assert largest_difference(whole[0].adapter, zero[0].adapter) > 1e-3
    in_loss = learner(kl=ps.kl_k1)(*public_step(), HPARAMS)
    close(in_loss[1]["kl"], whole[1]["kl"])


def test_mistakes_name_the_argument():
    with pytest.raises(ValueError, match="kl_in_reward: kl=kl_k1 expected"):
        Learning(kl=ps.kl_k3, kl_in_reward=True).check()
    with pytest.raises(ValueError, match="inner_epochs: 1 or more"):
        learner(inner_epochs=0)
    with pytest.raises(ValueError, match="microbatch: a divisor of the batch's 4 prompts expected, got 3"):
        learner(microbatch=3)(*public_step(), HPARAMS)


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
    how = Learning(
        microbatch=microbatch,
        inner_epochs=inner_epochs,
        advantages=advantages,
        normalise=lambda mask: jnp.broadcast_to(probability / group, mask.shape),
        kl=losses.kl_k1,
        kl_in_reward=True,
    )
    step = update.make_update(None, optax.identity(), how, ())
    theta, mask = jnp.asarray(THETA, jnp.float32), jnp.ones(groups.shape, bool)
    client = ClientState(jnp.int32(0), theta, (), jnp.int32(0), jnp.int32(0))
    rollout = Rollout(groups, mask, jnp.zeros(groups.shape))
    verdict = Verdict.from_correct(jnp.zeros(groups.shape[:2], bool))
    prompts = ps.Prompts(jnp.zeros((len(groups), 1), jnp.int32), jnp.ones((len(groups), 1), bool))
    hparams = ps.Hparams.create(lr=1.0, kl_coef=KL_COEF)
    slots = jnp.full(groups.shape[:2], swapped)
    after, metrics = step(jnp.asarray(REFERENCE, jnp.float32), theta, client, prompts, rollout, verdict, slots, hparams)
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
