"""FedGRPO: central GRPO under one expert that knows everything, what crosses, and what experts that fail do to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_rounds import CLIENTS, GROUP, HPARAMS, KEY, TX, same, world

import pubswap_jax as ps
from pubswap_jax.algorithm.experts import Judging
from pubswap_jax.algorithm.fedgrpo import fedgrpo
from pubswap_jax.algorithm.update import Learning

A = 4
SMALL = Judging(experts=2, neighbours=2, auxiliary=A)


@functools.cache
def federation(num_clients=CLIENTS, judging=SMALL):
    return fedgrpo(world()[0], TX, num_clients=num_clients, group=GROUP, judging=judging)


@functools.cache
def batches():
    """The clients' own questions, the auxiliary ones, and the server's."""
    private, other, public = world()[3]
    auxiliary = jax.tree.map(lambda x: x[:1], other).replace(public=True, labelled=True, ids=jnp.arange(A)[None])
    return private, auxiliary, jax.tree.map(lambda x: x[:1], public)


def step(federation, state, batch, channel=ps.direct, judge=ps.parity_judge, key=KEY, hparams=HPARAMS):
    return federation.step(world()[1], state, batch, judge, channel, key, hparams)


@functools.cache
def surveyed():
    state = federation().open(federation().init(world()[2]), ps.direct)
    return step(federation(), state, batches()[1])[0]


def held_by_all(batch, num_clients):
    return batch.replace(held=jnp.ones((num_clients, batch.prompts.tokens.shape[1]), bool))


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_with_one_expert_that_knows_everything_it_is_central_grpo():
    ours = federation(1, SMALL._replace(experts=1))
    central = ps.pubswap(world()[0], TX, num_clients=1, group=GROUP)
    state, other = ours.open(ours.init(world()[2]), ps.direct), central.open(central.init(world()[2]), ps.direct)
    for number in range(3):
        batch, key = held_by_all(batches()[2], 1), jax.random.fold_in(KEY, number)
        state, record = step(ours, state, batch, key=key)
        other, plain = step(central, other, batch.replace(public=False), key=key)
        np.testing.assert_array_equal(record.rollouts.tokens, plain.rollouts.tokens)
        np.testing.assert_array_equal(record.verdicts.correct, plain.verdicts.correct)
        for name in ("loss", "grad_norm", "reward", "correct", "zero_variance"):
            np.testing.assert_allclose(record.metrics[name], plain.metrics[name], atol=1e-6)
    for x, y in zip(leaves(ours.shared(state)), leaves(jax.tree.map(lambda x: x[0], central.own(other))), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert any((x != y).any() for x, y in zip(leaves(ours.shared(state)), leaves(world()[2]), strict=True))


@pytest.mark.slow
def test_experts_are_scored_by_the_answer_where_they_hold_it_and_else_by_their_own_responses():
    asked = []

    def judge(rollouts, batch):
        asked.append(batch.answers)
        return ps.parity_judge(rollouts, batch)

    held = jnp.zeros((CLIENTS, 4), bool).at[1, 2].set(True)
    _, record = step(federation(), surveyed(), batches()[2].replace(held=held), judge=judge)
    (reference,) = asked
    np.testing.assert_array_equal(reference.held, held)
    assert (np.asarray(reference.asked).sum(0) == 2).all() and reference.said.tokens.shape[:3] == (CLIENTS, 4, 1)
    said = ps.parity_judge(reference.said, batches()[2].replace(answers=jnp.zeros((CLIENTS, 4), int))).correct[..., 0]
    parity = np.where(np.asarray(reference.held), np.asarray(batches()[2].answers), np.where(said, 0, 1))
    tokens = jnp.broadcast_to(record.rollouts.tokens, (CLIENTS, *record.rollouts.tokens.shape[1:]))
    spoken = np.asarray(reference.said.mask & (reference.said.tokens != 16)).any((-1, -2))
    one = ps.Rollout(tokens, jnp.broadcast_to(record.rollouts.mask, tokens.shape), None)
    each = np.asarray(ps.parity_judge(one, batches()[2].replace(answers=parity)).reward)
    each = each * (spoken | np.asarray(held))[..., None] * np.asarray(reference.asked)[..., None]
    np.testing.assert_allclose(record.verdicts.reward[0], each.sum(0) / 2, atol=1e-6)


def heard():
    """A channel that notes (kind, direction, arrays, ids)."""
    found = []

    def by(record):
        found.append((record.kind, record.direction, record.arrays, record.ids))
        return record

    return ps.Channel(by, by), found


@pytest.mark.slow
def test_the_records_are_those_of_the_protocol_and_no_other():
    channel, found = heard()
    ours, (private, auxiliary, public) = federation(), batches()
    state = ours.open(ours.init(world()[2]), channel)
    for batch in (private, auxiliary, public):
        state, _ = step(ours, state, batch, channel)
    ours.close(state, channel)
    assert [(kind, direction, sorted(arrays)) for kind, direction, arrays, _ in found] == [
        ("questions", "down", ["numbers"]),
        ("verdicts", "up", ["correct", "reward"]),
        ("responses", "down", ["mask", "slots", "tokens"]),
        ("rewards", "up", ["asked", "reward"]),
    ]
    assert all(ids.shape == (CLIENTS, 4) for *_, ids in found)
    bits, candidates, rewards = (arrays for _, _, arrays, _ in found[1:])
    same(bits["reward"], bits["correct"].astype(float))  # one bit a question: the reward says the same, and is not written
    assert bits["correct"].shape == (CLIENTS, A, 1)
    same(candidates["slots"][..., 0], rewards["asked"])  # an expert gets the candidates of its questions alone
    assert (np.asarray(rewards["asked"]).sum(0) == SMALL.experts).all()
    assert (np.asarray(rewards["reward"])[~np.asarray(rewards["asked"])] == 0).all()


@pytest.mark.slow
def test_the_policy_learns_from_the_rewards_that_came_out_of_the_channel():
    def silent(record):
        return record.replace(arrays=record.arrays | {"reward": jnp.full_like(record.arrays["reward"], jnp.nan)})

    channel = ps.Channel(lambda record: silent(record) if record.kind == "rewards" else record, lambda record: record)
    state, record = step(federation(), surveyed(), batches()[2], channel)
    same(federation().shared(state), world()[2])
    assert record.metrics["grad_norm"] == 0 and record.metrics["zero_variance"] == 1
    _, figures = federation().close(state, ps.direct)
    assert (np.asarray(figures["experts_given"]) == 0).all() and np.asarray(figures["experts_asked"]).sum() == 1


@pytest.mark.slow
def test_an_expert_whose_adapter_is_not_finite_is_survived():
    state = surveyed()
    broken = jax.tree.map(lambda x: x.at[0].set(jnp.nan), state.experts.clients.adapter)
    state = state.replace(experts=state.experts.replace(clients=state.experts.clients.replace(adapter=broken)))
    state, _ = step(federation(), state, batches()[1])
    assert not np.asarray(state.known)[0].any(), "what it answers counts for nothing"
    state, record = step(federation(), state, batches()[2])
    assert np.isfinite(record.metrics["loss"]).all() and all(np.isfinite(x).all() for x in leaves(federation().shared(state)))
    assert np.asarray(state.use.asked).tolist() == [0, 16, 16], "two experts are left, and both are asked"
    _, figures = federation().close(state, ps.direct)
    assert np.asarray(figures["experts_sound"]).tolist() == [False, True, True]


def test_clients_train_at_home_and_the_policy_stays():
    ours, channel = federation(), heard()
    start = ours.open(ours.init(world()[2]), ps.direct)
    state, record = step(ours, start, batches()[0], channel[0])
    assert not channel[1] and record.metrics["loss"].shape == (CLIENTS,)
    same(ours.shared(state), ours.shared(start))
    alone = ps.pubswap(world()[0], TX, num_clients=CLIENTS, group=GROUP, aggregator=ps.alone(), planner=ps.no_swap)
    other, _ = step(alone, alone.open(alone.init(world()[2]), ps.direct), batches()[0])
    for x, y in zip(leaves(state.clients.adapter), leaves(alone.own(other)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert ours.own(state) is None


def test_given_adapters_are_the_experts():
    moved = jax.tree.map(lambda x: jnp.stack([x + 1.0, x]), world()[2])
    ours = fedgrpo(world()[0], TX, num_clients=2, group=GROUP, judging=SMALL, adapters=moved)
    same(ours.init(world()[2]).clients.adapter, moved)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"judging": Judging(experts=4)}, "judging.experts: 1 to 3, the number of clients, expected, got 4"),
        ({"judging": Judging(over="experts")}, "judging.over: one of candidates_and_experts, candidates, "),
        ({"how": Learning(kl=ps.kl_k1, kl_in_reward=True)}, "how.kl_in_reward: False expected"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        fedgrpo(world()[0], TX, num_clients=3, group=GROUP, **settings)


@pytest.mark.slow
def test_a_round_can_be_compiled_and_differentiated():
    """The held-out log-probability after two rounds, the survey and a lesson, as a function of the learning rate."""
    ours, (_, auxiliary, public) = federation(), batches()

    @jax.jit
    @jax.value_and_grad
    def heldout(lr):
        state = ours.init(world()[2])
        for batch in (auxiliary, public):
            state, metrics = ps.round_step(ours, world()[1], state, [batch], ps.parity_judge, KEY, HPARAMS.replace(lr=lr))
        prompts, tokens = ps.toy_targets
        return -ps.response_logps(*world()[:2], ours.shared(state), prompts, jnp.asarray(tokens)).mean()

    value, slope = heldout(jnp.array(0.01))
    (more, _), (less, _) = heldout(jnp.array(0.011)), heldout(jnp.array(0.009))
    assert np.isfinite(value) and abs(slope) > 1e-3
    np.testing.assert_allclose(slope, (more - less) / 0.002, rtol=0.05)
