"""FedECADO against its circuit's closed solution, against a dense solver, and at rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from aggregation_laws import as_dtype, assert_close, next_adapter, uploads_of

from pubswap_jax.algorithm.fedecado import _backward_euler, fedecado, fedecado_rule
from pubswap_jax.types import Hparams

SHARES, CURVATURES, TARGETS = np.array([0.7, 0.3]), np.array([1.0, 4.0]), np.array([2.0, -1.0])
START, INDUCTANCE = 3.0, 0.5


def closed_solution(time):
    """The state (x_c, I₁, I₂, x₁, x₂) of the circuit of two quadratic clients ½h(x − a)², by eigenvectors."""
    p, h, a = SHARES, CURVATURES, TARGETS
    matrix = np.zeros((5, 5))
    matrix[0, 1:3] = -1
    matrix[1:3, 0], matrix[[1, 2], [3, 4]] = 1 / INDUCTANCE, -1 / INDUCTANCE
    matrix[[3, 4], [1, 2]], matrix[[3, 4], [3, 4]] = 1, -p * h
    rest = np.linalg.solve(matrix, -np.concatenate([np.zeros(3), p * h * a]))
    values, vectors = np.linalg.eig(matrix)
    assert values.real.max() < 0, "the signs make it stable"
    start = np.array([START, 0, 0, START, START])
    modes = np.linalg.solve(vectors, (start - rest).astype(complex))
    return (vectors @ (np.exp(values * time) * modes)).real + rest


@functools.partial(jax.jit, static_argnames=("rounds", "momentum", "steps", "substeps"))
def train(gamma, rate, *, rounds, steps, momentum=False, substeps=16, weights=None):
    """Rounds of two quadratic clients; client i takes steps[i] plain gradient steps. -> centres, times [rounds], memory."""
    hparams, longest = Hparams.create(lr=rate), max(steps)
    correction, rule = fedecado(gamma, momentum), fedecado_rule(jnp.asarray(SHARES), gamma, INDUCTANCE, substeps)
    adapter = {"x": jnp.full((1,), START)}

    def learn(received, own, sent, curvature, target, count):
        own = correction.receive(own, sent)

        def step(number, state):
            y, own = state
            gradient = {"x": curvature * (y["x"] - target)}
            new = correction.observe(gradient, y, received, own, hparams)
            corrected = correction.gradient(gradient, y, received, new, hparams)
            moved = jax.tree.map(lambda x, g: x - hparams.lr * g, y, corrected)
            return jax.tree.map(lambda x, z: jnp.where(number < count, x, z), (moved, new), (y, own))

        y, own = jax.lax.fori_loop(0, longest, step, (received, own))
        return y, *correction.finish(y, received, own, count)

    def one_round(state, _):
        adapter, memory, own = state
        starts, sent = rule.starts(memory), rule.sends(memory, 2)
        world = (jnp.asarray(CURVATURES), jnp.asarray(TARGETS), jnp.asarray(steps))
        uploads, own, extra = jax.vmap(learn)(starts, own, sent, *world)
        everybody = jnp.ones(2) if weights is None else weights
        adapter, memory = rule.apply(memory, adapter, uploads, everybody, jnp.zeros(2, jnp.int32), extra)
        return (adapter, memory, own), (adapter["x"][0], jnp.max(extra["time"]))

    own = jax.vmap(lambda _: correction.init(adapter))(jnp.arange(2))
    (_, memory, _), (centres, times) = jax.lax.scan(one_round, (adapter, rule.init(adapter), own), None, rounds)
    return centres, jnp.cumsum(times), memory


@pytest.mark.parametrize("steps", [(5, 5), (5, 2)], ids=["equal times", "unequal times"])
def test_it_follows_the_closed_solution_of_its_circuit(steps):
    """Windows of 10⁻² and half of that: the error is small, and halves, as that of a method of first order."""
    errors = []
    with jax.enable_x64(True):
        for rate in (2e-3, 1e-3):
            # γ of 10⁻⁹ keeps the clients' pace at its lower bound of 1/4, so the learning rate is raised by it.
            centres, times, _ = train(1e-9, 4 * rate, rounds=int(4 / (5 * rate)), steps=steps)
            exact = np.array([closed_solution(t)[0] for t in np.asarray(times)])
            errors.append(np.max(np.abs(np.asarray(centres) - exact)))
    assert errors[0] < 0.06 and 1.7 < errors[0] / errors[1] < 2.3, errors


def test_it_rests_at_the_optimum_whatever_gamma_is():
    optimum = np.sum(SHARES * CURVATURES * TARGETS) / np.sum(SHARES * CURVATURES)
    with jax.enable_x64(True):
        for momentum in (False, True):
            for gamma in (1e-3, 1e-2, 1e-1):
                centres, _, memory = train(gamma, 0.02, rounds=200, steps=(5, 2), momentum=momentum)
                assert abs(centres[-1] - optimum) < 1e-6, (momentum, gamma, centres[-1])
                forces = SHARES * CURVATURES * (optimum - TARGETS)
                np.testing.assert_allclose(memory["current"]["x"][:, 0], forces, atol=1e-5)


def test_a_backward_euler_step_solves_the_dense_system():
    rng = np.random.default_rng(0)
    clients, dt, tau, inductance = 3, 0.3, 0.2, 0.7
    h, present = np.array([0.5, 2.0, 1.0]), np.array([True, False, True])
    x, current, offset, start, slope, first = rng.normal(), *rng.normal(size=(5, clients))
    matrix, right = np.eye(1 + 2 * clients), np.concatenate([[x], current, offset])
    matrix[0, 1 : 1 + clients] = dt  # x' + dt Σ I' = x
    for i in range(clients):
        row_i, row_d = 1 + i, 1 + clients + i
        if present[i]:  # L I' − dt x' + dt d' = L I − dt path
            matrix[row_i, [0, row_i, row_d]] = -dt, inductance, dt
            right[row_i] = inductance * current[i] - dt * (start[i] + (tau + dt) * slope[i])
        matrix[row_d, [row_i, row_d]] = -dt, 1 + dt * h[i]  # d' + dt h d' = d + dt (I' − I(start))
        right[row_d] = offset[i] - dt * first[i]
    expected = np.linalg.solve(matrix, right)
    with jax.enable_x64(True):
        tree = lambda values: {"x": jnp.asarray(values)[:, None]}  # noqa: E731
        circuit = ((tree(start), tree(slope)), tree(first), jnp.asarray(present), jnp.asarray(h), inductance)
        nodes = ({"x": jnp.full(1, x)}, tree(current), tree(offset))
        found = _backward_euler(circuit, nodes, jnp.asarray(tau), jnp.asarray(dt))
    flat = np.concatenate([np.ravel(node["x"]) for node in found])
    there = np.concatenate([[True], np.ones(clients, bool), present])  # an absent client's offset is not used
    np.testing.assert_allclose(flat[there], expected[there], rtol=1e-10)


def test_momentum_is_critically_damped():
    """A single node of curvature h without current follows (1 + 2ht) exp(−2ht): no overshoot, faster than exp(−ht)."""
    curvature, rate = 2.0, 1e-4
    with jax.enable_x64(True):
        correction, hparams = fedecado(1e9, True), Hparams.create(lr=rate / 4)
        y, own = {"x": jnp.ones(1)}, correction.init({"x": jnp.zeros(1)})
        # The curvature is known from the start, the pace is at its upper bound, and the node is at rest.
        own |= {
            "share": jnp.ones(()),
            "curvature": jnp.asarray(curvature),
            "pace": jnp.asarray(4.0),
            "step": jnp.asarray(rate),
        }
        own |= {"force": {"x": jnp.zeros(1)}}

        def step(state, _):
            y, own = state
            gradient = {"x": curvature * y["x"]}
            own = correction.observe(gradient, y, None, own, hparams)
            corrected = correction.gradient(gradient, y, None, own, hparams)
            y = jax.tree.map(lambda x, g: x - hparams.lr * g, y, corrected)
            return (y, own), (y["x"][0], own["time"])

        _, (found, times) = jax.jit(lambda state: jax.lax.scan(step, state, None, 20000))((y, own))
    x = 2 * curvature * np.asarray(times)
    np.testing.assert_allclose(found, (1 + x) * np.exp(-x), atol=2e-3)
    assert (np.asarray(found) > -1e-4).all()


def circuit_of(uploads, seed=0):
    clients = jax.tree.leaves(uploads)[0].shape[0]
    rng = np.random.default_rng(seed)
    return {"time": jnp.float32(rng.uniform(0.5, 2, clients)), "curvature": jnp.float32(rng.uniform(0, 2, clients))}


def test_laws():
    weights = np.array([1.0, 2.0, 0.5, 1.5, 3.0])
    adapter, uploads = map(as_dtype, uploads_of(lead=(2,)))
    extra, shares = circuit_of(uploads), jnp.float32([0.1, 0.2, 0.3, 0.1, 0.3])
    run = jax.jit(lambda *args: next_adapter(fedecado_rule(shares), *args))
    expected, memory = run(adapter, uploads, weights, extra)
    assert_close(next_adapter(fedecado_rule(shares), adapter, uploads, weights, extra), (expected, memory), 1e-4)
    order = np.array([3, 0, 4, 1, 2])
    turned = jax.tree.map(lambda x: x[order], (uploads, weights, extra))
    assert_close(run(adapter, *turned)[0], expected, 1e-4)
    assert_close(run(adapter, uploads, 7 * weights, extra)[0], expected)

    absent = jnp.asarray(np.where(np.arange(5) == 2, 0, weights))
    poisoned = jax.tree.map(lambda x: x.at[2].set(jnp.nan), (uploads, extra))
    there = np.array([0, 1, 3, 4])
    without = jax.tree.map(lambda x: x[there], (uploads, weights, extra))
    alone = jax.jit(lambda *args: next_adapter(fedecado_rule(shares[there]), *args))(adapter, *without)[0]
    found, memory = run(adapter, poisoned[0], absent, poisoned[1])
    assert_close(found, alone, 1e-4)
    assert_close(jax.tree.map(lambda x: x[2], memory["clients"]), adapter, 1e-6)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(memory))
    nobody, kept = run(adapter, poisoned[0], jnp.zeros(5), poisoned[1])
    assert_close(nobody, adapter, 0)
    assert_close(kept["current"], jax.tree.map(jnp.zeros_like, uploads), 0)


def test_what_the_clients_must_send_is_named():
    adapter, uploads = map(as_dtype, uploads_of())
    with pytest.raises(ValueError, match="time and curvature expected"):
        next_adapter(fedecado_rule(jnp.ones(5)), adapter, uploads)
    assert (
        fedecado_rule(jnp.ones(5)).sends(fedecado_rule(jnp.ones(5)).init(adapter), 5)["share"].tolist() == [np.float32(0.2)] * 5
    )


def test_gradients_go_through_the_window():
    with jax.enable_x64(True):
        adapter, uploads = (as_dtype(tree, jnp.float64) for tree in uploads_of())
        extra = jax.tree.map(lambda x: x.astype(jnp.float64), circuit_of(uploads))
        value = jax.jit(
            lambda inductance: next_adapter(fedecado_rule(jnp.ones(5), 1e9, inductance), adapter, uploads, None, extra)[0][
                "layers"
            ]["q_proj"]["a"].sum()
        )
        numeric = (value(0.5 + 1e-6) - value(0.5 - 1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(value)(0.5), numeric, rtol=1e-5)
