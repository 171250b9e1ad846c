"""Every rule that a config can name, on 1,000 random rounds with hostile clients: no value that is not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aggregation_laws import as_dtype

from pubswap_jax import settings
from pubswap_jax.algorithm.aggregation import LARGEST, sound
from pubswap_jax.field_table import FIELDS
from pubswap_jax.fields import default_config

ROUNDS, CLIENTS = 1000, 4
RULES = next(field.choices for field in FIELDS if field.name == "federation.aggregate")


@functools.cache
def hostile_rounds():
    """The server's adapters [N, ...], uploads [N, C, ...] and weights f32[N, C].

    A client's upload is near the adapter, equal to the first client's, equal to the adapter, opposite to the first client's,
    all zeros, or as large as the server lets through. Absent clients hold NaN.
    """
    rng = np.random.default_rng(7)
    adapter = {"q": {"a": rng.normal(size=(ROUNDS, 4, 2)), "b": rng.normal(size=(ROUNDS, 2, 3))}}
    weights = rng.choice([0.0, 1.0, 2.5], size=(ROUNDS, CLIENTS))
    kind = rng.integers(0, 6, size=(ROUNDS, CLIENTS, 1, 1))

    def uploads_of(x):
        near = x[:, None] + 0.1 * rng.normal(size=(ROUNDS, CLIENTS, *x.shape[1:]))
        first, server = near[:, :1], x[:, None]
        huge = rng.normal(size=near.shape)
        huge *= 0.7 * LARGEST / np.linalg.norm(huge, axis=(2, 3), keepdims=True)  # 0.99 of the limit for both leaves together
        kinds = (near, first, server, 2 * server - first, np.zeros_like(near), huge)
        found = np.choose(kind, [np.broadcast_to(one, near.shape) for one in kinds])
        return np.where(weights[..., None, None] > 0, found, np.nan)

    uploads = jax.tree.map(uploads_of, adapter)
    return *map(as_dtype, (adapter, uploads)), jnp.asarray(weights, jnp.float32)


@pytest.mark.parametrize("name,beta", [*((name, 2.0) for name in RULES), ("robust_pca", 0.0)])
def test_no_rule_makes_a_value_that_is_not_finite(name, beta):
    config = default_config()
    config.federation.beta = beta
    config.federation.aggregate, config.federation.num_clients = name, CLIENTS
    rule = settings.chosen(config, "federation.aggregate")
    adapters, uploads, weights = hostile_rounds()
    assert (np.asarray(jax.vmap(sound)(uploads)) == (weights > 0)).all(), "the server lets all present clients through"
    counts = jnp.where(weights > 0, 1.0 + jnp.arange(CLIENTS), jnp.nan)
    extra = {"control": uploads, "time": counts, "curvature": counts}  # of scaffold's and fedecado's clients

    def two_rounds(adapter, *case):
        memory = rule.init(adapter)
        for _ in range(2):  # the second one starts from the memory of the first one
            adapter, memory = rule.apply(memory, adapter, *case[:2], jnp.zeros(CLIENTS, jnp.int32), case[2])
        return adapter, memory

    found = jax.jit(jax.vmap(two_rounds))(adapters, uploads, weights, extra)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
