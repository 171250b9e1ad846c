"""Groups without variance: filled from a new draw as a plain loop would, and a federation's step that asks again."""

import jax
import jax.numpy as jnp
import numpy as np
from toy_rounds import CLIENTS, HPARAMS, KEY, federation, one_client, same, started, step, world
from toy_rounds import _shared as PROGRAMS

import pubswap_jax as ps
from pubswap_jax.algorithm.resampling import fill, not_flat
from pubswap_jax.types import Prompts, Rollout, Verdict


def groups(number, rewards):
    """One client's groups whose every array holds `number` + the group's place."""
    rewards = jnp.asarray(rewards, float)
    marks = number + jnp.arange(len(rewards))
    wide = jnp.broadcast_to(marks[:, None, None], (*rewards.shape, 2))
    prompts = Prompts(marks[:, None], jnp.ones_like(marks[:, None], bool))
    return prompts, Rollout(wide, wide >= 0, wide.astype(float)), Verdict(rewards, rewards > 0, rewards.astype(jnp.int8))


def obvious(kept, found):
    """The k-th flat row takes the k-th row of `found` that is not flat."""
    spare = [len(kept) + i for i, row in enumerate(found) if len(set(row)) > 1]
    return [spare.pop(0) if len(set(row)) == 1 and spare else i for i, row in enumerate(kept)]


def test_flat_groups_are_filled_as_by_a_plain_loop():
    chance = np.random.default_rng(0)
    for flat in (0.0, 0.3, 0.7, 1.0):
        for _ in range(20):
            kept, found = ((chance.random((5, 3)) > 0.5) * (chance.random((5, 1)) >= flat) for _ in range(2))
            (prompts, rollout, verdict), source = fill(groups(0, kept), groups(5, found))
            expected = obvious(kept.tolist(), found.tolist())
            assert source.tolist() == prompts.tokens[:, 0].tolist() == rollout.tokens[:, 0, 0].tolist() == expected
            assert (verdict.reward == np.concatenate([kept, found])[expected]).all()


def test_a_group_counts_where_an_advantage_is_not_zero():
    assert not_flat(jnp.array([[0.0, 0.0], [0.0, -1.0]])).tolist() == [False, True]


def judge(rollouts, batch):
    """The parity judge, except that the first two questions of a batch with ids of -1 are never answered right."""
    verdict = ps.parity_judge(rollouts, batch)
    wrong = (jnp.arange(4)[None] < 2) & (batch.ids < 0)
    return Verdict.from_correct(verdict.correct & ~wrong[..., None])


def test_a_step_learns_from_other_questions_where_groups_are_flat():
    first, second, _ = world()[3]
    first, second = first.replace(ids=jnp.full((CLIENTS, 4), -1)), second.replace(ids=jnp.zeros((CLIENTS, 4), int))
    asked = []

    def again(verdicts, done):
        asked.append(verdicts.reward)
        return second if done < 1 else None

    arguments = judge, ps.direct, KEY, HPARAMS
    base, state = world()[1], started()
    after, record = federation().step(base, state, first.replace(again=again), *arguments)
    ((answers, source),) = record.drawn
    same(answers, second.answers)
    alone = federation().step(base, state, first, *arguments)[1]
    swap_key = jax.random.split(KEY)[1]
    other_key = jax.random.split(swap_key)[1]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(other_key, state.clients.id)
    said = PROGRAMS["rollout"](base, state.clients, second.prompts, keys, HPARAMS)
    both = jnp.concatenate([alone.verdicts.reward, judge(said, second).reward], 1).tolist()
    assert source.tolist() == [obvious(rewards[:4], rewards[4:]) for rewards in both]
    assert (source[:, :2] >= 4).any(), "nothing was replaced: this case shows nothing"
    pick = jax.vmap(lambda x, places: x[places])
    tokens = jnp.concatenate([alone.rollouts.tokens, said.tokens], 1)
    np.testing.assert_array_equal(record.rollouts.tokens, pick(tokens, source))
    prompts = jax.tree.map(lambda x, y: pick(jnp.concatenate([x, y], 1), source), first.prompts, second.prompts)
    nothing = jnp.zeros_like(record.verdicts.correct)
    learnt = prompts, record.rollouts, record.verdicts, nothing, HPARAMS
    expected, _ = PROGRAMS["update"](base, state.server.adapter, state.clients, *learnt)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), after.clients.adapter, expected.adapter)
    assert len(asked) == 2 and (asked[1] == record.verdicts.reward).all()


def test_a_step_without_flat_groups_is_the_step_as_it_was():
    batch = world()[3][0]
    state, record = step(started(), batch)
    other, same_record = step(started(), batch.replace(again=lambda verdicts, done: None))
    same(one_client(state.clients, 0), one_client(other.clients, 0))
    assert record.drawn == same_record.drawn == ()
