"""The algorithm on the toy world: fast forms against obvious ones, what a step may change, and gradients of a whole round."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm import losses
from pubswap_jax.algorithm.aggregation import alone
from pubswap_jax.types import Aggregator

CLIENTS, GROUP = 3, 4
TX = optax.scale_by_adam(eps_root=1e-16)
HPARAMS = ps.Hparams.create(lr=1e-2)
KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def world():
    """The toy policy with an adapter that is not zero, a server and three batches."""
    model, params, adapter = ps.toy(jax.random.key(0))
    adapter = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(5), x.shape), adapter)
    return model, params, ps.ServerState.create(adapter), ps.toy_batches(jax.random.key(1), num_clients=CLIENTS)


@pytest.fixture(scope="module")
def algorithm(world):
    """Balanced with every default: shared, so that it is compiled once."""
    return ps.pubswap(world[0], TX, num_clients=CLIENTS, group=GROUP)


@pytest.fixture(scope="module")
def sgd(world):
    """Without moments, so that the adapter moves by minus the gradient."""
    return ps.pubswap(world[0], optax.identity(), num_clients=CLIENTS, group=GROUP)


@pytest.fixture(scope="module")
def step(world, algorithm):
    """A public step's ingredients: everything that `update` takes, after the swap."""
    _, params, server, batches = world
    clients = algorithm.init_clients(server)
    rollouts = algorithm.rollout(params, clients, batches[2].prompts, KEY, HPARAMS)
    verdicts = ps.parity_judge(rollouts, batches[2])
    rollouts, verdicts, plan = algorithm.swap(rollouts, verdicts, KEY)
    assert plan.swapped.any()
    return server, clients, batches[2].prompts, rollouts, verdicts, plan


def close(x, y, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), x, y)


def one_client(tree, index):
    return jax.tree.map(lambda x: x[index : index + 1], tree)


def test_clients_at_once_and_in_turn_equal_a_loop_over_clients(world, step, algorithm):
    model, params, *_ = world
    server, *stacked = step
    together, metrics = algorithm.update(params, server, *stacked, HPARAMS)
    in_turn = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, clients_at_once=2)  # two, and the third one
    close(in_turn.update(params, server, *stacked, HPARAMS), (together, metrics))
    for index in range(CLIENTS):
        alone, alone_metrics = algorithm.update(params, server, *(one_client(part, index) for part in stacked), HPARAMS)
        close(alone, one_client(together, index))
        close(alone_metrics, one_client(metrics, index), atol=1e-5)


def test_a_client_samples_the_same_alone_and_stacked(world, step, algorithm):
    model, params, *_ = world
    _, clients, prompts, *_ = step
    together = algorithm.rollout(params, clients, prompts, KEY, HPARAMS)
    for index in range(CLIENTS):
        alone = algorithm.rollout(params, one_client(clients, index), one_client(prompts, index), KEY, HPARAMS)
        np.testing.assert_array_equal(alone.tokens, together.tokens[index : index + 1])
    assert (together.tokens[0] != together.tokens[1]).any()


@pytest.mark.parametrize("normalise", [losses.per_sequence, losses.per_token])
def test_the_microbatch_size_changes_nothing(world, step, normalise):
    model, params, *_ = world
    results = [
        ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, microbatch=size, normalise=normalise, inner_epochs=2).update(
            params, *step, HPARAMS
        )
        for size in (None, 1)
    ]
    for clients, metrics in results[1:]:
        close(clients.adapter, results[0][0].adapter, atol=1e-5)
        close(metrics, results[0][1], atol=1e-5)


def gradient_of(algorithm, params, step):
    """What the optimizer is handed: with plain SGD at lr 1 the adapter moves by minus the gradient."""
    updated, metrics = algorithm.update(params, *step, HPARAMS.replace(lr=jnp.array(1.0)))
    return jax.tree.map(lambda old, new: old - new, step[1].adapter, updated.adapter), metrics


def test_update_is_the_gradient_of_the_obvious_loss(world, step, sgd):
    """`grpo_loss` of `response_logps`, differentiated in one piece with a stop_gradient for the old policy."""
    model, params, *_ = world
    server, clients, prompts, rollouts, verdicts, plan = step
    gradients, metrics = gradient_of(sgd, params, step)
    for c in range(CLIENTS):
        pick = partial(jax.tree.map, lambda x, c=c: x[c])

        def loss(adapter, pick=pick):
            logps = ps.response_logps(model, params, adapter, pick(prompts), pick(rollouts.tokens))
            old = jax.lax.stop_gradient(logps)
            advantages = ps.group_advantages(pick(verdicts.reward))
            return ps.grpo_loss(logps, old, advantages, pick(rollouts.mask), HPARAMS)[0]

        value, expected = jax.jit(jax.value_and_grad(loss))(pick(clients.adapter))
        close(pick(gradients), expected, atol=1e-5)
        np.testing.assert_allclose(metrics["loss"][c], value, atol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"][c], optax.tree.norm(expected), rtol=1e-4)


def test_an_identity_plan_is_plain_grpo_to_the_bit(world, step):
    model, params, *_ = world
    server, clients, prompts, *_ = step
    batch = world[3][2]
    public = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, swap=ps.no_swap)
    swapped = ps.client_step(public, params, server, clients, batch, ps.parity_judge, KEY, HPARAMS)
    plain = ps.client_step(public, params, server, clients, batch.replace(public=False), ps.parity_judge, KEY, HPARAMS)
    jax.tree.map(np.testing.assert_array_equal, swapped, plain)


def test_the_swap_weight_scales_the_swapped_terms(world, step, sgd):
    """Gradient(w) is linear in w; at 0 the swapped slots count for nothing, while advantages stay the swapped group's."""
    model, params, *_ = world

    def gradient(weight, step=step):
        hparams = HPARAMS.replace(lr=jnp.array(1.0), swap_weight=jnp.array(weight))
        updated, _ = sgd.update(params, *step, hparams)
        return jax.tree.map(lambda old, new: old - new, step[1].adapter, updated.adapter)

    none, half, full = gradient(0.0), gradient(0.5), gradient(1.0)
    close(half, jax.tree.map(lambda x, y: (x + y) / 2, none, full), atol=1e-5)
    assert max(np.abs(x - y).max() for x, y in zip(jax.tree.leaves(none), jax.tree.leaves(full), strict=True)) > 1e-4
    server, clients, prompts, rollouts, verdicts, plan = step
    noise = jnp.where(plan.swapped[..., None], (rollouts.tokens + 1) % 10, rollouts.tokens)
    close(gradient(0.0, (server, clients, prompts, rollouts.replace(tokens=noise), verdicts, plan)), none, atol=1e-5)


def test_a_sampler_gap_is_seen_and_corrected_on_own_slots_only(world, step, sgd):
    model, params, *_ = world
    server, clients, prompts, _, verdicts, plan = step
    corrected = ps.pubswap(
        model, optax.identity(), num_clients=CLIENTS, group=GROUP, importance=losses.truncated_importance(2.0)
    )
    rollouts = sgd.rollout(params, clients, prompts, KEY, HPARAMS)
    shifted = rollouts.replace(logps=rollouts.logps - 0.1)
    _, metrics = sgd.update(params, server, clients, prompts, shifted, verdicts, plan, HPARAMS)
    np.testing.assert_allclose(metrics["sampler_gap"], 0.1, atol=1e-4)
    everything = (server, clients, prompts, shifted, verdicts, plan.replace(swapped=jnp.ones_like(plan.swapped)))
    close(gradient_of(corrected, params, everything)[0], gradient_of(sgd, params, everything)[0])
    nothing = (*everything[:-1], plan.replace(swapped=jnp.zeros_like(plan.swapped)))
    scaled = jax.tree.map(lambda x: x * jnp.exp(0.1), gradient_of(sgd, params, nothing)[0])
    close(gradient_of(corrected, params, nothing)[0], scaled, atol=1e-4)


def test_the_clip_acts_from_the_second_epoch_on(world, step):
    model, params, *_ = world
    hot = HPARAMS.replace(lr=jnp.array(0.3))
    one, two = (
        ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, inner_epochs=epochs).update(params, *step, hot)[1]
        for epochs in (1, 2)
    )
    assert (one["ratio_min"] == 1).all() and (one["ratio_max"] == 1).all() and (one["clip_share"] == 0).all()
    assert (two["ratio_max"] > 1.2).any() and (two["clip_share"] > 0).any()


def test_fedprox_pulls_towards_the_server(world, step, sgd):
    model, params, *_ = world
    server, clients, *rest = step
    away = clients.replace(adapter=jax.tree.map(lambda x: x + 1.0, clients.adapter))
    free, pulled = (
        sgd.update(params, server, away, *rest, HPARAMS.replace(lr=jnp.array(1.0), prox_coef=jnp.array(mu)))[0].adapter
        for mu in (0.0, 0.5)
    )
    close(jax.tree.map(lambda x, y: x - y, free, pulled), jax.tree.map(lambda x: jnp.full_like(x, 0.5), free), atol=1e-5)


def test_truncated_responses_can_be_left_out(world, step):
    model, params, *_ = world
    server, clients, prompts, rollouts, verdicts, plan = step
    cut = rollouts.replace(mask=jnp.ones_like(rollouts.mask), tokens=jnp.zeros_like(rollouts.tokens))
    masked = ps.pubswap(model, optax.identity(), num_clients=CLIENTS, group=GROUP, truncation=losses.mask_truncated)
    gradient, metrics = gradient_of(masked, params, (server, clients, prompts, cut, verdicts, plan))
    assert (metrics["truncated"] == 1).all() and all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_flat_rewards_move_nothing(world, step, algorithm):
    model, params, *_ = world
    server, clients, prompts, rollouts, verdicts, plan = step
    flat = verdicts.replace(reward=jnp.ones_like(verdicts.reward))
    updated, metrics = algorithm.update(params, server, clients, prompts, rollouts, flat, plan, HPARAMS)
    jax.tree.map(np.testing.assert_array_equal, updated.adapter, clients.adapter)
    assert (metrics["zero_variance"] == 1).all() and (metrics["grad_norm"] == 0).all()


# --- rounds -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(world, algorithm):
    """run(weights, server=..., **options of pubswap) -> server, clients, metrics."""
    model, params, server, batches = world

    def run(weights=None, server=server, clients=None, batches=batches, **options):
        chosen = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, **options) if options else algorithm
        return ps.round_step(chosen, params, server, batches, ps.parity_judge, KEY, HPARAMS, weights, clients)

    return run


def test_round_step_is_client_steps_then_the_average(world, run, algorithm):
    model, params, server, batches = world
    clients = algorithm.init_clients(server)
    for t, batch in enumerate(batches):
        key = jax.random.fold_in(jax.random.fold_in(KEY, 0), t)
        clients, record = ps.client_step(algorithm, params, server, clients, batch, ps.parity_judge, key, HPARAMS)
        assert record.plan.swapped.any() == (t == 2)
    following, after, metrics = run()
    jax.tree.map(np.testing.assert_array_equal, after, clients)
    close(following.adapter, ps.fedavg(clients.adapter))
    assert following.round == 1 and server.round == 0
    assert all(value.shape == (3, CLIENTS) for value in metrics.values())
    assert {"loss", "reward", "length", "truncated", "entropy", "grad_norm", "clip_share", "swapped", "rescued"} <= set(metrics)


def test_the_rounds_key_depends_on_the_round(world, run):
    server = world[2]
    first, later = (run(server=server.replace(round=jnp.int32(r)))[2]["reward"] for r in (0, 1))
    assert (first != later).any()


def test_an_absent_client_changes_nothing_even_full_of_nan(world, run, algorithm):
    model, params, server, batches = world
    clients = algorithm.init_clients(server)
    poisoned = clients.replace(adapter=jax.tree.map(lambda x: x.at[1].set(jnp.nan), clients.adapter))
    step = lambda states: ps.client_step(  # noqa: E731
        algorithm, params, server, states, batches[2], ps.parity_judge, KEY, HPARAMS, jnp.array([1.0, 0.0, 1.0])
    )
    (after, record), (expected, _) = step(poisoned), step(clients)
    assert not record.plan.swapped[1].any() and not (record.plan.source[jnp.array([0, 2])] // GROUP == 1).any()
    for index in (0, 2):
        jax.tree.map(np.testing.assert_array_equal, one_client(after, index), one_client(expected, index))
    jax.tree.map(np.testing.assert_array_equal, one_client(after, 1), one_client(poisoned, 1))
    averaged = algorithm.aggregate(server, after, jnp.array([1.0, 0.0, 1.0]))
    jax.tree.map(np.testing.assert_array_equal, averaged, algorithm.aggregate(server, expected, jnp.array([1.0, 0.0, 1.0])))


def test_weights_that_sum_to_zero(world, run):
    model, params, server, batches = world
    with pytest.raises(ValueError, match="weights: .*expected"):
        run(jnp.zeros(CLIENTS))
    for average_moments in (False, True):
        algorithm = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, average_moments=average_moments)
        clients = algorithm.init_clients(server)
        clients = clients.replace(adapter=jax.tree.map(lambda x: x + 1, clients.adapter))
        kept = jax.jit(algorithm.aggregate)(server, clients, jnp.zeros(CLIENTS))
        jax.tree.map(np.testing.assert_array_equal, kept.adapter, server.adapter)


def test_relabelling_the_clients_relabels_the_update(world, step, algorithm):
    model, params, *_ = world
    server, *stacked = step
    order = np.array([2, 0, 1])
    relabel = partial(jax.tree.map, lambda x: x[order])
    close(
        algorithm.update(params, server, *relabel(stacked), HPARAMS),
        relabel(algorithm.update(params, server, *stacked, HPARAMS)),
    )


def test_moments_are_reset_kept_or_averaged(world, run, algorithm):
    model, params, server, _ = world
    following, clients, _ = run()
    assert (algorithm.init_clients(following).opt_state.count == 0).all()
    kept = algorithm.init_clients(following, clients)
    jax.tree.map(np.testing.assert_array_equal, kept.opt_state, clients.opt_state)
    jax.tree.map(np.testing.assert_array_equal, one_client(kept.adapter, 0), one_client(ps.broadcast(following.adapter, 3), 0))

    averaging = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, average_moments=True)
    averaged = averaging.aggregate(server, clients)
    started = averaging.init_clients(averaged)
    close(one_client(started.opt_state, 1), jax.tree.map(lambda x: x[None], ps.fedavg(clients.opt_state)))
    assert (started.opt_state.count == 3).all()


def test_an_optimizer_without_moments_has_none_to_average(world):
    server = world[2]
    averaging = ps.pubswap(world[0], optax.identity(), num_clients=CLIENTS, group=GROUP, average_moments=True)
    assert averaging.aggregate(server, averaging.init_clients(server)).opt_state == ()


def test_local_only_training_never_averages(world, run):
    server = world[2]
    following, clients, _ = run(aggregator=alone())
    jax.tree.map(np.testing.assert_array_equal, following.adapter, server.adapter)
    assert following.round == 1
    _, again, _ = run(aggregator=alone(), server=following, clients=clients)
    assert (again.opt_state.count == 6).all()


def test_a_rule_of_ones_own_averages_and_remembers(world, run):
    """The coordinate-wise median of those present, which also counts its rounds."""

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        there = weights.reshape(-1, 1, 1) > 0
        return jax.tree.map(lambda x: jnp.nanmedian(jnp.where(there, x, jnp.nan), axis=0), uploads), memory + 1

    rule = Aggregator(lambda adapter: jnp.zeros((), jnp.int32), apply)
    first, clients, _ = run(aggregator=rule)
    jax.tree.map(lambda x, all: np.testing.assert_allclose(x, np.median(all, axis=0)), first.adapter, clients.adapter)
    second, clients, _ = run(jnp.array([1.0, 0.0, 1.0]), aggregator=rule, server=first)
    jax.tree.map(
        lambda x, all: np.testing.assert_allclose(x, (all[0] + all[2]) / 2, rtol=1e-6), second.adapter, clients.adapter
    )
    assert (first.memory, second.memory) == (1, 2)


def test_donors_log_probs_stay_at_home(step):
    _, _, _, rollouts, _, plan = step
    assert (rollouts.logps[plan.swapped] == 0).all()


# --- the round as a function: jit, grad, vmap -----------------------------------------------------------------------------


def heldout_of(model, params, server, batches, tx=TX, **how):
    algorithm = ps.pubswap(model, tx, num_clients=CLIENTS, group=GROUP, **how)

    @jax.jit
    def heldout(hparams, weights):
        following, *_ = ps.round_step(algorithm, params, server, batches, ps.parity_judge, KEY, hparams, weights)
        return -ps.response_logps(model, params, following.adapter, *ps.toy_targets).mean()

    return heldout


def test_hypergradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        model, params, adapter = ps.toy(jax.random.key(0))
        batches = ps.toy_batches(jax.random.key(1), num_clients=CLIENTS)
        heldout, weights = heldout_of(model, params, ps.ServerState.create(adapter), batches), jnp.array([1.0, 2.0, 0.5])
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


@pytest.mark.parametrize("kl, kl_in_reward", [(losses.kl_k2, False), (losses.kl_k1, True)])
def test_hypergradients_pass_the_kl_in_the_loss_and_in_the_reward(kl, kl_in_reward):
    """A `stop_gradient` on the reward's KL would cut the path by which later steps depend on the earlier ones."""
    with jax.enable_x64(True):
        model, params, adapter = ps.toy(jax.random.key(0))
        adapter = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(5), x.shape), adapter)
        batches = ps.toy_batches(jax.random.key(1), num_clients=CLIENTS)
        advantages = partial(ps.group_advantages, scale=False)
        how = {"kl": kl, "kl_in_reward": kl_in_reward, "advantages": advantages, "microbatch": 2}
        heldout = heldout_of(model, params, ps.ServerState.create(adapter), batches, **how)
        hparams, weights, step = ps.Hparams.create(lr=1e-2, kl_coef=0.3), jnp.ones(CLIENTS), 1e-6
        gradient = jax.jit(jax.grad(heldout))(hparams, weights)
        for name in ("lr", "kl_coef"):
            value = getattr(hparams, name)
            up, down = (heldout(hparams.replace(**{name: value + d}), weights) for d in (step, -step))
            np.testing.assert_allclose(getattr(gradient, name), (up - down) / (2 * step), rtol=1e-4)
        assert gradient.kl_coef != 0


def test_the_kl_in_the_reward_moves_the_adapter_and_not_with_the_microbatch(world, step):
    model, params, *_ = world
    make = partial(ps.pubswap, model, TX, num_clients=CLIENTS, group=GROUP, kl=ps.kl_k1, kl_in_reward=True, inner_epochs=2)
    plain = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, inner_epochs=2).update(params, *step, HPARAMS)
    zero = make().update(params, *step, HPARAMS)
    jax.tree.map(np.testing.assert_array_equal, zero[0], plain[0])
    some = HPARAMS.replace(kl_coef=jnp.array(0.2))
    whole, parts = make().update(params, *step, some), make(microbatch=1).update(params, *step, some)
    close(parts[0].adapter, whole[0].adapter, atol=1e-5)
    close(parts[1], whole[1], atol=1e-5)
    assert (
        max(np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (whole[0].adapter, zero[0].adapter)), strict=True)) > 1e-3
    )
    in_loss = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, kl=ps.kl_k1).update(params, *step, HPARAMS)
    close(in_loss[1]["kl"], whole[1]["kl"])
    with pytest.raises(ValueError, match="kl_in_reward: kl=kl_k1 expected"):
        ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, kl=ps.kl_k3, kl_in_reward=True)


def test_a_grid_of_learning_rates_is_one_vmap(world):
    model, params, server, batches = world
    heldout, weights = heldout_of(model, params, server, batches[2:]), jnp.ones(CLIENTS)
    grid = jnp.array([0.0, 0.005, 0.02])
    together = jax.vmap(lambda lr: heldout(HPARAMS.replace(lr=lr), weights))(grid)
    apart = [heldout(HPARAMS.replace(lr=lr), weights) for lr in grid]
    np.testing.assert_allclose(together, apart, rtol=1e-4)


# --- mistakes ------------------------------------------------------------------------------------------------------------


def test_mistakes_name_the_argument(world, step, algorithm):
    model, params, server, _ = world
    with pytest.raises(ValueError, match="group: at least 2"):
        ps.pubswap(model, TX, num_clients=CLIENTS, group=1)
    with pytest.raises(ValueError, match="num_clients: 1 or more"):
        ps.pubswap(model, TX, num_clients=0, group=GROUP)
    with pytest.raises(ValueError, match="inner_epochs: 1 or more"):
        ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, inner_epochs=0)
    with pytest.raises(ValueError, match="microbatch: a divisor of the batch's 4 prompts expected, got 3"):
        ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, microbatch=3).update(params, *step, HPARAMS)
    _, clients, prompts, rollouts, verdicts, plan = step
    with pytest.raises(ValueError, match=r"verdicts.reward: shape \[3, 4, 4\] expected"):
        bad = verdicts.replace(reward=verdicts.reward[:, :2])
        algorithm.update(params, server, clients, prompts, rollouts, bad, plan, HPARAMS)
    with pytest.raises(ValueError, match=r"rollouts.tokens: \[C, B, G, R\] expected"):
        bad = rollouts.replace(tokens=rollouts.tokens[0])
        algorithm.update(params, server, clients, prompts, bad, verdicts, plan, HPARAMS)
    with pytest.raises(ValueError, match="weights: one a client"):
        algorithm.aggregate(server, clients, jnp.ones(2))
    batch = world[3][0]
    for wrong, message in (({"weights": [1, 1]}, "weights: one a client"), ({"present": [True]}, r"present: bool\[3\]")):
        with pytest.raises(ValueError, match=message):
            ps.client_step(algorithm, params, server, clients, batch, ps.parity_judge, jax.random.key(0), HPARAMS, **wrong)
    for batches, hparams, message in (
        ([], HPARAMS, "batches: at least one"),
        ([batch], HPARAMS.replace(temperature=0.0), "temperature: more than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.round_step(algorithm, params, server, batches, ps.parity_judge, jax.random.key(0), hparams)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e12])
def test_an_average_is_of_the_sound_clients_and_stays_what_it_was_where_nobody_is(world, algorithm, poison):
    server, clients = world[2], algorithm.init_clients(world[2])
    clients = clients.replace(
        adapter=jax.tree.map(lambda x: x + jnp.arange(1.0, 4).reshape(3, *[1] * (x.ndim - 1)), clients.adapter)
    )

    def poisoned(who):
        return clients.replace(adapter=jax.tree.map(lambda x: x.at[who].set(poison), clients.adapter), opt_state=None)

    found = algorithm.aggregate(server, poisoned(1))
    honest = algorithm.aggregate(server, clients, jnp.array([1.0, 0, 1]))
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(honest), strict=True))
    found = algorithm.aggregate(server, poisoned(slice(None)))
    assert found.round == server.round + 1
    assert all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(found.adapter), jax.tree.leaves(server.adapter), strict=True)
    )


def test_a_round_that_spoils_everybody_leaves_the_adapter_as_it_was(world, algorithm):
    _, params, server, batches = world
    key, hparams = jax.random.key(0), HPARAMS.replace(lr=jnp.nan)
    found, clients, _ = ps.round_step(algorithm, params, server, batches[:1], ps.parity_judge, key, hparams)
    assert not any(np.isfinite(x).all() for x in jax.tree.leaves(clients.adapter))
    assert all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(found.adapter), jax.tree.leaves(server.adapter), strict=True)
    )
