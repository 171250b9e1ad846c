"""A small model of each family, with weights that all matter, and questions of different lengths for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax import Adapter, Prompts, Transformer, init_adapter, lora
from pubswap_jax.types import Llama3Rope, ModelConfig

TINY = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    adapter=lora(3, 64.0),
)
FAMILIES = {
    "qwen2": TINY.replace(qkv_bias=True),
    "qwen3": TINY.replace(qk_norm=True, rope_theta=1e6),
    "llama": TINY.replace(rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 16), tie_embeddings=False, rope_theta=5e5),
}
SHALLOW = FAMILIES["qwen2"].replace(num_layers=1)


@functools.cache
def world(config, dtype=float):
    """A model whose biases, norms and adapters all matter."""
    model = Transformer(config)
    base = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32)) | {"basis": {}}
    leaves, tree = jax.tree.flatten((base, init_adapter(jax.random.key(1), model, base)))
    noise = np.random.default_rng(0)
    leaves = [jnp.asarray(x + 0.2 * noise.standard_normal(x.shape), dtype) for x in leaves]
    return model, *jax.tree.unflatten(tree, leaves)


def batch(groups=4, length=7, vocab=40):
    """Three prompts of 6, 3 and 1 tokens, and responses to them."""
    rng = np.random.default_rng(1)
    mask = np.arange(6)[None] >= np.array([0, 3, 5])[:, None]
    tokens = jnp.asarray(rng.integers(0, vocab, (3, groups, length)))
    return Prompts(tokens=jnp.asarray(rng.integers(0, vocab, mask.shape)), mask=jnp.asarray(mask)), tokens


@functools.cache
def projected(rank):
    """An adapter family with a frozen array: x P Q, with orthonormal columns in P; Q is trained and starts at 0."""

    def init(key, wide, out, stack=()):
        p, upper = jnp.linalg.qr(jax.random.normal(key, (*stack, wide, rank)))
        sign = jnp.where(jnp.diagonal(upper, axis1=-2, axis2=-1) < 0, -1, 1)
        return {"p": p * sign[..., None, :]}, {"q": jnp.zeros((*stack, rank, out))}

    return Adapter(
        init,
        apply=lambda x, frozen, trained: x @ frozen["p"] @ trained["q"],
        factors=lambda frozen, trained: (frozen["p"], trained["q"]),
        name="projected",
        settings=(("rank", rank),),
    )
