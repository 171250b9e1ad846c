"""A decoder-only transformer (Llama, Qwen2, Qwen3) with adapters, and the log-probs of responses under it.

Parameters have Hugging Face's names; kernels are [in, out]. Four collections have different lifetimes. `params` (weights)
and `basis` (frozen arrays of an adapter family) together are the base, which never changes. There is one `adapter` per client
(without it the model is the base) and one `cache` per sequence. Attention is a function passed in, see `attention.py`. All
other operations here work token by token.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from pubswap_jax.policy import attention
from pubswap_jax.policy.adapter import check_layer
from pubswap_jax.policy.adapter import init_adapter as init_adapter
from pubswap_jax.policy.logps import response_logps as response_logps
from pubswap_jax.policy.matmul import JOINED, few_rows, matmul, prefers_transposed, products
from pubswap_jax.types import Array, ModelConfig, at_least_f32

_init = nn.initializers.normal(0.02)


def rope_angles(config: ModelConfig, positions: Array) -> Array:
    """Rotary angles position · θ^(−2i/d), [..., 1, head_dim / 2]; Llama 3's scaling stretches long ones (Su et al. 2021)."""
    exponents = jnp.arange(0, config.head_dim, 2, dtype=float) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is not None:
        rope = config.rope_scaling
        turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
        keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = jnp.clip(keep, 0.0, 1.0)
        frequencies = keep * frequencies + (1 - keep) * frequencies / rope.factor
    return positions[..., None, None] * frequencies.reshape((1,) * (positions.ndim + 1) + (-1,))


def rotate(x: Array, angles: Array) -> Array:
    """Applies rotary position embedding: rotates each pair (xᵢ, xᵢ₊d/₂) by its angle."""
    first, second = jnp.split(at_least_f32(x), 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class RMSNorm(nn.Module):
    """Normalises by the root mean square: x / rms(x) · scale over the last axis (Zhang & Sennrich 2019)."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        wide = at_least_f32(x)
        # No keepdims in the mean: XLA would place that axis differently in a plain and in a differentiated forward pass. It
        # would then not recognise the forward pass of the old log-probs and that of the loss as the same computation.
        inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1) + self.eps)
        normed = wide * inverse[..., None]
        return normed.astype(x.dtype) * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Dense(nn.Module):
    """A linear layer, x W + bias, plus what the adapter family adds if this layer has an adapter."""

    config: ModelConfig
    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, product: Array | None = None) -> Array:
        """The layer's output for x. `product` is x W if the caller has already computed it, see `products`."""
        kernel = self.param("kernel", _init, (x.shape[-1], self.features))
        turned = self.get_variable("transposed", "kernel")
        y = product if product is not None else matmul(x, kernel) if turned is None else few_rows(x, turned)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        if trained := self.variables.get("adapter"):
            frozen, family = self.variables.get("basis", {}), self.config.adapter
            check_layer(self.name, family, x.shape[-1], self.features, frozen, trained)
            frozen, trained = jax.tree.map(lambda array: array.astype(x.dtype), (dict(frozen), dict(trained)))
            y = y + family.apply(x, frozen, trained)
        return y


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; Qwen3 normalises queries and keys."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array, angles: Array, attend: attention.Attend) -> Array:
        c = self.config
        sizes = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim)
        q, k, v = (
            Dense(c, size, c.qkv_bias, name=name)(x, product).reshape(*x.shape[:-1], -1, c.head_dim)
            for name, size, product in zip(JOINED["self_attn"], sizes, products(self, x, sizes), strict=True)
        )
        if c.qk_norm:
            q = RMSNorm(c.rms_norm_eps, name="q_norm")(q)
            k = RMSNorm(c.rms_norm_eps, name="k_norm")(k)
        cache = self.get_variable("cache", "kv")
        out, cache = attend(rotate(q, angles), rotate(k, angles), v, cache)
        if cache is not None:
            self.put_variable("cache", "kv", cache)
        return Dense(c, c.hidden_size, name="o_proj")(out.reshape(*x.shape[:-1], -1))


class MLP(nn.Module):
    """The feed-forward part of a layer, SwiGLU: (silu(x W_gate) ⊙ x W_up) W_down (Shazeer 2020)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        sizes = (c.intermediate_size, c.intermediate_size)
        gate, up = (
            Dense(c, size, name=name)(x, product)
            for name, size, product in zip(JOINED["mlp"], sizes, products(self, x, sizes), strict=True)
        )
        return Dense(c, c.hidden_size, name="down_proj")(nn.silu(gate) * up)


class Block(nn.Module):
    """One transformer layer: attention and MLP, each with a norm before it and a residual around it.

    Returns (x, None), the pair that `nn.scan` requires.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array, angles: Array, attend: attention.Attend) -> tuple[Array, None]:
        c = self.config
        normed = RMSNorm(c.rms_norm_eps, name="input_layernorm")(x)
        x = x + Attention(c, name="self_attn")(normed, angles, attend)
        normed = RMSNorm(c.rms_norm_eps, name="post_attention_layernorm")(x)
        return x + MLP(c, name="mlp")(normed), None


class Kernel(nn.Module):
    """Parameters of a linear layer: its matrix, and the stored transpose (None if there is none). The caller multiplies."""

    shape: tuple[int, int]

    @nn.compact
    def __call__(self) -> tuple[Array, Array | None]:
        return self.param("kernel", _init, self.shape), self.get_variable("transposed", "kernel")


class Transformer(nn.Module):
    """A decoder-only language model: tokens [B, T] -> logits [B, T, V]."""

    config: ModelConfig

    def setup(self):
        c = self.config
        if c.remat not in ("none", "block"):
            raise ValueError(f"config.remat is {c.remat!r}; it must be 'none' or 'block'")
        block = nn.remat(Block, prevent_cse=not c.scan_layers) if c.remat == "block" else Block
        if c.scan_layers:
            axes = dict.fromkeys(("params", "basis", "adapter", "cache", "transposed", "joined"), 0)
            stack = nn.scan(block, axes, split_rngs={"params": True}, in_axes=nn.broadcast, length=c.num_layers)
            self.layers = stack(c)
        else:
            self.layers = [block(c) for _ in range(c.num_layers)]
        self.embed_tokens = nn.Embed(c.vocab_size, c.hidden_size, embedding_init=_init, param_dtype=float)
        self.norm = RMSNorm(c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = Kernel((c.hidden_size, c.vocab_size))

    def __call__(self, tokens: Array, mask: Array | None = None) -> Array:
        """Logits of plain causal attention, f32[B, T, V]; `mask` bool[B, T] is False on padding, left or right."""
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        return self.unembed(self.hidden(tokens, attention.positions(mask), attention.causal(mask)))

    def hidden(self, tokens: Array, positions: Array, attend: attention.Attend) -> Array:
        """Runs all layers, without the logits: the normed states of the last layer, [B, T, D]."""
        x = jnp.take(self.embed_tokens.embedding, tokens, axis=0)
        x = x.astype(self.config.dtype or x.dtype)
        angles = rope_angles(self.config, positions)
        if self.config.scan_layers:
            x, _ = self.layers(x, angles, attend)
        else:
            for layer in self.layers:
                x, _ = layer(x, angles, attend)
        return self.norm(x)

    def unembed(self, x: Array) -> Array:
        """The logits of hidden states: [..., D] -> [..., V], at least f32."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        rows = x.size // x.shape[-1]
        if self.config.tie_embeddings:
            embedding = self.embed_tokens.embedding
            return few_rows(x, embedding, wide) if prefers_transposed(rows) else matmul(x, embedding.T, wide)
        kernel, turned = self.lm_head()
        return matmul(x, kernel, wide) if turned is None else few_rows(x, turned, wide)
