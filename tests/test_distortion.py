"""The theory made measurable: distances of replacements against explicit loops, and the bound on ten thousand groups."""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax import distortion, grpo, swap
from pubswap_jax.model import response_logps
from pubswap_jax.toyworld import toy, toy_targets
from pubswap_jax.types import Hparams

WIDTH = 6


def linear_gradient(group):
    """G of one group on policy: −(1/G) Σ Aᵢ ∇ mean log π(yᵢ), with the gradients of the responses given."""
    advantages = grpo.group_advantages(group["reward"])
    return -jnp.tensordot(advantages, group["score"], axes=1) / advantages.shape[0]


def random_groups(rng, count, group=4, others=8):
    correct = rng.random((count, group)) < rng.choice([0.0, 0.2, 0.5], size=(count, 1))
    donors = rng.random((count, others)) < rng.choice([0.1, 0.5], size=(count, 1))
    mine = {"score": rng.normal(size=(count, group, WIDTH)), "reward": correct.astype(float)}
    theirs = {"score": rng.normal(size=(count, others, WIDTH)), "reward": donors.astype(float)}
    as_f32 = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)  # noqa: E731
    return as_f32(mine), as_f32(theirs), jnp.asarray(correct), jnp.asarray(donors)


def balanced_source(key, correct, donors):
    """What Balanced gives client 0, whose two neighbours hold the donors: (donor index, swapped) of each slot."""
    group = correct.shape[0]
    plan = swap.balanced(key, jnp.concatenate([correct[None], donors.reshape(-1, group)])[:, None])
    return jnp.maximum(plan.source[0, 0] - group, 0), plan.swapped[0, 0]


def bound_of(key, mine, theirs, correct, donors):
    source, swapped = balanced_source(key, correct, donors)
    legal = ~correct[:, None] & donors[None]
    return distortion.distortion_bound(linear_gradient, mine, theirs, source, swapped, legal)


def norm(x):
    return float(np.sqrt(np.sum(np.square(np.asarray(x, np.float64)))))


def test_one_replacement_distortion_equals_the_loop():
    mine, theirs, _, _ = (jax.tree.map(lambda x: x[0], part) for part in random_groups(np.random.default_rng(0), 1))
    distances = distortion.one_replacement_distortion(linear_gradient, mine, theirs)
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
            distances = np.asarray(distortion.one_replacement_distortion(linear_gradient, group, theirs))
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


def test_the_gradient_of_a_real_policy():
    """With jax.grad of the policy's own loss: a group's gradient moves by what the pull-back of two responses says."""
    model, params, lora = toy(jax.random.key(0))
    lora = jax.tree.map(lambda x: x + 0.1, lora)
    prompts, tokens = jax.tree.map(lambda x: jnp.asarray(x[:1]), toy_targets)

    def gradient(group):
        mask = jnp.ones(group["tokens"].shape, bool)[None]

        def loss(adapter, old):
            logps = response_logps(model, params, adapter, prompts, group["tokens"][None])
            old = logps if old is None else old
            return grpo.grpo_loss(logps, old, grpo.group_advantages(group["reward"])[None], mask, Hparams.create())[0]

        old = response_logps(model, params, lora, prompts, group["tokens"][None])
        return jax.grad(loss)(lora, old)

    group = {"tokens": tokens[0][:3], "reward": jnp.array([0.0, 0.0, 1.0])}
    donors = {"tokens": tokens[0][3:5], "reward": jnp.ones(2)}
    distances = jax.jit(lambda g, d: distortion.one_replacement_distortion(gradient, g, d))(group, donors)
    assert distances.shape == (3, 2)
    replaced = {name: group[name].at[1].set(donors[name][1]) for name in group}
    difference = jax.tree.map(lambda x, y: x - y, jax.jit(gradient)(replaced), jax.jit(gradient)(group))
    expected = np.sqrt(sum(norm(leaf) ** 2 for leaf in jax.tree.leaves(difference)))
    np.testing.assert_allclose(distances[1, 1], expected, rtol=1e-4)
    assert expected > 1e-3
