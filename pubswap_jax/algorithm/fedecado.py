"""FedECADO, experimental: training as an electrical circuit, reconstructed from public descriptions (arXiv 2510.04203).

The centre x_c is a capacitor. An inductor with current Iᵢ joins it to the node xᵢ of client i, of share pᵢ = |Dᵢ|/|D|:

    dx_c/dt = −Σ Iᵢ        L dIᵢ/dt = x_c − xᵢ        dxᵢ/dt = Iᵢ − pᵢ∇fᵢ(xᵢ)

At rest xᵢ = x_c and Σ pᵢ∇fᵢ(x_c) = 0. Reading: the signs. With dxᵢ/dt = −Iᵢ − pᵢ∇fᵢ, as one description has it, energy is not
conserved without gradients, and already one quadratic client oscillates with growing size.

A client integrates its node by forward Euler while its current is fixed (`fedecado`), over a time Tᵢ of its own. The server
then solves the whole circuit over [t, t + max Tᵢ] by backward Euler (`fedecado_rule`). It sends each client its node and its
current. Neither half is FedECADO alone. Use a plain optimizer at the clients (optax.identity()): Adam's steps are not times of
this circuit. One knob γ bounds the local truncation error relative to the adapter's norm, at the clients and at the server.
"""

import jax
import jax.numpy as jnp

from pubswap_jax.algorithm.aggregation import broadcast, per_client, weights_of
from pubswap_jax.algorithm.losses import safe_sqrt
from pubswap_jax.types import Aggregator, Array, Correction, PyTree

FASTEST = 4.0  # a client's step stays within this factor of the configured learning rate


def fedecado(gamma: float | Array = 1e-2, momentum: bool = True) -> Correction:
    """FedECADO at a client: the gradient becomes pᵢ g − Iᵢ, in steps that γ chooses, with critically damped momentum.

    The truncation error of a step dt is (dt/2)‖F_k − F_{k−1}‖; dt doubles at most, or shrinks by γ‖x‖/error, and starts at
    hparams.lr. A step is never taken back: its error is known only at the next gradient.
    Reading of the damping: ẋ = v + I and m v̇ + v = −F, for F = pᵢg. Of the curvature h = ‖F_k − F_{k−1}‖/‖x_k − x_{k−1}‖ a
    node returns fastest without an overshoot with m = 1/(4h). The current must not pass the momentum, too: a node
    m ẍ + ẋ = I − F is not passive, and two quadratic clients then diverge. Without `momentum` m = 0.
    """

    def init(adapter):
        zeros, scalar = jax.tree.map(jnp.zeros_like, adapter), jnp.zeros(())
        trees = dict.fromkeys(("current", "force", "velocity"), zeros)
        return trees | {"at": adapter, "share": scalar, "time": scalar, "pace": scalar, "curvature": scalar, "step": scalar}

    def receive(memory, sent):
        return memory | {"current": sent["current"], "share": sent["share"], "time": jnp.zeros_like(memory["time"])}

    def observe(gradient, adapter, received, memory, hparams):
        force = jax.tree.map(lambda g: memory["share"] * g, gradient)
        started = memory["pace"] > 0
        difference = _norm(jax.tree.map(jnp.subtract, force, memory["force"]))
        distance = _norm(jax.tree.map(jnp.subtract, adapter, memory["at"]))
        known = started & (distance > 0) & (difference > 0)
        curvature = jnp.where(known, difference / jnp.where(distance > 0, distance, 1.0), memory["curvature"])
        growth = 2 * gamma * _norm(adapter) / jnp.where(known, memory["step"] * difference, 1.0)
        pace = jnp.where(known, memory["pace"] * jnp.minimum(growth, 2.0), jnp.maximum(memory["pace"], 1.0))
        pace = jnp.clip(pace, 1 / FASTEST, FASTEST)
        step = pace * hparams.lr
        mass = jnp.where(curvature > 0, 0.25 / jnp.where(curvature > 0, curvature, 1.0), 0.0) if momentum else 0.0
        inertia = mass / jnp.where(mass + step > 0, mass + step, 1.0)
        velocity = jax.tree.map(lambda v, f: inertia * v - (1 - inertia) * f, memory["velocity"], force)
        trees = {"current": memory["current"], "force": force, "velocity": velocity, "at": adapter}
        scalars = {"share": memory["share"], "time": memory["time"] + step, "pace": pace, "curvature": curvature, "step": step}
        return trees | scalars

    def gradient(gradient, adapter, received, memory, hparams):
        return jax.tree.map(lambda v, i: -memory["pace"] * (v + i), memory["velocity"], memory["current"])

    def finish(adapter, received, memory, steps):
        return memory, {"time": memory["time"], "curvature": memory["curvature"]}

    return Correction(init, gradient, finish, observe, receive)


def fedecado_rule(
    shares: Array, gamma: float | Array = 1e-2, inductance: float | Array = 1.0, substeps: int = 16
) -> Aggregator:
    """FedECADO at the server: solves the circuit by backward Euler with client sensitivities. `shares` f32[C], of all clients.

    A client's node follows its simulated path, straight from where it started to what it uploads and beyond, plus an offset d:
    dd/dt = Iᵢ − Iᵢ(start) − hᵢd, so that its sensitivity is 1/(1/dt + hᵢ) with hᵢ the curvature in `extra`. `substeps` bounds
    the attempts that γ asks for, and one more step takes what is left of the window. Weights only say who is present. An
    absent client's node stays, and its current flows on as it was.
    """
    shares = jnp.asarray(shares)

    def init(adapter):
        clients = broadcast(adapter, shares.shape[0])
        return {"current": jax.tree.map(jnp.zeros_like, clients), "clients": clients, "share": shares / shares.sum()}

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        if not extra or not {"time", "curvature"} <= set(extra):
            raise ValueError("fedecado_rule: the clients' time and curvature expected in `extra`; see fedecado.fedecado")
        present = weights_of(uploads, weights) > 0
        time, curvature = (jnp.where(present, extra[name], 0.0) for name in ("time", "curvature"))
        window = time.max()
        uploads = jax.tree.map(lambda y, x: jnp.where(per_client(present, y), y, x), uploads, memory["clients"])
        slope = lambda y, x: (y - x) / per_client(jnp.where(time > 0, time, 1.0), y)  # noqa: E731
        path = (memory["clients"], jax.tree.map(slope, uploads, memory["clients"]))
        circuit = (path, memory["current"], present, curvature, inductance)

        def attempt(_, state):
            nodes, tau, dt = state
            dt = jnp.minimum(dt, window - tau)
            new = _backward_euler(circuit, nodes, tau, dt)
            error = 0.5 * dt * _norm(jax.tree.map(lambda i, j: jnp.sum(i - j, axis=0), new[1], nodes[1]))
            bound = gamma * _norm(nodes[0])
            fits = error <= bound
            nodes = jax.tree.map(lambda x, y: jnp.where(fits, x, y), new, nodes)
            factor = jnp.clip(bound / jnp.where(error > 0, error, 1.0), 0.25, 2.0)
            return nodes, jnp.where(fits, tau + dt, tau), dt * jnp.where(error > 0, factor, 2.0)

        offset = jax.tree.map(jnp.zeros_like, memory["current"])
        state = ((adapter, memory["current"], offset), jnp.zeros_like(window), window)
        nodes, tau, _ = jax.lax.fori_loop(0, substeps, attempt, state)
        centre, current, offset = _backward_euler(circuit, nodes, tau, window - tau)
        ends = jax.tree.map(lambda x, v, d: x + window * v + d, *path, offset)
        return centre, memory | {"current": current, "clients": ends}

    def sends(memory, num_clients):
        return {"current": memory["current"], "share": memory["share"]}

    return Aggregator(init, apply, sends=sends, starts=lambda memory: memory["clients"])


def of_equal_clients(num_clients: int, gamma: float = 1e-2) -> Aggregator:
    """FedECADO's server rule, `fedecado_rule`, for clients of equal shares 1/C, as a config builds it."""
    return fedecado_rule(jnp.ones(num_clients), gamma)


def _backward_euler(circuit, nodes, tau: Array, dt: Array):
    """One implicit step from tau to tau + dt: returns the centre, the currents and the offsets.

    Every entry of the adapter is a circuit of its own, solved in closed form.
    """
    (starts, slopes), first, present, curvature, inductance = circuit
    stiff = 1 + dt * curvature
    share = jnp.where(present, dt / (inductance + dt**2 / stiff), 0.0)  # of x_c in each current

    def of_leaf(x, current, offset, start, slope, first):
        column = lambda values: per_client(values, current)  # noqa: E731
        node = start + (tau + dt) * slope + (offset - dt * first) / column(stiff)  # if the new current were 0
        alone = (inductance * current - dt * node) / column(inductance + dt**2 / stiff)
        alone = jnp.where(column(present), alone, current)  # the current if the centre were 0
        centre = (x - dt * alone.sum(0)) / (1 + dt * share.sum())
        new = alone + column(share) * centre[None]
        return centre, new, (offset + dt * (new - first)) / column(stiff)

    centre, current, offset = nodes
    solved = jax.tree.map(of_leaf, centre, current, offset, starts, slopes, first)
    return jax.tree.transpose(jax.tree.structure(centre), jax.tree.structure((0, 0, 0)), solved)


def _norm(tree: PyTree) -> Array:
    return safe_sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))
