"""The mesh, and what crosses it: the collectives are read from the compiled program, on a client-only mesh of 8 CPU devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm import swap
from pubswap_jax.algorithm.pubswap import exchange, receive
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.devices import mesh as meshes
from pubswap_jax.policy import toyworld
from pubswap_jax.run.placement import placement

CLIENTS, GROUP, PROMPTS, LENGTH = 8, 4, 4, 4
HPARAMS = ps.Hparams.create(lr=1e-2)
KEY = jax.random.key(0)
TX = optax.scale_by_adam()
CONFIG = toyworld.TOY_CONFIG.replace(num_layers=1)  # a second layer would only compile longer
COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)


def collectives(function, *args):
    """(operation, what it moves) of everything that crosses devices in the compiled program."""
    text = jax.jit(function).lower(*args).compile().as_text()
    return [(match[2], re.sub(r"\{[^}]*\}", "", match[1])) for match in COLLECTIVE.finditer(text)]


def ingredients(place_clients, place_server, config=CONFIG, shardings=None):
    """The toy world as a public step sees it, its arrays placed as told: client, federation, and the arrays of a step."""
    model, base, adapter = ps.toy(jax.random.key(0), config)
    ends = config.eos_ids, config.pad_id
    client = ps.make_client(model, TX, Learning(), group=GROUP, max_new_tokens=config.max_new_tokens, ends=ends)

    def program(name, function):
        return jax.jit(function, **({"out_shardings": shardings[name]} if name in (shardings or {}) else {}))

    federation = ps.pubswap(model, TX, num_clients=CLIENTS, group=GROUP, program=program)
    state = federation.init(adapter)
    state = state.replace(server=place_server(state.server), clients=place_clients(state.clients))
    batch = ps.toy_batches(jax.random.key(1), num_clients=CLIENTS, num_prompts=PROMPTS)[2]
    return ps.over_clients(client), federation, place_server(base), state, place_clients(batch), *place_server((HPARAMS, KEY))


@pytest.fixture(scope="module")
def on_eight():
    mesh = meshes.make_mesh(client=CLIENTS)
    place = placement(mesh, CLIENTS, PROMPTS)
    clients = meshes.clients_sharding(mesh, CLIENTS)
    return ingredients(lambda x: jax.device_put(x, clients), place.put, shardings=place.shardings)


@pytest.fixture(scope="module")
def on_one():
    return ingredients(lambda x: x, lambda x: x)


@pytest.fixture(scope="module")
def one_step(on_eight):
    """rollouts, verdicts, plan"""
    client, _, base, state, batch, hparams, key = on_eight
    keys = jax.device_put(jax.random.split(key, CLIENTS), state.clients.id.sharding)
    rollouts = jax.jit(client.respond)(base, state.clients, batch.prompts, keys, hparams)
    verdicts = jax.jit(ps.parity_judge)(rollouts, batch)
    assert rollouts.tokens.sharding.spec[0] == "client" and len(rollouts.tokens.sharding.device_set) == CLIENTS
    return rollouts, verdicts, jax.jit(swap.balanced)(key, verdicts.correct)


def test_what_a_client_learns_moves_nothing(on_eight, one_step):
    client, _, base, state, batch, hparams, _ = on_eight
    rollouts, verdicts, plan = one_step
    given = state.clients, batch.prompts, rollouts, verdicts, plan.swapped, hparams
    assert collectives(client.learn, base, state.server.adapter, *given) == []


def test_the_start_of_a_round_and_an_upload_move_nothing(on_eight):
    client, _, _, state, *_ = on_eight
    assert collectives(client.start, {"adapter": state.clients.adapter}, state.clients) == []
    assert collectives(client.upload, state.clients) == []


def test_the_planner_gathers_correctness_bits_alone(on_eight, one_step):
    bits = f"pred[{PROMPTS},{CLIENTS * GROUP}]"
    for planner in (swap.balanced, swap.random_swap, swap.rescue, swap.swap_all, swap.max_variance):
        assert collectives(planner, on_eight[-1], one_step[1].correct) == [("all-gather", bits)]
    assert collectives(swap.no_swap, on_eight[-1], one_step[1].correct) == []


def test_apply_swap_is_one_all_gather_a_leaf(one_step):
    rollouts, verdicts, plan = one_step
    responses = f"[{PROMPTS},{CLIENTS * GROUP},{LENGTH}]"
    assert collectives(swap.apply_swap, plan, rollouts.tokens) == [("all-gather", "s32" + responses)]
    both = collectives(swap.apply_swap, plan, (rollouts.tokens, rollouts.mask))
    assert sorted(both) == [("all-gather", "pred" + responses), ("all-gather", "s32" + responses)]


def test_the_whole_exchange_moves_bits_tokens_and_verdicts_but_no_log_probs(on_eight, one_step):
    """Everything between the rollouts of a public step and what its clients learn from."""
    rollouts, verdicts, _ = one_step
    server = ps.make_server()

    def between(key, own):
        given, plan = exchange(server, ps.direct, key, own, None, None, None)
        return receive(*own, given), plan

    moved = collectives(between, on_eight[-1], (rollouts, verdicts))
    assert {operation for operation, _ in moved} == {"all-gather"}
    assert not any(kind.startswith("f32") and kind.count(",") == 2 for _, kind in moved), "log-probs of donors travel"


def test_aggregation_only_reduces(on_eight):
    _, _, _, state, *_ = on_eight
    server, weights, staleness = state.server, jnp.ones(CLIENTS), jnp.zeros(CLIENTS, jnp.int32)
    moved = collectives(ps.mean().apply, server.memory, server.adapter, state.clients.adapter, weights, staleness)
    assert moved and {operation for operation, _ in moved} == {"all-reduce"}
    whole = ps.make_server().aggregate
    moved = collectives(whole, server, {"adapter": state.clients.adapter}, weights, staleness, {})
    assert {operation for operation, _ in moved} == {"all-reduce"}


def run_round(_, federation, base, state, batch, hparams, key):
    return ps.round_step(federation, base, state, [batch], ps.parity_judge, key, hparams)


def test_eight_devices_equal_one(on_eight, on_one):
    there, here = run_round(*on_eight), run_round(*on_one)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), there, here)
    adapter = jax.tree.leaves(there[0].clients.adapter)[0]
    assert len(adapter.sharding.device_set) == CLIENTS and adapter.sharding.spec[0] == "client"


def resampled_step(_, federation, base, state, batch, hparams, key):
    """A private step in which other questions replace those whose answers are all right or all wrong."""
    others = ps.toy_batches(jax.random.key(9), num_clients=CLIENTS, num_prompts=PROMPTS)[0]
    others = jax.device_put(others, batch.prompts.tokens.sharding)
    batch = batch.replace(public=False, again=lambda verdicts, done: None if done else others)
    state = federation.open(state, ps.direct)
    after, record = federation.step(base, state, batch, ps.parity_judge, ps.direct, key, hparams)
    ((_, source),) = record.drawn
    assert (source >= PROMPTS).any(), "nothing was replaced: this case shows nothing"
    return after, record.metrics, record.rollouts, record.verdicts.reward, source


def test_questions_drawn_again_on_eight_devices_are_those_of_one(on_eight, on_one):
    there, here = resampled_step(*on_eight), resampled_step(*on_one)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), there, here)
    assert there[0].clients.id.sharding.spec[0] == there[2].tokens.sharding.spec[0] == "client"


@pytest.mark.slow
def test_the_base_sharded_over_model_and_prompts_over_data_equals_one_device():
    mesh = meshes.make_mesh(client=2, data=2, model=2)
    even = CONFIG.replace(vocab_size=18)  # 17 rows of an embedding cannot be halved
    alone = ingredients(lambda x: x, lambda x: x, even)
    expected, resampled = run_round(*alone), resampled_step(*alone)
    place = placement(mesh, CLIENTS, PROMPTS)
    clients = meshes.clients_sharding(mesh, CLIENTS)
    given = ingredients(lambda x: jax.device_put(x, clients), place.put, even, place.shardings)
    client, federation, base, state, batch, *rest = given
    base = jax.device_put(base, meshes.params_sharding(mesh, base))
    kernel = base["params"]["layers_0"]["mlp"]["down_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[0] * 2 == kernel.shape[0]
    batch = jax.device_put(batch, place.batch)
    given = client, federation, base, state, batch, *rest
    for run, found in ((run_round, expected), (resampled_step, resampled)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), run(*given), found)


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
