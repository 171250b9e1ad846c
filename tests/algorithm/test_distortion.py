"""The theory made measurable: distances of replacements against explicit loops, and the bound on ten thousand groups."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.algorithm import distortion, losses, swap
from pubswap_jax.policy.model import response_logps
from pubswap_jax.policy.toyworld import toy, toy_targets
from pubswap_jax.types import Hparams, Rollout, StepRecord, Verdict

WIDTH = 6


def linear_gradient(group):
    """G of one group on policy: −(1/G) Σ Aᵢ ∇ mean log π(yᵢ), with the gradients of the responses given."""
    advantages = losses.group_advantages(group["reward"])
    return -jnp.tensordot(advantages, group["score"], axes=1) / advantages.shape[0]


def random_groups(rng, count, group=4, others=8):
    correct = rng.random((count, group)) < rng.choice([0.0, 0.2, 0.5], size=(count, 1))
    donors = rng.random((count, others)) < rng.choice([0.1, 0.5], size=(count, 1))
    mine = {"score": rng.normal(size=(count, group, WIDTH)), "reward": correct.astype(float)}
    theirs = {"score": rng.normal(size=(count, others, WIDTH)), "reward": donors.astype(float)}
    as_f32 = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)  # noqa: E731
    return as_f32(mine), as_f32(theirs), jnp.asarray(correct), jnp.asarray(donors)


one_replacement = jax.jit(partial(distortion.one_replacement_distortion, linear_gradient))


@jax.jit
def balanced_source(key, correct, donors):
    """What Balanced gives client 0, whose two neighbours hold the donors: (donor index, swapped) of each slot."""
    group = correct.shape[0]
    plan = swap.balanced(key, jnp.concatenate([correct[None], donors.reshape(-1, group)])[:, None])
    return jnp.maximum(plan.source[0, 0] - group, 0), plan.swapped[0, 0]


@jax.jit
def bound_of(key, mine, theirs, correct, donors):
    source, swapped = balanced_source(key, correct, donors)
    legal = ~correct[:, None] & donors[None]
    return distortion.distortion_bound(linear_gradient, mine, theirs, source, swapped, legal)


def norm(x):
    return float(np.sqrt(np.sum(np.square(np.asarray(x, np.float64)))))


def test_one_replacement_distortion_equals_the_loop():
    mine, theirs, _, _ = (jax.tree.map(lambda x: x[0], part) for part in random_groups(np.random.default_rng(0), 1))
    distances = one_replacement(mine, theirs)
    assert distances.shape == (4, 8)
    for slot in range(4):
        for donor in range(8):
            replaced = {name: mine[name].at[slot].set(theirs[name][donor]) for name in mine}
            expected = norm(linear_gradient(replaced) - linear_gradient(mine))
            np.testing.assert_allclose(distances[slot, donor], expected, atol=1e-5)


def test_beta_and_distance_equal_the_loop():
    rng, found = np.random.default_rng(1), 0
    many = random_groups(rng, 20)
    for i in range(20):
        mine, theirs, correct, donors = jax.tree.map(lambda x, i=i: x[i], many)
        key = jax.random.fold_in(jax.random.key(0), i)
        result = bound_of(key, mine, theirs, correct, donors)
        source, swapped = balanced_source(key, correct, donors)
        group, legal, beta = mine, np.array(~correct[:, None] & donors[None]), 0.0
        path = [slot for slot in range(4) if swapped[slot]]
        for slot in [*path, None]:
            distances = np.asarray(one_replacement(group, theirs))
            beta = max(beta, distances[legal].max(initial=0.0))
            if slot is not None:
                group = {name: group[name].at[slot].set(theirs[name][source[slot]]) for name in group}
                legal[slot] = False
        np.testing.assert_allclose(result.beta, beta, atol=1e-5)
        np.testing.assert_allclose(result.distance, norm(linear_gradient(group) - linear_gradient(mine)), atol=1e-5)
        assert result.replacements == len(path)
        found += len(path)
    assert found > 5


def test_the_bound_holds_on_ten_thousand_groups():
    mine, theirs, correct, donors = random_groups(np.random.default_rng(2), 10_000)
    keys = jax.random.split(jax.random.key(0), 10_000)
    result = jax.jit(jax.vmap(bound_of))(keys, mine, theirs, correct, donors)
    distance, bound, count = (np.asarray(x) for x in (result.distance, result.bound, result.replacements))
    assert (bound >= distance * (1 - 1e-5)).all()
    assert (distance[count == 0] == 0).all() and (count > 0).mean() > 0.3
    assert 1 <= np.median(bound[count > 0] / distance[count > 0]) < 100


@pytest.mark.slow
def test_measured_on_a_real_policy(getkey):
    """From scores, in one program, what jax.grad of the policy's own loss says, one replacement after the other."""
    clients, prompts, group = 2, 2, 4
    model, base, adapter = toy(getkey())
    hparams = Hparams.create(swap_weight=0.5, temperature=0.7)
    adapters = jax.tree.map(lambda x: x[None] + 0.3 * jax.random.normal(getkey(), (clients, *x.shape)), adapter)
    asked = jax.tree.map(lambda x: jnp.broadcast_to(x[:prompts], (clients, prompts, *x.shape[1:])), toy_targets[0])
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 10, (clients, prompts, group, 3), np.int32)
    mask = np.arange(3) < rng.integers(1, 4, (clients, prompts, group, 1))
    correct = jnp.array([[[1, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 1, 1, 1]]], bool)
    before, verdicts = Rollout(tokens, mask, np.zeros(mask.shape, np.float32)), Verdict.from_correct(correct)
    plan = swap.balanced(getkey(), correct)
    after, given = swap.apply_swap(plan, (before, verdicts))
    record = StepRecord({}, before, verdicts, after, given, plan, adapters)
    measure = distortion.make_measure(partial(response_logps, model), losses.group_advantages, losses.per_sequence)
    found = jax.device_get(measure(base, adapters, asked, record, hparams))
    assert found.replacements.tolist() == [2, 1], "the group with the most replacements"

    @jax.jit
    def gradient(adapter, prompt, response, length, reward, swapped):
        def loss(adapter, old):
            logps = response_logps(model, base, adapter, prompt, response[None], temperature=hparams.temperature)
            weights = jnp.where(swapped, hparams.swap_weight, 1.0)[None, :, None]
            advantages, old = losses.group_advantages(reward)[None], logps if old is None else old
            return losses.grpo_loss(logps, old, advantages, length[None], hparams, token_weights=weights)[0]

        old = response_logps(model, base, adapter, prompt, response[None], temperature=hparams.temperature)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(jax.grad(loss)(adapter, old))])

    for client, row in ((0, 1), (1, 0)):
        adapter, prompt = (jax.tree.map(lambda x, c=client: x[c], tree) for tree in (adapters, asked))
        at = partial(gradient, adapter, jax.tree.map(lambda x, b=row: x[None, b], prompt))
        own, received = (
            [np.asarray(x[client, row]) for x in (r.tokens, r.mask, v.reward)] for r, v in ((before, verdicts), (after, given))
        )
        taken = np.asarray(plan.swapped[client, row])
        own, received = [*own, np.zeros(group, bool)], [*received, np.ones(group, bool)]
        legal, path, beta = ~np.asarray(correct[client, row]), own, 0.0
        for slot in [*np.flatnonzero(taken), None]:
            here = at(*path)
            for free, donor in itertools.product(np.flatnonzero(legal), np.flatnonzero(taken)):
                beta = max(beta, norm(at(*(_with(x, free, y[donor]) for x, y in zip(path, received, strict=True))) - here))
            if slot is not None:
                path = [_with(x, slot, y[slot]) for x, y in zip(path, received, strict=True)]
                legal[slot] = False
        np.testing.assert_allclose(found.distance[client], norm(at(*path) - at(*own)), rtol=1e-3)
        np.testing.assert_allclose(found.beta[client], beta, rtol=1e-3)
        assert found.bound[client] >= found.distance[client] > 1e-3


def _with(x, slot, value):
    changed = x.copy()
    changed[slot] = value
    return changed
