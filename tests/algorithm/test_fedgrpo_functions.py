"""The functions that FedGRPO compiles, apart from a model: bits, reports and advice."""

import jax
import jax.numpy as jnp
import numpy as np

import pubswap_jax as ps
from pubswap_jax.algorithm.experts import Judging, no_use
from pubswap_jax.algorithm.fedgrpo_functions import cut_off, expert_functions
from pubswap_jax.algorithm.losses import group_advantages
from pubswap_jax.algorithm.truncation import penalise_truncated
from pubswap_jax.policy.embedding import Encoder

C, B, G = 3, 2, 4
ENCODER = Encoder(2, lambda base, prompts: base["at"])
JUDGING = Judging(experts=2, neighbours=1, auxiliary=2)
RUN = expert_functions(None, ENCODER, C, JUDGING, lambda rewards, rollouts: rewards)
ADAPTERS = {"a": jnp.array([[1.0], [jnp.nan], [2.0]])}  # client 1's is not finite


def test_a_client_without_a_finite_adapter_has_neither_bits_nor_rewards():
    bits = RUN["bits"](jnp.ones((C, B, 1), bool), ADAPTERS)
    assert bits["correct"][:, 0, 0].tolist() == [True, False, True] and bits["reward"][1].sum() == 0
    asked = jnp.array([[True, False], [True, True], [False, True]])
    report = RUN["report"](jnp.full((C, B, G), 0.5), asked, ADAPTERS)
    np.testing.assert_array_equal(report["reward"][..., 0], [[0.5, 0], [np.nan, np.nan], [0, 0.5]])
    np.testing.assert_array_equal(report["asked"], asked)


def test_the_experts_are_those_who_know_the_nearest_auxiliary_question():
    base = {"at": jnp.array([[1.0, 0.0], [0.0, 1.0]])}  # question b lies at auxiliary question b
    known = jnp.array([[True, False], [True, True], [False, True]])
    prompts = ps.Prompts(jnp.zeros((1, B, 1), int), jnp.ones((1, B, 1), bool))
    sound = {"a": jnp.ones((C, 1))}
    experts, asked, able = RUN["choose"](base, prompts, base["at"], known, sound, jax.random.key(0))
    assert [sorted(row) for row in experts.tolist()] == [[0, 1], [1, 2]]
    np.testing.assert_array_equal(asked, [[True, False], [True, True], [False, True]])
    assert able.tolist() == [1.0], "the mean competence of the experts"
    experts, _, able = RUN["choose"](base, prompts, base["at"], known, ADAPTERS, jax.random.key(0))
    assert [sorted(row) for row in experts.tolist()] == [[0, 2], [0, 2]] and able.tolist() == [0.5]


def test_advice_is_of_the_experts_alone():
    experts, asked = jnp.array([[0, 1], [1, 2]]), jnp.array([[True, False], [True, True], [False, True]])
    rewards = (
        jnp.zeros((C, B, G))
        .at[0, 0, 0]
        .set(1.0)
        .at[1, 0, 0]
        .set(1.0)
        .at[0, 0, 1]
        .set(1.0)
        .at[2, 0, 3]
        .set(9.0)
        .at[1, 1, 2]
        .set(jnp.nan)
    )
    advantages, verdict, use = RUN["advise"](rewards, experts, asked, no_use(C), None)
    np.testing.assert_array_equal(verdict.reward, [[[1, 0.5, 0, 0], [0, 0, 0, 0]]])
    assert verdict.correct[0, 0].tolist() == [True, True, False, False], "right for at least half of the experts"
    np.testing.assert_array_equal(verdict.correct, np.asarray(verdict.reward) >= 0.5)
    deviation = (15 / 64) ** 0.5  # of 1, 1, 1 and five zeros
    np.testing.assert_allclose(
        advantages.reward[0, 0], [5 / 8 / deviation, 1 / 8 / deviation, *[-3 / 8 / deviation] * 2], atol=1e-4
    )
    assert (np.asarray(advantages.reward[0, 1]) == 0).all()
    assert use.asked.tolist() == [4, 8, 4] and use.given.tolist() == [4, 7, 4]


def test_a_cut_off_candidate_loses_reward_before_rewards_become_advantages():
    lengths, last = jnp.array([4, 4, 2, 2]), jnp.array([7, 5, 0, 0])  # 7 ends a response: the second one alone is cut off
    mask, tokens = jnp.arange(4)[None] < lengths[:, None], jnp.where(jnp.arange(4)[None] == 3, last[:, None], 5)
    rollouts = ps.Rollout(*(jnp.broadcast_to(x, (1, B, G, 4)) for x in (tokens, mask)), None)
    rewards = jnp.broadcast_to(jnp.array([1.0, 0, 1, 0]), (C, B, G)).at[1, 1].set(jnp.nan)
    experts, asked = jnp.array([[0, 1], [1, 2]]), jnp.array([[True, False], [True, True], [False, True]])

    def advised(truncation):
        run = expert_functions(None, ENCODER, C, JUDGING, cut_off(truncation, (7,)))
        return run["advise"](rewards, experts, asked, no_use(C), rollouts)

    advantages, verdict, _ = advised(penalise_truncated(2))
    expected = group_advantages(jnp.array([0.0, -1, 1, 0]))
    np.testing.assert_allclose(advantages.reward, jnp.broadcast_to(expected, (1, B, G)), atol=1e-5)
    np.testing.assert_array_equal(verdict.reward[0, 0], [1, 0, 1, 0])
    advantages, *_ = advised(lambda reward, mask, truncated: (reward - 3 * truncated, reward))
    expected = group_advantages(jnp.array([1.0, -3, 1, 0]))
    np.testing.assert_allclose(advantages.reward, jnp.broadcast_to(expected, (1, B, G)), atol=1e-5)


def test_the_survey_is_a_group_of_one_answer_by_each_client():
    said = ps.Rollout(jnp.arange(C * 2 * 5).reshape(C, 2, 1, 5), jnp.ones((C, 2, 1, 5), bool), jnp.zeros((C, 2, 1, 5)))
    correct = jnp.array([[True, False], [False, False], [True, True]])[..., None]
    prompts = ps.Prompts(jnp.zeros((1, 2, 1), int), jnp.ones((1, 2, 1), bool))
    embedded, known, grouped, verdicts, plan, metrics = RUN["surveyed"]({"at": jnp.eye(2)}, prompts, said, correct)
    np.testing.assert_array_equal(known, correct[..., 0])
    np.testing.assert_array_equal(embedded, np.eye(2))
    np.testing.assert_array_equal(grouped.tokens[0, 1, 2], said.tokens[2, 1, 0])
    assert verdicts.correct[0, 0].tolist() == [True, False, True] and not plan.swapped.any()
    assert metrics["correct"].tolist() == [0.5]
