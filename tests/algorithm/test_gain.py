"""Weights by gain: the server's own account of rewards over rounds, and the weights that a federation's `close` then gets.

The federation is one of two counters, without a model; a run with `federation.weights=gain` is in tests/run/test_families.py.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import gain_weights
from pubswap_jax.algorithm.gain import by_gain
from pubswap_jax.types import ClientState, Federation, ServerState

NUMBER = jnp.zeros((), jnp.int32)


def federation():
    """Two clients. A batch holds the rewards that they get, and `close` keeps the weights in the server's memory."""

    def init(adapter):
        server = ServerState(adapter, (), NUMBER, jnp.full(2, jnp.nan))
        return types.SimpleNamespace(server=server, clients=ClientState(jnp.arange(2), adapter, (), NUMBER, NUMBER), round=0)

    def step(base, state, batch, *rest):
        return state, types.SimpleNamespace(metrics={"reward": jnp.array(batch.reward)})

    def close(state, channel, weights=None):
        server = state.server.replace(memory=weights)
        return types.SimpleNamespace(server=server, clients=state.clients, round=state.round + 1), {"sound": weights > 0}

    same = lambda state, *rest: state  # noqa: E731
    return Federation(init, same, step, close, lambda state: state.server.adapter, lambda state: None, same)


def round_of(found, state, rewards, weights=None):
    state = found.open(state, None)
    for reward, public in rewards:
        state, _ = found.step(None, state, types.SimpleNamespace(reward=reward, public=public))
    return found.close(state, None, weights)


def test_a_round_is_weighed_by_the_gain_over_the_rounds_before():
    found = by_gain(federation())
    state, figures = round_of(found, found.init(jnp.ones(3)), [([0.2, 0.4], False), ([0.9, 0.9], True), ([0.4, 0.4], False)])
    np.testing.assert_allclose(state.server.memory, [1, 1])
    np.testing.assert_allclose(state.baseline, [0.3, 0.4], rtol=1e-6)
    assert state.round == 1 and state.steps == 0 and not state.reward.any() and figures["sound"].all()
    state, _ = round_of(found, state, [([0.7, 0.4], False)], np.array([1.0, 2.0]))
    gain = np.exp((0.7 - 0.3) / (0.3 + 0.1))  # the other client gained nothing
    np.testing.assert_allclose(state.server.memory, 3 * np.array([gain, 2.0]) / (gain + 2.0), rtol=1e-5)
    np.testing.assert_allclose(state.baseline, [0.9 * 0.3 + 0.1 * 0.7, 0.4], rtol=1e-6)
    want, _ = gain_weights(jnp.array([1.0, 2.0]), jnp.array([0.7, 0.4]), jnp.array([0.3, 0.4]))
    np.testing.assert_allclose(state.server.memory, want, rtol=1e-6)
    assert found.shared(state).tolist() == [1, 1, 1] and found.own(state) is None


def test_an_absent_client_keeps_its_baseline_and_weighs_nothing():
    found = by_gain(federation())
    state, _ = round_of(found, found.init(jnp.ones(3)), [([0.2, 0.0], False)], jnp.array([1.0, 0.0]))
    assert state.server.memory.tolist() == [1, 0] and np.isnan(state.baseline[1])
    state, _ = round_of(found, state, [([0.0, 0.8], False)], jnp.array([0.0, 1.0]))
    assert state.server.memory.tolist() == [0, 1]
    np.testing.assert_allclose(state.baseline, [0.2, 0.8], rtol=1e-6)


def test_a_round_of_public_steps_alone_changes_neither_weights_nor_baselines():
    found = by_gain(federation())
    begun, _ = round_of(found, found.init(jnp.ones(3)), [([0.2, 0.4], False)])
    state, _ = round_of(found, begun, [([0.9, 0.1], True)], jnp.array([1.0, 3.0]))
    assert state.server.memory.tolist() == [1, 3]
    np.testing.assert_array_equal(state.baseline, begun.baseline)
    first, _ = round_of(found, found.init(jnp.ones(3)), [([0.9, 0.1], True)], jnp.array([1.0, 3.0]))
    assert first.server.memory.tolist() == [1, 3] and np.isnan(first.baseline).all()


def test_the_account_lies_where_the_clients_do():
    device = jax.devices()[3]
    inner = federation()

    def init(adapter):
        state = inner.init(adapter)
        state.clients = jax.device_put(state.clients, device)
        return state

    state = by_gain(inner._replace(init=init)).init(jnp.ones(3))
    assert {x.device for x in (state.reward, state.steps, state.baseline)} == {device}
