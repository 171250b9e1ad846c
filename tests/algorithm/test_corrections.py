"""Terms added to a client's gradient: the proximal term, and SCAFFOLD against its loop written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.corrections import proximal, scaffold
from pubswap_jax.algorithm.server_optimizers import scaffold_rule
from pubswap_jax.types import Hparams


def test_the_proximal_term_pulls_back_to_what_was_received():
    correction, adapter = proximal(), {"x": jnp.array([1.0, 2.0])}
    memory = correction.init(adapter)
    pulled = correction.gradient({"x": jnp.ones(2)}, adapter, {"x": jnp.zeros(2)}, memory, Hparams.create(prox_coef=0.5))
    assert pulled["x"].tolist() == [1.5, 2.0]
    assert correction.observe(None, adapter, adapter, memory, None) == memory == correction.receive(memory, ())
    assert correction.finish(adapter, adapter, memory, 3) == ((), {}) and proximal() is correction


def written_out(hessians, targets, rounds, participants, steps, rate):
    """SCAFFOLD with the paper's second option, on ½(x − a)ᵀH(x − a), with plain gradient descent."""
    clients, size = targets.shape
    x, c, own = np.zeros(size), np.zeros(size), np.zeros((clients, size))
    for number in range(rounds):
        moves, changes = [], []
        for i in participants[number]:
            y = x.copy()
            for _ in range(steps):
                y = y - rate * (hessians[i] @ (y - targets[i]) - own[i] + c)
            new = own[i] - c + (x - y) / (steps * rate)
            moves.append(y - x)
            changes.append(new - own[i])
            own[i] = new
        x = x + np.mean(moves, axis=0)
        c = c + len(moves) / clients * np.mean(changes, axis=0)
    return x, c


def by_rule(hessians, targets, rounds, participants, steps, rate):
    """The same from the correction and the rule; clients that are absent train on NaN."""
    correction, rule, hparams = scaffold(), scaffold_rule(), Hparams.create(lr=rate)
    clients, size = targets.shape
    adapter = {"x": jnp.zeros(size)}
    memory = rule.init(adapter)
    own = jax.vmap(lambda _: correction.init(adapter))(jnp.arange(clients))

    def train(received, own, sent, hessian, target):
        own, y = correction.receive(own, sent), received
        for _ in range(steps):
            gradient = {"x": hessian @ (y["x"] - target)}
            own = correction.observe(gradient, y, received, own, hparams)
            corrected = correction.gradient(gradient, y, received, own, hparams)
            y = jax.tree.map(lambda x, g: x - hparams.lr * g, y, corrected)
        return y, *correction.finish(y, received, own, jnp.asarray(steps))

    @jax.jit
    def one_round(adapter, memory, own, weights):
        sent = rule.sends(memory, clients)
        targets_seen = jnp.where(weights[:, None] > 0, targets, jnp.nan)
        uploads, new, extra = jax.vmap(train, in_axes=(None, 0, 0, 0, 0))(adapter, own, sent, hessians, targets_seen)
        adapter, memory = rule.apply(memory, adapter, uploads, weights, jnp.zeros(clients, jnp.int32), extra)
        return adapter, memory, jax.tree.map(lambda x, y: jnp.where(weights[:, None] > 0, x, y), new, own)

    for number in range(rounds):
        weights = jnp.asarray(np.isin(np.arange(clients), participants[number]), float)
        adapter, memory, own = one_round(adapter, memory, own, weights)
    return adapter["x"], memory["control"]["x"]


def test_scaffold_is_the_written_out_loop_and_finds_the_optimum_that_averaging_misses():
    rng = np.random.default_rng(0)
    clients, size, steps, rate = 4, 3, 6, 0.05
    roots = rng.normal(size=(clients, size, size))
    hessians, targets = roots @ np.swapaxes(roots, 1, 2) + 0.3 * np.eye(size), rng.normal(size=(clients, size))
    participants = [np.arange(4), [0, 2], [1], [1, 2, 3], [0, 3]]
    with jax.enable_x64(True):
        world = jnp.asarray(hessians), jnp.asarray(targets)
        for found, expected in zip(
            by_rule(*world, 5, participants, steps, rate),
            written_out(hessians, targets, 5, participants, steps, rate),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-10)
        found, control = by_rule(*world, 300, [np.arange(4)] * 300, steps, rate)
    optimum = np.linalg.solve(hessians.sum(0), np.einsum("cij,cj->i", hessians, targets))
    np.testing.assert_allclose(found, optimum, atol=1e-6)
    np.testing.assert_allclose(control, 0, atol=1e-6)

    x = np.zeros(size)
    for _ in range(300):
        ends = np.stack([x] * clients)
        for _ in range(steps):
            ends = ends - rate * np.einsum("cij,cj->ci", hessians, ends - targets)
        x = ends.mean(0)
    assert np.linalg.norm(x - optimum) > 0.02, "plain averaging stops elsewhere, so the test says something"
