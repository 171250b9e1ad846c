"""Experts: selection and normalisation equal a plain loop, and rewards that say nothing are survived."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pubswap_jax.algorithm import experts
from pubswap_jax.algorithm.losses import group_advantages

C, A, B, G, M, D = 4, 7, 5, 6, 2, 3


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("count, seed", [(1, 0), (3, 1), (7, 2), (20, 3)])
def test_selection_equals_a_plain_loop(count, seed):
    rng = np.random.default_rng(seed)
    questions, auxiliary, known = unit(rng, B, D), unit(rng, A, D), rng.random((C, A)) < 0.5
    usable, key = np.array([True, True, False, True]), jax.random.key(seed)
    able = experts.competence(known, experts.nearest(questions, auxiliary, count))
    chosen = np.asarray(experts.by_competence(able, usable, key, M))
    ties = np.asarray(jax.random.uniform(key, (C, B)))
    for b in range(B):
        cosines = [float(questions[b] @ auxiliary[a]) for a in range(A)]
        near = sorted(range(A), key=lambda a: -cosines[a])[:count]
        right = [sum(bool(known[c, a]) for a in near) / len(near) for c in range(C)]
        np.testing.assert_allclose(able[:, b], right, rtol=1e-6)
        ranked = sorted(range(C), key=lambda c: (right[c] if usable[c] else -1, ties[c, b]), reverse=True)
        assert chosen[b].tolist() == ranked[:M]


def test_a_client_that_is_not_usable_is_an_expert_only_where_no_other_is_left():
    able, usable = jnp.array([[1.0], [0.0], [0.5]]), jnp.array([False, True, True])
    assert experts.by_competence(able, usable, jax.random.key(0), 2).tolist() == [[2, 1]]
    assert experts.by_competence(able, usable, jax.random.key(0), 3).tolist() == [[2, 1, 0]]
    with pytest.raises(ValueError, match="experts: 1 to 3 a question expected, got 4"):
        experts.by_competence(able, usable, jax.random.key(0), 4)


def test_ties_and_random_experts_favour_nobody():
    able = jnp.stack([jnp.full(3000, 0.5)] * C).at[0].set(1.0)
    usable, key = jnp.ones(C, bool), jax.random.key(0)
    shares = experts.asked_of(experts.by_competence(able, usable, key, 2), C).mean(1)
    np.testing.assert_allclose(shares, [1, 1 / 3, 1 / 3, 1 / 3], atol=0.03)
    np.testing.assert_allclose(experts.asked_of(experts.at_random(able, usable, key, 2), C).mean(1), [0.5] * C, atol=0.03)


def rewards_with_gaps(seed):
    rng = np.random.default_rng(seed)
    rewards = (rng.random((B, G, M)) < 0.4).astype(np.float32) if seed % 2 else rng.normal(size=(B, G, M)).astype(np.float32)
    rewards[0], rewards[1, :, 1], rewards[2, 0] = np.nan, np.inf, np.nan  # nobody; one expert is absent; one candidate is lost
    rewards[3] = 1.0
    return rewards


def plain(rewards, over, scale, eps=1e-6):
    """The advantages of one question [G, M], by loops over lists."""
    normal = np.full(rewards.shape, np.nan)
    for g in range(G):
        for m in range(M):
            rows = range(G) if over != "experts_then_mean" else [g]
            columns = range(M) if over != "candidates" else [m]
            beside = [rewards[i, j] for i in rows for j in columns if np.isfinite(rewards[i, j])]
            if np.isfinite(rewards[g, m]):
                difference = 0.0 if max(beside) == min(beside) else rewards[g, m] - np.mean(beside, dtype=np.float64)
                normal[g, m] = difference / (np.std(beside, dtype=np.float64) + eps) if scale else difference
    return [np.mean([x for x in row if np.isfinite(x)] or [0.0]) for row in normal]


@pytest.mark.parametrize("over", experts.AXES)
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_normalisation_equals_a_plain_loop(over, scale, seed):
    rewards = rewards_with_gaps(seed)
    found = experts.expert_advantages(rewards, over, scale=scale)
    for b in range(B):
        np.testing.assert_allclose(found[b], plain(rewards[b], over, scale), atol=2e-5)
    assert np.all(np.asarray(found)[[0, 3]] == 0), "nobody said anything, or all said the same"
    slope = jax.grad(lambda r: experts.expert_advantages(r, over, scale=scale).sum())(jnp.asarray(rewards))
    assert np.isfinite(slope).all()


def test_over_the_experts_of_one_candidate_nothing_is_learned():
    """The paper's formula read literally: the rewards of M experts of one candidate are centred, so their mean is 0."""
    rewards = jax.random.uniform(jax.random.key(0), (50, G, 3))
    literal = experts.expert_advantages(rewards, "experts_then_mean")
    np.testing.assert_allclose(literal, np.zeros((50, G)), atol=1e-5)
    assert np.abs(experts.expert_advantages(rewards, "candidates_and_experts")).mean() > 0.3
    with pytest.raises(ValueError, match="over: one of candidates_and_experts, candidates, experts_then_mean expected"):
        experts.expert_advantages(rewards, "experts")


def test_one_expert_gives_the_advantages_of_grpo():
    rewards = (jax.random.uniform(jax.random.key(1), (B, G, 1)) < 0.5).astype(float)
    for over in ("candidates_and_experts", "candidates"):
        np.testing.assert_allclose(experts.expert_advantages(rewards, over), group_advantages(rewards[..., 0]), atol=1e-6)


@pytest.mark.parametrize("other", ["zeros", "ones", "nan", "inf"])
def test_an_expert_that_says_nothing_leaves_the_order_of_the_candidates(other):
    right = jnp.array([1.0, 0, 0, 1, 0, 0])
    nothing = {"zeros": jnp.zeros(G), "ones": jnp.ones(G), "nan": jnp.full(G, jnp.nan), "inf": jnp.full(G, jnp.inf)}[other]
    rewards = jnp.stack([right, nothing], -1)[None]
    for over in ("candidates_and_experts", "candidates"):
        found = experts.expert_advantages(rewards, over)[0]
        assert np.isfinite(found).all() and found[right == 1].min() > 0.1 > -0.1 > found[right == 0].max()
    if other in ("nan", "inf"):
        np.testing.assert_allclose(found, group_advantages(right), atol=1e-6)
        np.testing.assert_array_equal(experts.mean_rewards(rewards)[0], right)


def test_the_work_of_experts_is_counted():
    chosen = jnp.array([[0, 1], [1, 3]], jnp.int32)
    asked = experts.asked_of(chosen, C)
    np.testing.assert_array_equal(asked, [[True, False], [True, True], [False, False], [False, True]])
    rewards = np.zeros((C, 2, 3), np.float32)
    rewards[0, 0], rewards[1], rewards[3, 1], rewards[2] = [1, 0, 1], np.nan, 1.0, 9.0
    np.testing.assert_array_equal(experts.rewards_of_experts(rewards, chosen)[1, :, 1], [1, 1, 1])
    use = experts.used(experts.used(experts.no_use(C), rewards, asked), rewards, asked)
    found = experts.figures(use, jnp.array([[True, False], [True, True], [False, False], [True, True]]))
    np.testing.assert_allclose(found["experts_asked"], [6 / 24, 12 / 24, 0, 6 / 24])
    np.testing.assert_allclose(found["experts_given"], [1, 0, 0, 1])
    np.testing.assert_allclose(found["experts_reward"], [2 / 3, 0, 0, 1], rtol=1e-6)
    assert found["experts_constant"].tolist() == [0, 0, 0, 1], "client 1 gave nothing, and client 2 was never asked"
    np.testing.assert_allclose(found["experts_competence"], [0.5, 1, 0, 1])
