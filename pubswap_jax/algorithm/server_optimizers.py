"""Aggregation rules with a state at the server: server optimizers, SCAFFOLD, a buffer of uploads. Also FedExP, without one."""

import functools

import jax
import jax.numpy as jnp
import optax

from pubswap_jax.algorithm.aggregation import (
    broadcast,
    changes,
    fedavg,
    mean,
    moved,
    per_client,
    shares_of,
    squared_norms,
    weights_of,
)
from pubswap_jax.types import Aggregator, Array


def fedopt(tx: optax.GradientTransformation, of: Aggregator = mean()) -> Aggregator:
    """The rule that gives the pseudo-gradient adapter − of(uploads) to a server optimizer (Reddi et al., arXiv 2003.00295).

    `tx` contains its learning rate: `fedopt(optax.sgd(1.0))` is `of`. FedAdam is `optax.adam(lr, 0.9, 0.99, eps=1e-3)`, FedAvgM
    `optax.sgd(lr, momentum=0.9)`, FedYogi `optax.yogi(lr, 0.9, 0.99, eps=1e-3)`.
    """

    def init(adapter):
        return {"of": of.init(adapter), "optimizer": tx.init(adapter)}

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        target, inner = of.apply(memory["of"], adapter, uploads, weights, staleness, extra)
        gradient = jax.tree.map(jnp.subtract, adapter, target)
        step, optimizer = tx.update(gradient, memory["optimizer"], adapter)
        return optax.apply_updates(adapter, step), {"of": inner, "optimizer": optimizer}

    return _around(of, init, apply)


@functools.cache
def fedavgm(lr: float, momentum: float) -> Aggregator:
    """The rule FedAvgM: FedAvg with server momentum (Hsu et al., arXiv 1909.06335). lr 1 and momentum 0 is the mean."""
    return fedopt(optax.sgd(lr, momentum or None))


@functools.cache
def fedadam(lr: float) -> Aggregator:
    """The rule FedAdam: Adam at the server on the mean change, with the constants of arXiv 2003.00295."""
    return fedopt(optax.adam(lr, 0.9, 0.99, eps=1e-3))


@functools.cache
def fedyogi(lr: float) -> Aggregator:
    """The rule FedYogi: Yogi at the server on the mean change, with the constants of arXiv 2003.00295."""
    return fedopt(optax.yogi(lr, 0.9, 0.99, eps=1e-3))


def fedexp(eps: float | Array = 1e-3) -> Aggregator:
    """The rule FedExP (arXiv 2301.09604): x + η Δ̄, a mean change with a longer step.

    η = max(1, Σ wᵢ‖Δᵢ‖² / (2(‖Δ̄‖² + ε))), with norms over the whole adapter.

    Clients that disagree get a longer step. ε must be small beside ‖Δ̄‖², or η is 1.
    """

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        weights = weights_of(uploads, weights)
        change, share = changes(adapter, uploads, weights), shares_of(weights, weights.shape[0])
        average = fedavg(change, weights)
        spread = jnp.sum(share * squared_norms(change))
        (length,) = squared_norms(jax.tree.map(lambda d: d[None], average))
        eta = jnp.maximum(1.0, spread / (2 * (length + eps)))
        return moved(adapter, jax.tree.map(lambda d: eta * d, average)), memory

    return Aggregator(lambda adapter: (), apply)


def buffered(size: int, decay: float | Array = 0.5, of: Aggregator = mean()) -> Aggregator:
    """The rule that collects `size` uploads, then applies the rule `of` to all of them at once (FedBuff, arXiv 2106.06639).

    An upload that is s versions old has its change multiplied by (1 + s)^−decay, as in FedBuff: the change and not the weight,
    so that a buffer of stale uploads only makes a shorter step. Until the buffer is full the adapter stays. Uploads beyond
    `size` that arrive in the call that fills the buffer are used, too. The memory holds `size` changes of the adapter.
    """
    if size < 1:
        raise ValueError(f"buffered: size of 1 or more expected, got {size}")
    if size < of.needs:
        raise ValueError(f"buffered: size of {of.needs} or more expected, since its rule needs as many clients; got {size}")

    def init(adapter):
        empty = jax.tree.map(jnp.zeros_like, broadcast(adapter, size))
        return {"of": of.init(adapter), "changes": empty, "weights": jnp.zeros(size), "staleness": jnp.zeros(size, jnp.int32)}

    def due(memory, weights):
        return jnp.sum(memory["weights"] > 0) + jnp.sum(jnp.asarray(weights) > 0) >= size

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        weights = weights_of(uploads, weights)
        factor = (1.0 + staleness) ** -decay
        change = jax.tree.map(lambda d: per_client(factor, d) * d, changes(adapter, uploads, weights))
        arrived, fresh = (change, weights, staleness), (weights > 0) & (staleness == 0)
        buffer = (memory["changes"], memory["weights"], memory["staleness"])

        def flush(buffer, arrived):
            _, weights, staleness = jax.tree.map(lambda x, y: jnp.concatenate([x, y.astype(x.dtype)]), buffer, arrived)
            held, came = (jax.tree.map(lambda x, d: (x[None] + d).astype(x.dtype), adapter, d) for d in (buffer[0], arrived[0]))
            # x + (y - x) is not y to the bit, so the rule gets a fresh upload itself.
            came = jax.tree.map(lambda y, x: jnp.where(per_client(fresh, x), y.astype(x.dtype), x), uploads, came)
            of_all = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), held, came)
            new, inner = of.apply(memory["of"], adapter, of_all, weights, staleness)
            return new, inner, jax.tree.map(jnp.zeros_like, buffer)

        def keep(buffer, arrived):
            present = arrived[1] > 0
            free = jnp.sum(buffer[1] > 0) + jnp.cumsum(present) - 1
            free = jnp.where(present, free, size)  # out of bounds: dropped
            put = lambda x, y: x.at[free].set(y.astype(x.dtype), mode="drop")  # noqa: E731
            return adapter, memory["of"], jax.tree.map(put, buffer, arrived)

        new, inner, buffer = jax.lax.cond(due(memory, weights), flush, keep, buffer, arrived)
        return new, {"of": inner, "changes": buffer[0], "weights": buffer[1], "staleness": buffer[2]}

    return _around(of, init, apply)._replace(due=due, needs=1, gathers=True)


def scaffold_rule(of: Aggregator = mean()) -> Aggregator:
    """SCAFFOLD's server (Karimireddy et al., arXiv 1910.06378); its clients run `corrections.scaffold`.

    The adapter follows `of`. The control c, an estimate of the mean gradient over all C clients, is sent to every client and
    grows by |S|/C times the mean change of the controls of the clients S that are present (extra["control"]).
    """

    def init(adapter):
        return {"of": of.init(adapter), "control": jax.tree.map(jnp.zeros_like, adapter)}

    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        if not extra or "control" not in extra:
            raise ValueError("scaffold_rule: control changes expected in extra['control']; see corrections.scaffold")
        new, inner = of.apply(memory["of"], adapter, uploads, weights, staleness, extra)
        present = jnp.mean(weights_of(uploads, weights) > 0)
        step = jax.tree.map(lambda d: present * d, fedavg(extra["control"], weights))
        return new, {"of": inner, "control": moved(memory["control"], step)}

    def sends(memory, num_clients):
        return {"control": broadcast(memory["control"], num_clients)}

    return _around(of, init, apply)._replace(sends=sends)


def _around(of: Aggregator, init, apply) -> Aggregator:
    """A rule with state around another rule `of`, which gets the uploads. `of` may neither buffer nor send to clients."""
    usual = Aggregator._field_defaults
    if (of.due, of.sends, of.starts, of.shares) != tuple(usual[name] for name in ("due", "sends", "starts", "shares")):
        raise ValueError(
            "of: a rule that only turns uploads into an adapter expected; this one buffers, sends or shares nothing"
        )
    return Aggregator(init, apply, needs=of.needs, gathers=of.gathers)
