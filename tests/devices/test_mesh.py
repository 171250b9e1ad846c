"""The mesh, and what crosses it: the collectives are read from the compiled program, on a client-only mesh of 8 CPU devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm import swap
from pubswap_jax.devices import mesh as meshes
from pubswap_jax.policy import toyworld

CLIENTS, GROUP, PROMPTS, LENGTH = 8, 4, 4, 4
HPARAMS = ps.Hparams.create(lr=1e-2)
KEY = jax.random.key(0)
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)


def collectives(function, *args):
    """(operation, what it moves) of everything that crosses devices in the compiled program."""
    text = jax.jit(function).lower(*args).compile().as_text()
    return [(match[2], re.sub(r"\{[^}]*\}", "", match[1])) for match in COLLECTIVE.finditer(text)]


def ingredients(place_clients, place_server, config=toyworld.TOY_CONFIG):
    """The toy world as a public step sees it, its arrays placed as told."""
    model, params, adapter = ps.toy(jax.random.key(0), config)
    algorithm = ps.pubswap(model, optax.scale_by_adam(), num_clients=CLIENTS, group=GROUP)
    server = ps.ServerState.create(adapter)
    batch = place_clients(ps.toy_batches(jax.random.key(1), num_clients=CLIENTS, num_prompts=PROMPTS)[2])
    clients = place_clients(algorithm.init_clients(server))
    return algorithm, place_server(params), place_server(server), clients, batch, place_server(HPARAMS), place_server(KEY)


@pytest.fixture(scope="module")
def spread():
    mesh = meshes.make_mesh(client=CLIENTS)
    sharding = meshes.clients_sharding(mesh, CLIENTS)
    return ingredients(lambda x: jax.device_put(x, sharding), lambda x: jax.device_put(x, meshes.replicated(mesh)))


@pytest.fixture(scope="module")
def one_step(spread):
    algorithm, params, server, clients, batch, hparams, key = spread
    rollouts = algorithm.rollout(params, clients, batch.prompts, key, hparams)
    verdicts = jax.jit(ps.parity_judge)(rollouts, batch)
    assert rollouts.tokens.sharding.spec[0] == "client" and len(rollouts.tokens.sharding.device_set) == CLIENTS
    return rollouts, verdicts, algorithm.swap(rollouts, verdicts, key)[2]


def test_update_moves_nothing(spread, one_step):
    algorithm, params, server, clients, batch, hparams, _ = spread
    assert collectives(algorithm.update, params, server, clients, batch.prompts, *one_step, hparams) == []


def test_the_planner_gathers_correctness_bits_alone(spread, one_step):
    bits = f"pred[{PROMPTS},{CLIENTS * GROUP}]"
    for planner in (swap.balanced, swap.random_swap, swap.rescue, swap.swap_all, swap.max_variance):
        assert collectives(planner, spread[-1], one_step[1].correct) == [("all-gather", bits)]
    assert collectives(swap.no_swap, spread[-1], one_step[1].correct) == []


def test_apply_swap_is_one_all_gather_a_leaf(one_step):
    rollouts, verdicts, plan = one_step
    responses = f"[{PROMPTS},{CLIENTS * GROUP},{LENGTH}]"
    assert collectives(swap.apply_swap, plan, rollouts.tokens) == [("all-gather", "s32" + responses)]
    both = collectives(swap.apply_swap, plan, (rollouts.tokens, rollouts.mask))
    assert sorted(both) == [("all-gather", "pred" + responses), ("all-gather", "s32" + responses)]


def test_the_whole_swap_moves_bits_tokens_and_verdicts_but_no_log_probs(spread, one_step):
    rollouts, verdicts, _ = one_step
    moved = collectives(spread[0].swap, rollouts, verdicts, spread[-1])
    assert {operation for operation, _ in moved} == {"all-gather"}
    assert not any(kind.startswith("f32") and kind.count(",") == 2 for _, kind in moved), "log-probs of donors travel"


def test_aggregate_only_reduces(spread):
    algorithm, _, server, clients, *_ = spread
    moved = collectives(algorithm.aggregate, server, clients, jnp.ones(CLIENTS))
    assert moved and {operation for operation, _ in moved} == {"all-reduce"}


def run_round(algorithm, params, server, clients, batch, hparams, key):
    return ps.round_step(algorithm, params, server, [batch], ps.parity_judge, key, hparams, None, clients)


def test_eight_devices_equal_one(spread):
    alone = ingredients(lambda x: x, lambda x: x)
    on_eight, on_one = run_round(*spread), run_round(*alone)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), on_eight, on_one)


def test_the_base_sharded_over_model_and_prompts_over_data_equals_one_device():
    mesh = meshes.make_mesh(client=2, data=2, model=2)
    even = toyworld.TOY_CONFIG.replace(vocab_size=18)  # 17 rows of an embedding cannot be halved
    algorithm, params, server, clients, batch, *rest = ingredients(lambda x: x, lambda x: x, even)
    expected = run_round(algorithm, params, server, clients, batch, *rest)
    params = jax.device_put(params, meshes.params_sharding(mesh, params))
    kernel = params["params"]["layers_0"]["mlp"]["down_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[0] * 2 == kernel.shape[0]
    clients = jax.device_put(clients, meshes.clients_sharding(mesh, CLIENTS))
    batch = jax.device_put(batch, meshes.data_sharding(mesh, CLIENTS, PROMPTS))
    server, *rest = jax.device_put((server, *rest), meshes.replicated(mesh))
    result = run_round(algorithm, params, server, clients, batch, *rest)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), result, expected)


def test_odd_meshes_say_what_would_fit():
    with pytest.raises(ValueError, match="4 x 4 x 1 = 16 devices asked for, 8 found"):
        meshes.make_mesh(client=4, data=4)
    with pytest.raises(ValueError, match="client: a mesh axis of 1 or more expected, got 0"):
        meshes.make_mesh(client=0)
    mesh = meshes.make_mesh(client=4, model=2)
    with pytest.raises(
        ValueError, match=r"axis client: num_clients is 6, which 4 devices do not divide; \[1, 2, 3, 6\] would fit"
    ):
        meshes.clients_sharding(mesh, 6)
    with pytest.raises(ValueError, match="axis data: prompts a client is 3"):
        meshes.data_sharding(meshes.make_mesh(data=2), 1, 3)
    with pytest.raises(ValueError, match=r"axis model: lm_head.kernel's axis -1 is 17"):
        meshes.params_sharding(mesh, {"lm_head": {"kernel": np.zeros((4, 17))}})
