"""Toy federations for tests of the algorithm: three clients, a policy whose adapter is not zero, and their stacked update."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import pubswap_jax as ps
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.policy.toyworld import TOY_CONFIG

CLIENTS, GROUP = 3, 4
TX = optax.scale_by_adam(eps_root=1e-16)
HPARAMS = ps.Hparams.create(lr=1e-2)
KEY = jax.random.key(2)


@functools.cache
def world(layers=1):
    """model, base, an adapter that is not zero, and two private batches and a public one. One layer compiles fast."""
    model, base, adapter = ps.toy(jax.random.key(0), TOY_CONFIG.replace(num_layers=layers))
    adapter = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(5), x.shape), adapter)
    return model, base, adapter, ps.toy_batches(jax.random.key(1), num_clients=CLIENTS)


_shared = {}


def program(name, function):
    """`rollout` and `update` are compiled once for all federations that differ in the planner, aggregator or moments only."""
    return _shared.setdefault(name, jax.jit(function)) if name in ("rollout", "update") else jax.jit(function)


@functools.cache
def federation(**server):
    """PubSwap of the toy policy. `server` takes planner, aggregator and moments: settings that change no client's update."""
    assert server.keys() <= {"planner", "aggregator", "moments"}
    return ps.pubswap(world()[0], TX, num_clients=CLIENTS, group=GROUP, program=program, **server)


@functools.cache
def started():
    """The state of `federation()` with every client at the server's adapter."""
    return federation().open(federation().init(world()[2]), ps.direct)


def step(state, batch, who=None, key=KEY, hparams=HPARAMS, **server):
    """A step of `federation(**server)` with the parity judge. -> state, record"""
    return federation(**server).step(world()[1], state, batch, ps.parity_judge, ps.direct, key, hparams, who)


@functools.cache
def public_step():
    """What an update takes after a public step's swap: received, clients, prompts, rollouts, verdicts, swapped."""
    batch = world()[3][2]
    _, record = step(started(), batch)
    assert record.plan.swapped.any()
    after = record.swapped_rollouts, record.swapped_verdicts, record.plan.swapped
    return started().server.adapter, started().clients, batch.prompts, *after


PLAIN = Learning()


def make_client(tx=TX, how=PLAIN, **state):
    """The toy policy's client. `state` takes moments and lockstep."""
    model = world()[0]
    ends = model.config.eos_ids, model.config.pad_id
    return ps.make_client(model, tx, how, group=GROUP, max_new_tokens=model.config.max_new_tokens, ends=ends, **state)


@functools.cache
def learner(tx=TX, clients_at_once=None, **how):
    """The update of stacked clients: (received, clients, prompts, rollouts, verdicts, swapped, hparams) -> clients, metrics."""
    return partial(jax.jit(ps.over_clients(make_client(tx, Learning(**how)), clients_at_once).learn), world()[1])


@functools.cache
def sgd():
    """Without moments, so that the adapter moves by minus the gradient."""
    return optax.identity()


def with_layers(monkeypatch, layers):
    """Gives this module's functions, called by their module, a policy of so many layers until the test ends."""
    monkeypatch.setattr(f"{__name__}._shared", {})
    for function in (federation, started, public_step, learner):
        monkeypatch.setattr(f"{__name__}.{function.__name__}", functools.cache(function.__wrapped__))
    monkeypatch.setattr(f"{__name__}.world", partial(world, layers))


def gradient_of(learn, given):
    """What the optimizer receives: with plain SGD at lr 1 the adapter moves by minus the gradient. -> gradients, metrics"""
    updated, metrics = learn(*given, HPARAMS.replace(lr=jnp.array(1.0)))
    return jax.tree.map(lambda old, new: old - new, given[1].adapter, updated.adapter), metrics


def close(x, y, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5), x, y)


def same(x, y):
    """Equal to the bit, in the same structure; keys apart."""
    jax.tree.map(np.testing.assert_array_equal, x, y)


def one_client(tree, index):
    return jax.tree.map(lambda x: x[index : index + 1], tree)


def far_apart(state):
    """The state with client c's adapter moved by c + 1."""
    moved = lambda x: x + jnp.arange(1.0, CLIENTS + 1).reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
    return state.replace(clients=state.clients.replace(adapter=jax.tree.map(moved, state.clients.adapter)))
