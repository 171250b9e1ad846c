"""Averaging weights by each client's gain over its own running mean reward (FGRPO, arXiv 2606.03094), for any federation."""

import flax.struct
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import gain_weights
from pubswap_jax.types import Array, Federation, Program, PyTree, ServerState, compiled


@flax.struct.dataclass
class Gaining:
    """A federation's own state, and beside it what the server knows of the clients' rewards."""

    inner: PyTree
    reward: Array  # f32[C], sum over the private steps of this round
    steps: Array  # int32[], private steps of this round
    baseline: Array  # f32[C], running mean reward of a round; NaN before a client's first round

    @property
    def round(self) -> Array:
        return self.inner.round

    @property
    def server(self) -> ServerState:
        return self.inner.server

    @property
    def clients(self) -> PyTree:
        return self.inner.clients


def by_gain(federation: Federation, program: Program = compiled) -> Federation:
    """A copy of a federation whose averaging weights follow each client's gain in reward, by `gain_weights`.

    The server reads the rewards among the counters that go up after each step, so that nothing more crosses. Public steps do
    not count: after a swap the counter is not the reward of the client's own responses. A round without a private step leaves
    weights and baselines as they are.
    """
    run = {name: program(name, function) for name, function in (("gain_init", _init), ("gain_add", _add), ("gain", _weigh))}

    def init(adapter):
        inner = federation.init(adapter)
        return Gaining(inner, *run["gain_init"](inner.clients.id))

    def open_(state, channel, who=None):
        return state.replace(inner=federation.open(state.inner, channel, who))

    def step(base, state, batch, *arguments):
        inner, record = federation.step(base, state.inner, batch, *arguments)
        state = state.replace(inner=inner)
        if batch.public:
            return state, record
        reward, steps = run["gain_add"](state.reward, state.steps, record.metrics["reward"])
        return state.replace(reward=reward, steps=steps), record

    def close(state, channel, weights=None):
        if isinstance(weights, (np.ndarray, list)):
            weights = jnp.asarray(weights)
        weights, reward, steps, baseline = run["gain"](state.reward, state.steps, state.baseline, weights)
        inner, figures = federation.close(state.inner, channel, weights)
        return Gaining(inner, reward, steps, baseline), figures

    def of_inner(function):
        return lambda state: function(state.inner)

    def saved(state):
        return state.replace(inner=federation.saved(state.inner))

    shared, own = of_inner(federation.shared), of_inner(federation.own)
    return federation._replace(init=init, open=open_, step=step, close=close, shared=shared, own=own, saved=saved)


def _init(ids: Array) -> tuple[Array, Array, Array]:
    zeros = ids * jnp.zeros(())  # of the clients' ids, so that the arrays lie where the clients do
    return zeros, ids[0] * 0, zeros + jnp.nan


def _add(total: Array, steps: Array, reward: Array) -> tuple[Array, Array]:
    return total + reward, steps + 1


def _weigh(total: Array, steps: Array, baseline: Array, weights: Array | None) -> tuple[Array, Array, Array, Array]:
    weights = jnp.ones(total.shape) if weights is None else weights
    found, following = gain_weights(weights, total / jnp.maximum(steps, 1), baseline)
    seen = steps > 0
    return jnp.where(seen, found, weights), total * 0, steps * 0, jnp.where(seen, following, baseline)
