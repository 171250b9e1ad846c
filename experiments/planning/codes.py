"""A VQ-VAE over blocks of hidden states, as in arXiv 2509.25260: every block becomes one of K codes.

`Reading:` the weights of the four terms and the networks are ours.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax.types import Array, PyTree


class Weights(NamedTuple):
    """Weights of the terms beside the reconstruction: quantisation, cosines between codes, and entropy of their use."""

    quantise: float = 1.0
    cosine: float = 0.1
    entropy: float = 0.1


class VQVAE(nn.Module):
    """Blocks [B, F] -> (reconstruction [B, F], encoding [B, d], its code's vector [B, d], code int32[B], codes [K, d])."""

    features: int
    codes: int
    width: int = 128
    size: int = 16

    @nn.compact
    def __call__(self, blocks: Array):
        encoded = nn.Dense(self.size, name="encoded")(nn.gelu(nn.Dense(self.width, name="into")(blocks)))
        table = self.param("codes", nn.initializers.normal(1.0), (self.codes, self.size))
        code = jnp.argmin(squared_distances(encoded, table), axis=-1)
        nearest = table[code]
        through = encoded + jax.lax.stop_gradient(nearest - encoded)  # the decoder's gradient reaches the encoder
        decoded = nn.Dense(self.features, name="decoded")(nn.gelu(nn.Dense(self.width, name="out")(through)))
        return decoded, encoded, nearest, code, table


def squared_distances(points: Array, table: Array) -> Array:
    """[B, d], [K, d] -> [B, K]."""
    return jnp.square(points).sum(-1)[:, None] - 2 * points @ table.T + jnp.square(table).sum(-1)[None]


def loss(model: VQVAE, weights: Weights, params: PyTree, blocks: Array) -> tuple[Array, dict[str, Array]]:
    """L_rec + λ_q L_vq + λ_cos L_cos + λ_ent L_ent.

    L_vq pulls codes to encodings and, a quarter as much, encodings to codes. L_cos is the mean squared cosine of two codes.
    L_ent is log K minus the entropy of the batch's mean soft assignment: it is zero when all codes are used alike.
    """
    decoded, encoded, nearest, _, table = model.apply(params, blocks)
    terms = {"rec": jnp.mean(jnp.square(decoded - blocks))}
    codebook = jnp.mean(jnp.square(nearest - jax.lax.stop_gradient(encoded)))
    commitment = jnp.mean(jnp.square(encoded - jax.lax.stop_gradient(nearest)))
    terms["vq"] = codebook + 0.25 * commitment
    unit = table / (jnp.linalg.norm(table, axis=-1, keepdims=True) + 1e-6)
    cosines = unit @ unit.T
    terms["cos"] = (jnp.square(cosines).sum() - model.codes) / (model.codes * (model.codes - 1))
    usage = jax.nn.softmax(-squared_distances(encoded, table), axis=-1).mean(0)
    terms["ent"] = jnp.log(model.codes) + jnp.sum(usage * jnp.log(usage + 1e-9))
    total = terms["rec"] + weights.quantise * terms["vq"] + weights.cosine * terms["cos"] + weights.entropy * terms["ent"]
    return total, terms


def fit(blocks: np.ndarray, codes: int, seed: int, *, steps: int = 1500, batch: int = 512, weights: Weights = Weights()):  # noqa: B008
    """A trained (model, params) of blocks f32[N, F]. The codes start at encodings of random blocks, so that none is far off."""
    model, key = VQVAE(blocks.shape[-1], codes), jax.random.key(seed)
    data = jnp.asarray(blocks, jnp.float32)
    params = model.init(key, data[:2])
    first = jax.random.choice(jax.random.fold_in(key, 1), len(data), (codes,), replace=False)
    params["params"]["codes"] = model.apply(params, data[first])[1]
    params = _trained(model, weights, steps, batch, data, params, jax.random.fold_in(key, 2))
    return model, params


@partial(jax.jit, static_argnums=range(4))
def _trained(model: VQVAE, weights: Weights, steps: int, batch: int, data: Array, params: PyTree, key: Array) -> PyTree:
    tx = optax.adam(2e-3)

    def step(carry, key):
        params, state = carry
        rows = data[jax.random.randint(key, (batch,), 0, len(data))]
        gradient, _ = jax.grad(partial(loss, model, weights), has_aux=True)(params, rows)
        change, state = tx.update(gradient, state)
        return (optax.apply_updates(params, change), state), None

    return jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, steps))[0][0]


def codes_of(model: VQVAE, params: PyTree, sequences: np.ndarray) -> np.ndarray:
    """Blocks [N, L, F] -> codes int[N, L]."""
    N, L, F = sequences.shape
    return np.asarray(model.apply(params, jnp.asarray(sequences.reshape(N * L, F), jnp.float32))[3]).reshape(N, L)


def in_blocks(hidden: np.ndarray, width: int) -> np.ndarray:
    """Hidden states [N, T, D] -> blocks of `width` positions [N, T // width, width · D]; a shorter last block is left out."""
    N, T, D = hidden.shape
    return hidden[:, : T // width * width].reshape(N, T // width, width * D)
