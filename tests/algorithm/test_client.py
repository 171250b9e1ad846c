"""The client: it learns and samples the same alone and stacked, starts with what came down, and uploads what crosses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_rounds import CLIENTS, HPARAMS, TX, close, learner, make_client, one_client, public_step, same, started, step, world

from pubswap_jax.algorithm.pubswap import check_shapes, receive


@pytest.mark.slow
def test_an_update_of_a_private_step_is_that_of_the_client_alone():
    """One client of the stack, updated by the client's own `learn` without a client axis."""
    batch = world()[3][0]
    after, record = step(started(), batch)
    received, client = started().server.adapter, make_client()
    for c in range(CLIENTS):
        pick = partial(jax.tree.map, lambda x, c=c: x[c])
        given = pick((started().clients, batch.prompts, record.rollouts, record.verdicts, record.plan.swapped))
        found, metrics = jax.jit(client.learn)(world()[1], received, *given, HPARAMS)
        close(found, pick(after.clients))
        close(metrics, {name: record.metrics[name][c] for name in metrics}, atol=1e-5)


@pytest.mark.slow
def test_a_client_samples_the_same_alone_and_stacked():
    batch, (_, together) = world()[3][0], step(started(), world()[3][0])
    for c in range(CLIENTS):
        _, alone = step(started(), batch, who=np.arange(CLIENTS) == c)
        same(alone.rollouts.tokens[c], together.rollouts.tokens[c])
    assert (together.rollouts.tokens[0] != together.rollouts.tokens[1]).any()


def test_one_client_learns_alone_what_it_learns_in_the_stack():
    received, *stacked = public_step()
    together, metrics = learner()(received, *stacked, HPARAMS)
    for c in range(CLIENTS):
        alone, own = learner()(received, *one_client(stacked, c), HPARAMS)
        close(alone, one_client(together, c))
        close(own, one_client(metrics, c), atol=1e-5)


def test_relabelling_the_clients_relabels_the_update():
    received, *stacked = public_step()
    relabel = partial(jax.tree.map, lambda x: x[np.array([2, 0, 1])])
    close(learner()(received, *relabel(stacked), HPARAMS), relabel(learner()(received, *stacked, HPARAMS)))


def test_donors_log_probs_stay_at_home():
    *_, rollouts, _, swapped = public_step()
    assert (rollouts.logps[swapped] == 0).all() and (rollouts.logps[~swapped & rollouts.mask[..., 0]] != 0).any()


def test_a_client_learns_from_swapped_slots_and_its_own_ones():
    """All slots of client 0 are given, none of client 1's: the first one has nothing of its own left."""
    _, record = step(started(), world()[3][2])
    own = record.rollouts, record.verdicts
    slots = jnp.zeros(record.plan.swapped.shape, bool).at[0].set(True)
    given = {"tokens": own[0].tokens + 1, "mask": ~own[0].mask, "correct": ~own[1].correct, "reward": own[1].reward + 2}
    rollouts, verdicts = receive(*own, given | {"slots": slots})
    same((rollouts.tokens[0], rollouts.mask[0]), (given["tokens"][0], given["mask"][0]))
    same((verdicts.correct[0], verdicts.reward[0]), (given["correct"][0], given["reward"][0]))
    same(jax.tree.map(lambda x: x[1], (rollouts, verdicts)), jax.tree.map(lambda x: x[1], own))


@pytest.mark.parametrize("moments", ["reset", "average", "keep"])
def test_the_start_of_a_round(moments):
    """The adapter is what came down; the moments are fresh, what came down, or the client's own."""
    client, adapter = make_client(moments=moments), world()[2]
    trained = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), TX.init(adapter))
    before = client.start({"adapter": adapter}).replace(opt_state=trained, steps=jnp.int32(7))
    sent = {"adapter": jax.tree.map(lambda x: x - 1, adapter)}
    averaged = jax.tree.map(lambda x: 2 * x, trained)
    after = client.start(sent | ({"moments": averaged} if moments == "average" else {}), before)
    same(after.adapter, sent["adapter"])
    same(after.opt_state, {"reset": TX.init(adapter), "average": averaged, "keep": trained}[moments])
    assert after.steps == 0 and after.received == ()
    uploaded, extra = client.upload(after)
    same(uploaded["adapter"], after.adapter)
    assert set(uploaded) == {"adapter", "moments"} - ({"moments"} if moments != "average" else set()) and extra == {}


def test_out_of_lockstep_a_client_keeps_what_it_received():
    client, adapter = make_client(lockstep=False), world()[2]
    same(client.start({"adapter": adapter}).received, adapter)


def test_shapes_that_do_not_fit_are_named():
    _, _, prompts, rollouts, verdicts, swapped = public_step()
    check_shapes(prompts, rollouts, verdicts, swapped)
    with pytest.raises(ValueError, match=r"verdicts.reward: shape \[3, 4, 4\] expected"):
        check_shapes(prompts, rollouts, verdicts.replace(reward=verdicts.reward[:, :2]), swapped)
    with pytest.raises(ValueError, match=r"plan.swapped: shape \[3, 4, 4\] expected"):
        check_shapes(prompts, rollouts, verdicts, swapped[:2])
    with pytest.raises(ValueError, match=r"rollouts.tokens: \[C, B, G, R\] expected"):
        check_shapes(prompts, rollouts.replace(tokens=rollouts.tokens[0]), verdicts, swapped)
