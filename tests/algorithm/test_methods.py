"""Rules and corrections inside a federation: what a correction remembers and sends reaches the rule, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pubswap_jax as ps
from pubswap_jax.algorithm.corrections import scaffold
from pubswap_jax.algorithm.federation import direct
from pubswap_jax.algorithm.server_optimizers import scaffold_rule
from pubswap_jax.policy.toyworld import TOY_CONFIG
from pubswap_jax.run.channel import packed
from pubswap_jax.types import Correction

HPARAMS = ps.Hparams.create(lr=0.05)
ONE_LAYER = TOY_CONFIG.replace(num_layers=1)  # compiles fast


def rounds(federation, base, adapter, batches, channel=direct, count=2, weights=None):
    state = federation.init(adapter)
    for round in range(count):
        state = federation.open(state, channel)
        for step, batch in enumerate(batches):
            key = jax.random.fold_in(jax.random.key(round), step)
            state, _ = federation.step(base, state, batch, ps.parity_judge, channel, key, HPARAMS)
        state, _ = federation.close(state, channel, weights)
    return state


def test_scaffolds_controls_are_the_mean_gradients_and_their_mean():
    model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
    batches = ps.toy_batches(jax.random.key(1), num_clients=3)
    seen = []

    def watching():
        inner = scaffold()

        def gradient(gradient, adapter, received, memory, hparams):
            jax.debug.callback(lambda g: seen.append(np.asarray(g)), jax.tree.leaves(gradient)[0])
            return inner.gradient(gradient, adapter, received, memory, hparams)

        return inner._replace(gradient=gradient)

    federation = ps.pubswap(
        model, optax.identity(), num_clients=3, group=4, correction=watching(), aggregator=scaffold_rule(), clients_at_once=1
    )
    state = rounds(federation, base, adapter, batches, count=1)
    own = np.asarray(jax.tree.leaves(state.clients.memory["own"])[0])
    jax.effects_barrier()
    gradients = np.stack(seen).reshape(len(batches), 3, *own.shape[1:])  # steps, then clients
    np.testing.assert_allclose(own, gradients.mean(0), rtol=1e-5, atol=1e-7)
    control = jax.tree.leaves(state.server.memory)
    assert any(x.shape == own.shape[1:] and np.allclose(x, own.mean(0), rtol=1e-5, atol=1e-7) for x in control)
    # In the next round every gradient has the server's control added and the client's own taken away.
    opened = federation.open(state, direct)
    for x, mean in zip(
        jax.tree.leaves(opened.clients.memory["control"]), jax.tree.leaves(state.clients.memory["own"]), strict=True
    ):
        np.testing.assert_allclose(x, np.broadcast_to(np.asarray(mean).mean(0), x.shape), rtol=1e-5, atol=1e-7)


def test_what_a_correction_sends_crosses_the_channel():
    model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
    batches = ps.toy_batches(jax.random.key(1), num_clients=3)
    federation = ps.pubswap(
        model, optax.scale_by_adam(), num_clients=3, group=4, correction=scaffold(), aggregator=scaffold_rule()
    )
    plain, bytes_only = (rounds(federation, base, adapter, batches, channel) for channel in (direct, packed(direct)))
    jax.tree.map(np.testing.assert_array_equal, plain, bytes_only)
    without = ps.pubswap(model, optax.scale_by_adam(), num_clients=3, group=4)
    other = rounds(without, base, adapter, batches)
    assert any(
        np.abs(x - y).max() > 1e-4
        for x, y in zip(jax.tree.leaves(plain.server.adapter), jax.tree.leaves(other.server.adapter), strict=True)
    )


def test_steps_are_counted_from_a_clients_start():
    model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
    batches = ps.toy_batches(jax.random.key(1), num_clients=3)
    counted = Correction(
        lambda adapter: (),
        lambda gradient, *_: gradient,
        lambda adapter, received, memory, steps: (memory, {"steps": steps.astype(float)}),
    )
    found = []

    def noted(memory, adapter, uploads, weights, staleness, extra=None):
        jax.debug.callback(lambda steps: found.append(np.asarray(steps)), extra["steps"])
        return ps.fedavg(uploads, weights), memory

    rule = ps.Aggregator(lambda adapter: (), noted)
    federation = ps.pubswap(
        model, optax.identity(), num_clients=3, group=4, correction=counted, aggregator=rule, inner_epochs=2
    )
    rounds(federation, base, adapter, batches, count=2)
    jax.effects_barrier()
    np.testing.assert_array_equal(found, np.full((2, 3), 2 * len(batches)))


def test_a_rule_that_waits_makes_no_new_version():
    model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
    batches = ps.toy_batches(jax.random.key(1), num_clients=3)
    never = ps.Aggregator(lambda adapter: (), lambda memory, adapter, *_: (adapter, memory), due=lambda memory, weights: False)
    federation = ps.pubswap(model, optax.identity(), num_clients=3, group=4, aggregator=never)
    assert int(rounds(federation, base, adapter, batches).round) == 0


def test_too_few_clients_for_a_rule_are_an_error():
    model, base, adapter = ps.toy(jax.random.key(0), ONE_LAYER)
    batches = ps.toy_batches(jax.random.key(1), num_clients=4)
    federation = ps.pubswap(model, optax.identity(), num_clients=4, group=4, aggregator=ps.trimmed_mean(1))
    with pytest.raises(ValueError, match="at least 3 clients expected, got 2 of 4"):
        rounds(federation, base, adapter, batches[:1], count=1, weights=jnp.array([1.0, 1, 0, 0]))
