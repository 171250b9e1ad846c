"""What federated methods change inside a client: terms that are added to a gradient before the optimizer."""

import functools

import jax
import jax.numpy as jnp

from pubswap_jax.types import Correction


@functools.cache
def proximal() -> Correction:
    """FedProx (arXiv 1812.06127): pulls a client to the adapter it received.

    Adds the gradient of hparams.prox_coef · ½‖adapter − received‖² to the client's gradient.
    """

    def gradient(gradient, adapter, received, memory, hparams):
        return jax.tree.map(lambda g, x, x0: g + hparams.prox_coef * (x - x0), gradient, adapter, received)

    return Correction(lambda adapter: (), gradient, lambda adapter, received, memory, steps: (memory, {}))


@functools.cache
def scaffold() -> Correction:
    """SCAFFOLD's client (arXiv 1910.06378): the gradient becomes g − cᵢ + c; the server runs `server_optimizers.scaffold_rule`.

    cᵢ is the mean of the uncorrected gradients of the client's last round. With plain gradient descent it equals the paper's
    second option, cᵢ − c + (x − yᵢ)/(K·lr). That formula would be wrong before Adam, whose steps have another unit than
    gradients. The memory holds cᵢ, the server's c and the sum of this round's gradients. The change of cᵢ goes up.
    """

    def init(adapter):
        zeros = jax.tree.map(jnp.zeros_like, adapter)
        return {"own": zeros, "control": zeros, "sum": zeros}

    def receive(memory, sent):
        return memory | {"control": sent["control"], "sum": jax.tree.map(jnp.zeros_like, memory["sum"])}

    def observe(gradient, adapter, received, memory, hparams):
        return memory | {"sum": jax.tree.map(jnp.add, memory["sum"], gradient)}

    def gradient(gradient, adapter, received, memory, hparams):
        return jax.tree.map(lambda g, own, c: g - own + c, gradient, memory["own"], memory["control"])

    def finish(adapter, received, memory, steps):
        own = jax.tree.map(lambda total: total / jnp.maximum(steps, 1), memory["sum"])
        return memory | {"own": own}, {"control": jax.tree.map(jnp.subtract, own, memory["own"])}

    return Correction(init, gradient, finish, observe, receive)
