"""Corrections: what a federated method adds to a client's gradient."""

import functools

import jax

from pubswap_jax.types import Correction


@functools.cache
def proximal() -> Correction:
    """FedProx (arXiv 1812.06127): the gradient of prox_coef · ½ ‖adapter − received‖². With prox_coef 0 it changes nothing."""
    return Correction(lambda adapter: (), _towards_received, lambda adapter, received, memory, steps: (memory, {}))


def _towards_received(gradient, adapter, received, memory, hparams):
    return jax.tree.map(lambda g, x, x0: g + hparams.prox_coef * (x - x0), gradient, adapter, received)
