"""FedAvg on the two-layer CNN of arXiv 2502.08024, with data of one signal patch and one noise patch.

`Reading:` sizes, rates and the way of splitting labels are ours; the paper's are not public to us.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import fedavg
from pubswap_jax.types import Array


class Sizes(NamedTuple):
    clients: int = 10
    samples: int = 10  # of each client
    dim: int = 400
    filters: int = 10  # of each of the two outputs
    signal: float = 1.5  # ‖μ‖; noise has deviation 1 in each dimension
    scale: float = 0.01  # of the filters before training
    rate: float = 0.1
    steps: int = 100  # τ
    rounds: int = 10
    test: int = 1000


def first_filters(key: Array, sizes: Sizes, aligned: Array) -> Array:
    """Random filters f32[2, m, d], of which the share `aligned` of each output is aligned: ⟨w, jμ⟩ ≥ 0 with j = +1, −1.

    Filters of different shares are equal but for the sign of their component along μ, the first axis.
    """
    filters = sizes.scale * jax.random.normal(key, (2, sizes.filters, sizes.dim))
    sign = jnp.where(jnp.arange(sizes.filters) < jnp.round(aligned * sizes.filters), 1.0, -1.0)
    own = jnp.array([1.0, -1.0])[:, None] * sign[None]
    return filters.at[..., 0].set(jnp.abs(filters[..., 0]) * own)


def misaligned(filters: Array) -> Array:
    """The share of filters with ⟨w, jμ⟩ < 0. f32[2, m, d] -> f32[]."""
    return (filters[..., 0] * jnp.array([[1.0], [-1.0]]) < 0).mean()


def output(filters: Array, labels: Array, noise: Array, signal: float) -> Array:
    """F(x) = Σ_j j · mean_r [relu⟨w_jr, yμ⟩ + relu⟨w_jr, ξ⟩]. labels [n], noise [n, d] -> [n]."""
    on_signal = jax.nn.relu(filters[None, :, :, 0] * (signal * labels)[:, None, None])
    on_noise = jax.nn.relu(jnp.einsum("jmd,nd->njm", filters, noise))
    both = (on_signal + on_noise).mean(-1)
    return both[:, 0] - both[:, 1]


def loss(filters: Array, labels: Array, noise: Array, signal: float) -> Array:
    return jax.nn.softplus(-labels * output(filters, labels, noise, signal)).mean()


def labels_of(sizes: Sizes, heterogeneity: Array) -> Array:
    """f32[C, n]: the first half of the clients has a share (1 + h)/2 of label +1, the other half as many of label −1."""
    own = jnp.round(sizes.samples * (1 + heterogeneity) / 2)
    major = jnp.where(jnp.arange(sizes.samples) < own, 1.0, -1.0)
    side = jnp.where(jnp.arange(sizes.clients) < sizes.clients // 2, 1.0, -1.0)
    return side[:, None] * major[None]


@partial(jax.jit, static_argnames="sizes")
def test_error(key: Array, aligned: Array, heterogeneity: Array, sizes: Sizes) -> tuple[Array, Array]:
    """(error on fresh data, share of misaligned filters at the end) after FedAvg. Equal keys: equal filters and noise."""
    keys = jax.random.split(key, 4)
    labels = labels_of(sizes, heterogeneity)
    noise = jax.random.normal(keys[0], (sizes.clients, sizes.samples, sizes.dim)).at[..., 0].set(0.0)  # orthogonal to μ

    def local(filters, labels, noise):
        def step(filters, _):
            return filters - sizes.rate * jax.grad(loss)(filters, labels, noise, sizes.signal), None

        return jax.lax.scan(step, filters, None, sizes.steps)[0]

    def round(filters, _):
        trained = jax.vmap(local, in_axes=(None, 0, 0))(filters, labels, noise)
        return fedavg(trained), None

    filters, _ = jax.lax.scan(round, first_filters(keys[1], sizes, aligned), None, sizes.rounds)
    asked = jnp.where(jax.random.bernoulli(keys[2], 0.5, (sizes.test,)), 1.0, -1.0)
    fresh = jax.random.normal(keys[3], (sizes.test, sizes.dim)).at[:, 0].set(0.0)
    return (asked * output(filters, asked, fresh, sizes.signal) <= 0).mean(), misaligned(filters)
