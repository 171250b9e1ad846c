"""An adapter's arrays under PEFT's tensor names. PEFT stores A as [r, in] and B as [out, r]."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from pubswap_jax.policy.adapter import described, shapes
from pubswap_jax.types import LINEAR_LAYERS, ModelConfig, PyTree
from pubswap_jax.weights import hf_folder


class Layer(NamedTuple):
    """A linear layer that has an adapter: where it stands in the model, and its sizes."""

    path: tuple[str, ...]  # of its arrays in the adapter
    number: int  # of its block
    wide: int  # input size
    out: int  # output size


def adapted_layers(config: ModelConfig) -> dict[str, Layer]:
    """Hugging Face's module name -> layer, for every layer that has an adapter."""
    if set(config.lora_targets) - set(LINEAR_LAYERS) or not config.lora_targets:
        raise ValueError(f"config.lora_targets {config.lora_targets}: some of {', '.join(LINEAR_LAYERS)} expected")
    found = {}
    for name, slot in hf_folder.tensor_slots(config).items():
        if slot.transpose and slot.layer is not None and slot.path[1] in config.lora_targets:
            out, wide = slot.shape
            found[name.removesuffix(".weight")] = Layer(hf_folder.leaf_path(config, slot)[:-1], slot.layer, wide, out)
    return found


def peft_name(module: str, half: str) -> str:
    """The name that PEFT gives to the tensor A or B (`half`) of a module."""
    return f"base_model.model.{module}.lora_{half}.weight"


def lora_shapes(config: ModelConfig, rank: int) -> dict[str, tuple[int, int]]:
    """The tensors that PEFT expects of a LoRA adapter of this rank: name -> shape."""
    found = {}
    for module, layer in adapted_layers(config).items():
        found |= {peft_name(module, "A"): (rank, layer.wide), peft_name(module, "B"): (layer.out, rank)}
    return found


def layer_arrays(config: ModelConfig, adapter: PyTree, basis: PyTree) -> dict[str, tuple[dict, dict]]:
    """An adapter's arrays by layer: module name -> (frozen, trained) in f32.

    Raises unless the trees are those that the config describes.
    """
    layers = adapted_layers(config)
    expected: list[dict] = [{}, {}]
    for layer in layers.values():
        stack = (config.num_layers,) if config.scan_layers else ()
        for leaves, part in zip(expected, shapes(config.adapter, layer.wide, layer.out), strict=True):
            leaves |= {(*layer.path, name): (*stack, *shape) for name, shape in part.items()}
    given = _checked("basis", basis, expected[0], config), _checked("adapter", adapter, expected[1], config)
    return {module: tuple(_of_layer(leaves, layer, config) for leaves in given) for module, layer in layers.items()}


def peft_matrices(config: ModelConfig, adapter: PyTree, basis: PyTree) -> tuple[dict[str, np.ndarray], int, float]:
    """Converts an adapter to PEFT's tensors: (tensors by name, the rank r, alpha), with ΔW = alpha / r · (B A)ᵀ."""
    family, matrices, scales = config.adapter, {}, set()
    for module, arrays in layer_arrays(config, adapter, basis).items():
        if family.peft:
            a, b, alpha = family.peft(*arrays)
        else:
            a, b = family.factors(*arrays)
            alpha = a.shape[-1]
        scales.add((a.shape[-1], float(alpha)))
        for half, matrix in (("A", a), ("B", b)):
            matrices[peft_name(module, half)] = np.ascontiguousarray(np.asarray(matrix, np.float32).T)
    if len(scales) > 1:
        raise ValueError(f"adapter: its layers have different (rank, alpha): {sorted(scales)}; PEFT's files hold one pair")
    ((rank, alpha),) = scales
    return matrices, rank, alpha


def _checked(what: str, tree: PyTree, expected: dict[tuple, tuple], config: ModelConfig) -> dict[tuple, np.ndarray]:
    """The leaves of a tree by path, in f32. Raises if a path or a shape is not the expected one."""
    given = flatten_dict(tree)
    odd = sorted(set(given) ^ set(expected))
    if odd:
        raise ValueError(
            f"{what}: leaf {'/'.join(odd[0])} and config.lora_targets {config.lora_targets} disagree; replace the config's"
        )
    for leaf, shape in expected.items():
        if jnp.shape(given[leaf]) != shape:
            raise ValueError(
                f"{what}: leaf {'/'.join(leaf)} has shape {jnp.shape(given[leaf])}, the base and the family "
                f"{described(config.adapter)} ask for {shape}; give one client's adapter"
            )
    leaves = {leaf: np.asarray(jax.device_get(value), np.float32) for leaf, value in given.items()}
    for leaf, value in leaves.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{what}: leaf {'/'.join(leaf)} is not finite; export an earlier round's adapter")
    return leaves


def _of_layer(leaves: dict[tuple, np.ndarray], layer: Layer, config: ModelConfig) -> dict[str, np.ndarray]:
    own = {path[-1]: value for path, value in leaves.items() if path[:-1] == layer.path}
    return {name: value[layer.number] if config.scan_layers else value for name, value in own.items()}
