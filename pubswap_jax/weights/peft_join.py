"""Adds an adapter to a base's parameters, or joins it with another adapter by their ranks."""

import functools
import hashlib
import pathlib

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.policy.adapter import lora
from pubswap_jax.types import Array, ModelConfig, PyTree
from pubswap_jax.weights.peft_checks import CONFIG, WEIGHTS

Layers = dict[tuple[str, ...], tuple[Array, Array]]


def adapter_digest(folder: str | pathlib.Path) -> str:
    """SHA-256 of a PEFT folder's config and weights."""
    total = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        total.update((pathlib.Path(folder) / name).read_bytes())
    return total.hexdigest()


def with_adapter(params: PyTree, config: ModelConfig, adapter: PyTree) -> PyTree:
    """The parameters W + P Q of the adapted layers, computed in f32; other leaves are unchanged. Consumes `params`."""
    leaves = flatten_dict(params)
    for path, (p, q) in _factors(config, adapter, {}).items():
        kernel = leaves[(*path, "kernel")]
        leaves[(*path, "kernel")] = _adder(kernel.sharding)(kernel, p, q)
    return unflatten_dict(leaves)


@functools.cache
def _adder(sharding):
    def add(kernel, p, q):
        return (kernel.astype(jnp.float32) + p @ q).astype(kernel.dtype)

    return jax.jit(add, donate_argnums=0, out_shardings=sharding)


def joined(one: tuple[ModelConfig, PyTree], other: tuple[ModelConfig, PyTree], basis: PyTree) -> tuple[ModelConfig, PyTree]:
    """One LoRA adapter with the sum of two adapters' ranks: its ΔW is the sum of theirs, exactly.

    `basis` belongs to `other`. A layer that one of the two does not adapt gets zeros in that place.
    """
    factors = [_factors(*one, {}), _factors(*other, basis)]
    widths = [next(iter(layers.values()))[0].shape[-1] for layers in factors]
    leaves = {}
    for path in sorted(set(factors[0]) | set(factors[1])):
        known = next(layers[path] for layers in factors if path in layers)
        parts = [layers.get(path, _zeros(*known, width)) for layers, width in zip(factors, widths, strict=True)]
        leaves[(*path, "a")] = jnp.concatenate([p for p, _ in parts], axis=-1)
        leaves[(*path, "b")] = jnp.concatenate([q for _, q in parts], axis=-2)
    targets = tuple(dict.fromkeys((*one[0].lora_targets, *other[0].lora_targets)))
    rank = sum(widths)
    return other[0].replace(adapter=lora(rank, float(rank)), lora_targets=targets), unflatten_dict(leaves)


def _zeros(p: Array, q: Array, rank: int) -> tuple[Array, Array]:
    return jnp.zeros((*p.shape[:-1], rank), p.dtype), jnp.zeros((*q.shape[:-2], rank, q.shape[-1]), q.dtype)


def _factors(config: ModelConfig, adapter: PyTree, basis: PyTree) -> Layers:
    """The low-rank factors P and Q (ΔW = P Q) of every adapted layer, by the layer's path, in f32."""
    layers: dict[tuple[str, ...], tuple[dict, dict]] = {}
    for place, tree in enumerate((basis, adapter)):
        for path, value in flatten_dict(tree).items():
            layers.setdefault(path[:-1], ({}, {}))[place][path[-1]] = jnp.asarray(value, jnp.float32)
    return {path: config.adapter.factors(*arrays) for path, arrays in layers.items()}
