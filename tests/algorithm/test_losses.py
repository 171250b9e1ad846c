"""Advantages, KL estimators, normalisers and losses: numbers a person can check, laws, and gradients that stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pubswap_jax.algorithm import losses
from pubswap_jax.types import Hparams

HPARAMS = Hparams.create(kl_coef=0.1)


def batch(getkey, shape=(2, 4, 5)):
    """Log-probs of two policies, advantages and a mask of random lengths, the first of them empty."""
    logps = -jax.random.exponential(getkey(), shape)
    old = logps + 0.3 * jax.random.normal(getkey(), shape)
    lengths = jax.random.randint(getkey(), shape[:-1], 1, shape[-1] + 1).at[0, 0].set(0)
    mask = jnp.asarray(np.arange(shape[-1]) < np.asarray(lengths)[..., None])
    return logps, old, jax.random.normal(getkey(), shape[:-1]), mask


def test_masked_mean():
    x = jnp.array([[1.0, 2.0, jnp.nan], [jnp.nan, jnp.nan, jnp.nan]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    np.testing.assert_allclose(losses.masked_mean(x, mask, axis=-1), [1.5, 0.0])
    np.testing.assert_allclose(losses.masked_mean(x, mask), 1.5)
    assert jnp.isfinite(jax.grad(lambda y: losses.masked_mean(y, mask))(x)).all()
    assert losses.masked_mean(mask, mask, axis=-1).dtype == jnp.float32


def test_binary_rewards_after_a_balanced_swap_give_plus_and_minus_one():
    np.testing.assert_allclose(losses.group_advantages(jnp.array([1.0, 1, 0, 0])), [1, 1, -1, -1], rtol=1e-5)
    # METHOD: A_right = sqrt((1-p)/p), A_wrong = -sqrt(p/(1-p)); here p = 1/4
    np.testing.assert_allclose(losses.group_advantages(jnp.array([1.0, 0, 0, 0])), [3**0.5, *[-(3**-0.5)] * 3], rtol=1e-5)
    np.testing.assert_allclose(losses.group_advantages(jnp.array([1.0, 0, 0, 0]), scale=False), [0.75, *[-0.25] * 3])
    np.testing.assert_allclose(losses.no_baseline(jnp.array([1.0, 0.0])), [1, 0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1e6, -3.3])
def test_flat_groups_get_exactly_zero_and_a_finite_gradient(value):
    for advantages in (losses.group_advantages, lambda r: losses.group_advantages(r, scale=False)):
        flat = jnp.full((8,), value)
        assert (advantages(flat) == 0).all()
        assert jnp.isfinite(jax.jacobian(advantages)(flat)).all()
    rewards = jnp.stack([jnp.full((8,), value), jnp.arange(8.0)])
    assert (losses.batch_advantages(rewards)[0] == 0).all() and (losses.batch_advantages(rewards)[1] != 0).any()
    assert losses.zero_variance(rewards).tolist() == [True, False]


def test_batch_advantages_divide_by_the_deviation_of_the_whole_batch():
    rewards = np.array([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    expected = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std() + 1e-6)
    np.testing.assert_allclose(losses.batch_advantages(jnp.asarray(rewards)), expected, rtol=1e-5)


finite_rewards = npst.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(2, 9)), elements=st.floats(-5, 5, width=16))


@settings(max_examples=30, deadline=None)
@given(finite_rewards, st.floats(-4, 4, width=16), st.sampled_from([0.5, 2.0, 4.0]))
def test_advantages_ignore_a_shift_and_a_scale(reward, shift, factor):
    plain = losses.group_advantages(jnp.asarray(reward), eps=0.0 if reward.std(-1).min() > 0.1 else 1e-6)
    if reward.std(-1).min() > 0.1:
        moved = losses.group_advantages(jnp.asarray(reward * factor + shift), eps=0.0)
        np.testing.assert_allclose(moved, plain, atol=2e-2)
    np.testing.assert_allclose(plain.sum(-1), 0, atol=1e-3)


def test_normalisers():
    mask = jnp.array([[[True, True, False, False], [True, True, True, True]]])
    np.testing.assert_allclose(losses.per_sequence(mask)[0], [[0.25, 0.25, 0, 0], [0.125] * 4])
    np.testing.assert_allclose(losses.per_token(mask)[0], [[1 / 6, 1 / 6, 0, 0], [1 / 6] * 4], rtol=1e-6)
    np.testing.assert_allclose(losses.fixed_length(10)(mask)[0], [[0.05, 0.05, 0, 0], [0.05] * 4], rtol=1e-6)
    for normalise in (losses.per_sequence, losses.per_token, losses.fixed_length(4)):
        assert (normalise(jnp.zeros_like(mask)) == 0).all()


def loss_by_loops(logps, old, advantages, mask, low=0.2, high=0.2, dual=None):
    """GRPO as its paper writes it."""
    total, sequences = 0.0, 0
    for b in range(logps.shape[0]):
        for g in range(logps.shape[1]):
            terms = []
            for t in np.flatnonzero(mask[b, g]):
                ratio = np.exp(logps[b, g, t] - old[b, g, t])
                term = min(ratio * advantages[b, g], np.clip(ratio, 1 - low, 1 + high) * advantages[b, g])
                if dual is not None and advantages[b, g] < 0:
                    term = max(term, dual * advantages[b, g])
                terms.append(term)
            total += np.mean(terms) if terms else 0.0
            sequences += 1
    return -total / sequences


@pytest.mark.parametrize("dual", [None, 1.1])
def test_grpo_loss_equals_the_loop(getkey, dual):
    args = batch(getkey)
    hparams = Hparams.create(clip_high=0.28, dual_clip=1.1)
    loss, metrics = losses.grpo_loss(*args, hparams, dual_clip=dual is not None)
    np.testing.assert_allclose(loss, loss_by_loops(*map(np.asarray, args), high=0.28, dual=dual), rtol=1e-5)
    assert 0 < metrics["clip_share"] < 1 and metrics["ratio_min"] < 1 < metrics["ratio_max"]


def test_a_dual_clip_bounds_what_a_negative_advantage_can_cost():
    args = jnp.array([[[5.0]]]), jnp.array([[[0.0]]]), jnp.array([[-1.0]]), jnp.array([[[True]]])
    free, bounded = (losses.grpo_loss(*args, Hparams.create(), dual_clip=flag)[0] for flag in (False, True))
    np.testing.assert_allclose([free, bounded], [np.exp(5.0), 3.0], rtol=1e-6)


def test_on_policy_gradient_is_minus_the_weighted_advantage(getkey):
    logps, _, advantages, mask = batch(getkey)
    gradient = jax.grad(lambda x: losses.grpo_loss(x, logps, advantages, mask, HPARAMS)[0])(logps)
    np.testing.assert_allclose(gradient, -advantages[..., None] * losses.per_sequence(mask), atol=1e-7)


def test_gspo_is_grpo_on_sequences_of_one_token_and_shares_one_ratio(getkey):
    args = batch(getkey, (2, 4, 1))
    np.testing.assert_allclose(losses.gspo_loss(*args, HPARAMS)[0], losses.grpo_loss(*args, HPARAMS)[0], rtol=1e-6)
    logps, old, mask = jnp.log(jnp.array([[[0.9, 0.4]]])), jnp.log(jnp.array([[[0.3, 0.6]]])), jnp.ones((1, 1, 2), bool)
    loss, _ = losses.gspo_loss(logps, old, jnp.array([[-1.0]]), mask, HPARAMS)
    np.testing.assert_allclose(loss, np.sqrt(3 * 2 / 3), rtol=1e-6)


def test_cispo_clips_the_weight_and_never_the_gradient(getkey):
    logps, old, advantages, mask = batch(getkey)
    gradient = jax.grad(lambda x: losses.cispo_loss(x, old, advantages, mask, HPARAMS)[0])(logps)
    weight = np.minimum(np.exp(logps - old), 1.2) * advantages[..., None] * losses.per_sequence(mask)
    np.testing.assert_allclose(gradient, -weight, rtol=1e-5, atol=1e-8)


def test_kl_is_added_with_its_coefficient(getkey):
    logps, old, advantages, mask = batch(getkey)
    plain, _ = losses.grpo_loss(logps, old, advantages, mask, HPARAMS)
    loss, metrics = losses.grpo_loss(logps, old, advantages, mask, HPARAMS, ref_logps=old, kl=losses.kl_k3)
    np.testing.assert_allclose(loss - plain, 0.1 * (losses.kl_k3(logps, old) * losses.per_sequence(mask)).sum(), rtol=1e-4)
    np.testing.assert_allclose(metrics["kl"], losses.masked_mean(losses.kl_k3(logps, old), mask), rtol=1e-6)
    with pytest.raises(ValueError, match="kl, ref_logps"):
        losses.grpo_loss(logps, old, advantages, mask, HPARAMS, kl=losses.kl_k3)


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo"])
def test_a_loss_is_its_term_weighed_and_summed(getkey, name):
    term_of, loss = (getattr(losses, f"{name}_{kind}") for kind in ("term", "loss"))
    logps, old, advantages, mask = args = batch(getkey)
    term, metrics = term_of(*args, HPARAMS)
    weights, reference = jax.random.uniform(getkey(), mask.shape), old + 0.1
    keywords = {"kl": losses.kl_k2, "ref_logps": reference, "token_weights": weights, "normalise": losses.per_token}
    value, seen = loss(*args, HPARAMS, **keywords)
    total = 0.0  # a plain sum over the tokens that count
    for place in zip(*np.nonzero(mask), strict=True):
        difference = float(logps[place] - reference[place]) ** 2 / 2
        total -= float(weights[place]) * (float(term[place]) - 0.1 * difference) / int(mask.sum())
    np.testing.assert_allclose(value, total, rtol=1e-4)
    assert term.shape == mask.shape and loss.__name__ == f"{name}_loss" and metrics.keys() < seen.keys() == {*metrics, "kl"}


LOSSES = [losses.grpo_loss, losses.gspo_loss, losses.cispo_loss]


@pytest.mark.parametrize("loss", LOSSES)
def test_token_weights_multiply_terms_and_no_denominator(getkey, loss):
    args = batch(getkey)
    weights = jnp.ones((2, 4, 1)).at[1, 2].set(0.0)
    whole = loss(*args, HPARAMS)[0]
    np.testing.assert_allclose(
        loss(*args, HPARAMS, token_weights=weights)[0] + loss(*args, HPARAMS, token_weights=1 - weights)[0], whole, rtol=1e-5
    )
    np.testing.assert_allclose(loss(*args, HPARAMS, token_weights=2.0 * jnp.ones(()))[0], 2 * whole, rtol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_stands_off_the_mask_is_irrelevant(getkey, loss):
    logps, old, advantages, mask = batch(getkey)
    dirty = [jnp.where(mask, x, bad) for x, bad in ((logps, jnp.nan), (old, -jnp.inf))]
    value, gradient = jax.value_and_grad(lambda x, y: loss(x, y, advantages, mask, HPARAMS)[0])(*dirty)
    clean, clean_gradient = jax.value_and_grad(lambda x, y: loss(x, y, advantages, mask, HPARAMS)[0])(logps, old)
    assert value == clean
    np.testing.assert_array_equal(gradient, clean_gradient)


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_cast_down(getkey, loss):
    with jax.enable_x64(True):
        args = [x.astype(jnp.float64) if x.dtype == jnp.float32 else x for x in batch(getkey)]
        assert loss(*args, Hparams.create())[0].dtype == jnp.float64
    args = [x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x for x in batch(getkey)]
    assert loss(*args, HPARAMS)[0].dtype == jnp.float32


def test_ten_thousand_degenerate_groups_give_no_nan_and_no_gradient(getkey):
    logps, old, _, mask = batch(getkey, (2500, 4, 3))
    reward = jnp.tile(jnp.round(jax.random.uniform(getkey(), (2500, 1))), (1, 4))
    for loss in LOSSES:
        gradient = jax.grad(lambda x, loss=loss: loss(x, old, losses.group_advantages(reward), mask, HPARAMS)[0])(logps)
        assert (gradient == 0).all()


def test_wrong_shapes_name_the_argument(getkey):
    logps, old, advantages, mask = batch(getkey)
    with pytest.raises(ValueError, match="advantages: .*expected"):
        losses.grpo_loss(logps, old, advantages[:1], mask, HPARAMS)
    with pytest.raises(ValueError, match="mask: .*expected"):
        losses.grpo_loss(logps, old, advantages, mask[..., :1], HPARAMS)
    with pytest.raises(ValueError, match="old_logps: .*expected"):
        losses.grpo_loss(logps, old[:1], advantages, mask, HPARAMS)


@pytest.mark.parametrize("advantage", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("loss", [losses.grpo_loss, losses.gspo_loss, losses.cispo_loss])
def test_a_ratio_that_exp_cannot_hold_gives_no_nan(loss, advantage):
    def f(x):
        return loss(x, jnp.full((1, 1, 1), -200.0), jnp.full((1, 1), advantage), jnp.ones((1, 1, 1), bool), HPARAMS)[0]

    value, gradient = jax.value_and_grad(f)(jnp.zeros((1, 1, 1)))
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("normalise", [losses.per_sequence, losses.per_token, losses.fixed_length(7)])
def test_groups_that_do_not_count_leave_the_denominator(normalise, getkey):
    """The weights are those of the batch without these groups, and 0 in them."""
    mask = batch(getkey, (5, 3, 4))[3]
    counted = jnp.array([True, False, True, True, False])
    weights = normalise(mask, counted)
    np.testing.assert_allclose(weights[counted], normalise(mask[counted]), rtol=1e-6)
    assert (weights[~counted] == 0).all() and (normalise(mask, jnp.zeros(5, bool)) == 0).all()
    np.testing.assert_allclose(normalise(mask, jnp.ones(5, bool)), normalise(mask), rtol=1e-6)
