"""PubSwap's roles and their federation: what a step, an averaging and a round may change, and gradients through a round."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_rounds import (
    CLIENTS,
    GROUP,
    HPARAMS,
    KEY,
    TX,
    close,
    far_apart,
    federation,
    one_client,
    same,
    started,
    step,
    world,
)

import pubswap_jax as ps
from pubswap_jax.algorithm import losses
from pubswap_jax.algorithm.aggregation import alone
from pubswap_jax.policy.toyworld import TOY_CONFIG

TWO = jnp.array([1.0, 0.0, 1.0])  # weights with client 1 absent
PUBLIC = 2  # the number of the public batch


def run(state, weights=None, batches=None, hparams=HPARAMS, **server):
    """A round of `federation(**server)`. -> state, metrics"""
    batches = world()[3] if batches is None else batches
    return ps.round_step(federation(**server), world()[1], state, batches, ps.parity_judge, KEY, hparams, weights)


@pytest.fixture(scope="module")
def begun():
    return federation().init(world()[2])


@pytest.fixture(scope="module")
def after_a_round(begun):
    return run(begun)


# --- a step -------------------------------------------------------------------------------------------------------------


def test_an_identity_plan_is_plain_grpo_to_the_bit():
    batch = world()[3][PUBLIC]
    swapped = step(started(), batch, planner=ps.no_swap)
    plain = step(started(), batch.replace(public=False), planner=ps.no_swap)
    same(swapped, plain)


def test_a_swapped_slot_is_the_donors_response_with_its_verdict():
    _, record = step(started(), world()[3][PUBLIC])
    before, after = record.rollouts, record.swapped_rollouts
    for c, b, g in zip(*np.nonzero(np.ones(record.plan.source.shape)), strict=True):
        donor, slot = divmod(int(record.plan.source[c, b, g]), GROUP)
        assert bool(record.plan.swapped[c, b, g]) == (donor != c)
        same((after.tokens[c, b, g], after.mask[c, b, g]), (before.tokens[donor, b, slot], before.mask[donor, b, slot]))
        assert record.swapped_verdicts.reward[c, b, g] == record.verdicts.reward[donor, b, slot]


def test_an_absent_client_changes_nothing_even_full_of_nan():
    clients, here = started().clients, TWO > 0
    spoilt = started().replace(clients=clients.replace(adapter=jax.tree.map(lambda x: x.at[1].set(jnp.nan), clients.adapter)))
    (after, record), (expected, _) = (step(state, world()[3][PUBLIC], who=here) for state in (spoilt, started()))
    assert not record.plan.swapped[1].any() and not (record.plan.source[jnp.array([0, 2])] // GROUP == 1).any()
    for index in (0, 2):
        same(one_client(after.clients, index), one_client(expected.clients, index))
    same(one_client(after.clients, 1), one_client(spoilt.clients, 1))
    averaged = [federation().close(state, ps.direct, TWO)[0].server for state in (after, expected)]
    same(*averaged)
    opened = federation().open(far_apart(expected), ps.direct, here)
    same(one_client(opened.clients.adapter, 1), one_client(far_apart(expected).clients.adapter, 1))
    same(one_client(opened.clients.adapter, 0), one_client(started().clients.adapter, 0))


# --- rounds -------------------------------------------------------------------------------------------------------------


def test_round_step_is_its_steps_then_the_average(begun, after_a_round):
    state = federation().open(begun, ps.direct)
    for t, batch in enumerate(world()[3]):
        state, record = step(state, batch, key=jax.random.fold_in(jax.random.fold_in(KEY, 0), t))
        assert record.plan.swapped.any() == (t == PUBLIC)
    following, metrics = after_a_round
    same(following.clients, state.clients)
    close(following.server.adapter, ps.fedavg(state.clients.adapter))
    assert following.round == 1 and begun.round == 0
    assert (following.clients.steps == 3).all() and (following.clients.version == 0).all()
    assert all(value.shape == (3, CLIENTS) for value in metrics.values())
    assert {"loss", "reward", "length", "truncated", "entropy", "grad_norm", "clip_share", "swapped", "rescued"} <= set(metrics)


def test_the_rounds_key_depends_on_the_round(begun):
    first, later = (
        run(begun.replace(server=begun.server.replace(round=jnp.int32(r))), batches=world()[3][:1])[1]["reward"] for r in (0, 1)
    )
    assert (first != later).any()


def test_shared_is_the_servers_adapter_and_own_the_clients(after_a_round):
    state, _ = after_a_round
    same(federation().shared(state), state.server.adapter)
    same(federation().own(state), state.clients.adapter)


def test_weights_that_sum_to_zero(begun):
    with pytest.raises(ValueError, match="weights: .*expected"):
        run(begun, jnp.zeros(CLIENTS))
    for moments in ("reset", "average"):
        state = far_apart(federation(moments=moments).open(federation(moments=moments).init(world()[2]), ps.direct))
        kept, _ = jax.jit(lambda state, w, m=moments: federation(moments=m).close(state, ps.direct, w))(
            state, jnp.zeros(CLIENTS)
        )
        same(kept.server.adapter, state.server.adapter)
        same(kept.server.moments, state.server.moments)


def test_moments_are_reset_kept_or_averaged(after_a_round):
    state, _ = after_a_round
    trained = state.clients.opt_state
    reset = federation().open(state, ps.direct).clients
    assert (trained.count == 3).all() and (reset.opt_state.count == 0).all()
    kept = federation(moments="keep").open(state, ps.direct).clients
    same(kept.opt_state, trained)
    same(kept.adapter, ps.broadcast(state.server.adapter, CLIENTS))

    averaging = federation(moments="average")
    state = averaging.init(world()[2]).replace(clients=state.clients)
    opened = averaging.open(averaging.close(state, ps.direct)[0], ps.direct).clients
    close(opened.opt_state, ps.broadcast(ps.fedavg(trained), CLIENTS))
    assert (opened.opt_state.count == 3).all()


def test_an_optimizer_without_moments_has_none_to_average():
    averaging = ps.pubswap(world()[0], optax.identity(), num_clients=CLIENTS, group=GROUP, moments="average")
    state, _ = averaging.close(averaging.open(averaging.init(world()[2]), ps.direct), ps.direct)
    assert jax.tree.leaves(state.server.moments) == [] and state.round == 1


def test_local_only_training_never_averages(begun):
    state = federation(aggregator=alone()).init(world()[2])
    state, _ = run(state, aggregator=alone())
    same(state.server.adapter, begun.server.adapter)
    assert state.round == 1 and federation(aggregator=alone()).shared(state) is None
    again, _ = run(state, aggregator=alone())
    assert (again.clients.opt_state.count == 6).all()


def test_a_round_that_spoils_everybody_leaves_the_adapter_as_it_was(begun):
    hot, batches = HPARAMS.replace(lr=jnp.nan), world()[3][:1]
    spoilt, _ = step(started(), batches[0], hparams=hot)
    assert not any(np.isfinite(x).any() for x in jax.tree.leaves(spoilt.clients.adapter))
    found, _ = run(begun, batches=batches, hparams=hot)
    same(found.server.adapter, begun.server.adapter)
    same(found.clients.adapter, ps.broadcast(begun.server.adapter, CLIENTS))


# --- the round as a function: jit, grad, vmap -----------------------------------------------------------------------------

ONE_LAYER = TOY_CONFIG.replace(num_layers=1)  # a gradient through a whole round takes long to compile


def heldout_of(model, base, adapter, batches, tx=TX, **how):
    federation = ps.pubswap(model, tx, num_clients=CLIENTS, group=GROUP, **how)

    @jax.jit
    def heldout(hparams, weights):
        begun = federation.init(adapter)
        state, _ = ps.round_step(federation, base, begun, batches, ps.parity_judge, KEY, hparams, weights)
        return -ps.response_logps(model, base, federation.shared(state), *ps.toy_targets).mean()

    return heldout


def test_hypergradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
        batches = ps.toy_batches(jax.random.key(1), num_clients=CLIENTS)[1:]  # a private one and the public one
        heldout, weights = heldout_of(model, base, adapter, batches), jnp.array([1.0, 2.0, 0.5])
        hparams = ps.Hparams.create(lr=1e-2, prox_coef=0.1)
        by_hparams, by_weights = jax.jit(jax.grad(heldout, argnums=(0, 1)))(hparams, weights)
        assert all(leaf.dtype == jnp.float64 and jnp.isfinite(leaf) for leaf in jax.tree.leaves(by_hparams))
        step = 1e-6
        for name in ("lr", "swap_weight", "prox_coef", "clip_low"):
            value = getattr(hparams, name)
            up, down = (heldout(hparams.replace(**{name: value + d}), weights) for d in (step, -step))
            np.testing.assert_allclose(getattr(by_hparams, name), (up - down) / (2 * step), rtol=1e-2, atol=1e-9)
        for c in range(CLIENTS):
            up, down = (heldout(hparams, weights.at[c].add(d)) for d in (step, -step))
            np.testing.assert_allclose(by_weights[c], (up - down) / (2 * step), rtol=1e-2, atol=1e-9)
        assert by_hparams.lr != 0 and by_hparams.swap_weight != 0 and (by_weights != 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("kl, kl_in_reward", [(losses.kl_k2, False), (losses.kl_k1, True)])
def test_hypergradients_pass_the_kl_in_the_loss_and_in_the_reward(kl, kl_in_reward):
    """A `stop_gradient` on the reward's KL would cut the path by which later steps depend on the earlier ones."""
    with jax.enable_x64(True):
        model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
        adapter = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(5), x.shape), adapter)
        batches = ps.toy_batches(jax.random.key(1), num_clients=CLIENTS)[1:]
        advantages = partial(ps.group_advantages, scale=False)
        how = {"kl": kl, "kl_in_reward": kl_in_reward, "advantages": advantages, "microbatch": 2}
        heldout = heldout_of(model, base, adapter, batches, **how)
        hparams, weights, step = ps.Hparams.create(lr=1e-2, kl_coef=0.3), jnp.ones(CLIENTS), 1e-6
        gradient = jax.jit(jax.grad(heldout))(hparams, weights)
        for name in ("lr", "kl_coef"):
            value = getattr(hparams, name)
            up, down = (heldout(hparams.replace(**{name: value + d}), weights) for d in (step, -step))
            np.testing.assert_allclose(getattr(gradient, name), (up - down) / (2 * step), rtol=1e-4)
        assert gradient.kl_coef != 0


@pytest.mark.slow
def test_a_grid_of_learning_rates_is_one_vmap():
    model, base, adapter, batches = world()
    heldout, weights = heldout_of(model, base, adapter, batches[2:]), jnp.ones(CLIENTS)
    grid = jnp.array([0.0, 0.005, 0.02])
    together = jax.vmap(lambda lr: heldout(HPARAMS.replace(lr=lr), weights))(grid)
    apart = [heldout(HPARAMS.replace(lr=lr), weights) for lr in grid]
    np.testing.assert_allclose(together, apart, rtol=1e-4)


# --- mistakes ------------------------------------------------------------------------------------------------------------


def test_mistakes_name_the_argument():
    model = world()[0]
    for how, message in (
        ({"num_clients": CLIENTS, "group": 1}, "group: at least 2"),
        ({"num_clients": 0, "group": GROUP}, "num_clients: 1 or more"),
        ({"num_clients": CLIENTS, "group": GROUP, "inner_epochs": 0}, "inner_epochs: 1 or more"),
        (
            {"num_clients": CLIENTS, "group": GROUP, "moments": "forget"},
            "moments: one of reset, average, keep expected, got 'f",
        ),
        ({"num_clients": CLIENTS, "group": GROUP, "kl": ps.kl_k3, "kl_in_reward": True}, "kl_in_reward: kl=kl_k1 expected"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.pubswap(model, TX, **how)
    with pytest.raises(ValueError, match="weights: one a client"):
        federation().close(started(), ps.direct, jnp.ones(2))
    with pytest.raises(ValueError, match=r"present: bool\[3\]"):
        step(started(), world()[3][0], who=jnp.array([True]))


def test_a_judge_of_other_shapes_is_refused_by_the_step():
    def judge(rollouts, batch):
        verdicts = ps.parity_judge(rollouts, batch)
        return verdicts.replace(reward=verdicts.reward[:, :2])

    with pytest.raises(ValueError, match=r"verdicts.reward: shape \[3, 4, 4\] expected"):
        federation().step(world()[1], started(), world()[3][0], judge, ps.direct, KEY, HPARAMS)
