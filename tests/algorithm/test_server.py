"""The server: what comes down, the swap's plan, and averages of the sound clients' uploads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_rounds import KEY, close, far_apart, federation, one_client, same, started, world

import pubswap_jax as ps
from pubswap_jax.types import Aggregator

TWO = jnp.array([1.0, 0.0, 1.0])  # weights with client 1 absent


@pytest.mark.parametrize("moments", ["reset", "average", "keep"])
def test_what_comes_down_is_the_adapter_and_averaged_moments(moments):
    adapter, opt_state = {"a": jnp.ones(2)}, {"mu": jnp.zeros(2)}
    server = ps.make_server(moments=moments)
    state = server.init(adapter, opt_state)
    sent = {"adapter": adapter} | ({"moments": opt_state} if moments == "average" else {})
    same(server.download(state), sent)
    assert state.round == 0 and ps.make_server(aggregator=ps.alone()).download(state) is None


def test_moments_are_averaged_beside_the_adapter():
    server = ps.make_server(moments="average")
    state = server.init({"a": jnp.zeros(2)}, {"mu": jnp.zeros(2)})
    uploads = {
        "adapter": {"a": jnp.array([[1.0, 1], [2, 2], [6, 6]])},
        "moments": {"mu": jnp.array([[3.0, 3], [9, 9], [5, 5]])},
    }
    found = server.aggregate(state, uploads, TWO, jnp.zeros(3, jnp.int32), {})
    assert found.adapter["a"].tolist() == [3.5, 3.5] and found.moments["mu"].tolist() == [4, 4] and found.round == 1
    spoilt = uploads | {"moments": {"mu": uploads["moments"]["mu"].at[0].set(jnp.nan)}}
    found = server.aggregate(state, spoilt, jnp.ones(3), jnp.zeros(3, jnp.int32), {})
    assert found.adapter["a"].tolist() == [4, 4], "a client whose moments are not finite is left out"


def test_moments_without_an_array_are_left_as_they_are():
    server = ps.make_server(moments="average")
    state = server.init({"a": jnp.zeros(2)}, optax.identity().init({}))
    uploads = {"adapter": {"a": jnp.ones((3, 2))}, "moments": state.moments}
    found = server.aggregate(state, uploads, TWO, jnp.zeros(3, jnp.int32), {})
    assert found.moments == state.moments and found.adapter["a"].tolist() == [1, 1]


def test_a_swap_moves_every_leaf_by_one_plan():
    correct = jnp.zeros((3, 1, 4), bool).at[1].set(True)
    responses = {"tokens": jnp.arange(12).reshape(3, 1, 4), "correct": correct}
    moved, plan = ps.make_server(ps.swap_all).swap(KEY, correct, responses)
    same(plan, ps.swap_all(KEY, correct))
    same(moved["tokens"], plan.source)
    assert moved["correct"].all() and plan.swapped[jnp.array([0, 2])].all()
    _, absent = ps.make_server(ps.swap_all).swap(KEY, correct, responses, jnp.array([True, False, True]))
    assert not absent.swapped.any()


def test_a_rule_of_ones_own_averages_and_remembers():
    """The coordinate-wise median of those present, which also counts its rounds."""

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        there = weights.reshape(-1, 1, 1) > 0
        return jax.tree.map(lambda x: jnp.nanmedian(jnp.where(there, x, jnp.nan), axis=0), uploads), memory + 1

    rule = federation(aggregator=Aggregator(lambda adapter: jnp.zeros((), jnp.int32), apply))
    state = far_apart(rule.open(rule.init(world()[2]), ps.direct))
    first, _ = rule.close(state, ps.direct)
    close(first.server.adapter, jax.tree.map(lambda x: np.median(x, axis=0), state.clients.adapter))
    second, _ = rule.close(first, ps.direct, TWO)
    close(second.server.adapter, jax.tree.map(lambda x: (x[0] + x[2]) / 2, state.clients.adapter))
    assert (first.server.memory, second.server.memory) == (1, 2)


def test_a_rule_that_multiplies_by_its_weights_never_sees_an_unsound_upload():
    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        return jax.tree.map(lambda x: jnp.tensordot(weights, x, 1) / weights.sum(), uploads), memory

    server = ps.make_server(aggregator=Aggregator(lambda adapter: (), apply))
    uploads = {"adapter": {"a": jnp.array([[1.0, 1], [jnp.nan, 2], [6, 6]])}}
    found = server.aggregate(server.init({"a": jnp.zeros(2)}, ()), uploads, jnp.ones(3), jnp.zeros(3, jnp.int32), {})
    assert found.adapter["a"].tolist() == [3.5, 3.5], "0 · NaN is NaN"


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e12])
def test_an_average_is_of_the_sound_clients_and_stays_what_it_was_where_nobody_is(poison):
    state = far_apart(started())

    def poisoned(who):
        adapter = jax.tree.map(lambda x: x.at[who].set(poison), state.clients.adapter)
        return state.replace(clients=state.clients.replace(adapter=adapter))

    found, figures = federation().close(poisoned(1), ps.direct)
    honest, _ = federation().close(state, ps.direct, TWO)
    same(found.server, honest.server)
    assert figures["sound"].tolist() == [True, False, True]
    same(one_client(found.clients.adapter, 1), jax.tree.map(lambda x: x[None], state.server.adapter))
    same(one_client(found.clients, 2), one_client(state.clients, 2))
    found, figures = federation().close(poisoned(slice(None)), ps.direct)
    assert found.round == state.round + 1 and not figures["sound"].any()
    same(found.server.adapter, state.server.adapter)
