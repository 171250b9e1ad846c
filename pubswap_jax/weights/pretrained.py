"""Loads Hugging Face models as ModelConfig and base, without torch and without a second copy of the weights."""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.devices.hosts import put
from pubswap_jax.types import ModelConfig, PyTree
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.hf_config import check_vocabulary as check_vocabulary
from pubswap_jax.weights.hf_config import largest_token_id, read_config
from pubswap_jax.weights.peft import export_adapter as export_adapter
from pubswap_jax.weights.peft import load_adapter as load_adapter
from pubswap_jax.weights.peft import merge_adapter as merge_adapter
from pubswap_jax.weights.tensorfile import read


def load_pretrained(
    path_or_name: str | pathlib.Path,
    *,
    dtype: str | None = None,
    shardings: PyTree | Callable[[PyTree], PyTree] | None = None,
    scan_layers: bool = False,
    revision: str | None = None,
) -> tuple[ModelConfig, PyTree]:
    """Loads a model's config and its base, {"params": ..., "basis": {}}. Only one tensor at a time is in host memory.

    Args:
      path_or_name: folder with config.json and safetensors files, or a name that is looked up in the Hugging Face cache and
        then on the hub.
      dtype: dtype of the parameters; None keeps each tensor's dtype.
      shardings: one sharding, a tree of shardings for the parameters, or a function from their shapes to either. None:
        default device.
      scan_layers: stack the leaves of all layers along a leading axis, under 'layers'.
      revision: revision of the model on the hub.
    """
    folder = hf_folder.find_folder(path_or_name, revision)
    config = read_config(folder).replace(scan_layers=scan_layers)
    check_vocabulary(config, largest_token_id(folder))
    tensors = hf_folder.find_tensors(folder)
    hf_folder.check_tensors(folder, tensors, config)
    stored = {name: jax.dtypes.canonicalize_dtype(dtype or entry.dtype) for name, entry in tensors.items()}
    shapes = _shapes(config, stored)
    shardings = shardings(shapes) if callable(shardings) else shardings
    wanted = flatten_dict(jax.tree.broadcast(shardings, shapes, is_leaf=lambda x: x is None))
    leaves, finished = {}, flatten_dict(shapes)
    for name, slot in hf_folder.tensor_slots(config).items():
        path = hf_folder.leaf_path(config, slot)
        if slot.layer is None or not config.scan_layers:
            leaf = put(read(tensors[name], finished[path].dtype, slot.transpose), wanted[path])
        else:
            stack = leaves.pop(path, None)
            leaf = _write_layer(stack, tensors[name], slot, finished[path], wanted[path])
        # Transfers are asynchronous and keep their source alive. Without this wait, several tensors would be in host memory.
        leaves[path] = jax.block_until_ready(leaf)
    return config, {"params": unflatten_dict(leaves), "basis": {}}


def param_shapes(config: ModelConfig, dtype: str = "float32") -> PyTree:
    """The parameter tree of a config as `ShapeDtypeStruct`s, from which shardings can be made."""
    return _shapes(config, dict.fromkeys(hf_folder.tensor_slots(config), jnp.dtype(dtype)))


def _shapes(config: ModelConfig, dtypes: dict[str, np.dtype]) -> PyTree:
    leaves = {}
    for name, slot in hf_folder.tensor_slots(config).items():
        shape = slot.shape[::-1] if slot.transpose else slot.shape
        stack = (config.num_layers,) if config.scan_layers and slot.layer is not None else ()
        leaves[hf_folder.leaf_path(config, slot)] = jax.ShapeDtypeStruct((*stack, *shape), dtypes[name])
    return unflatten_dict(leaves)


def _write_layer(stack, entry, slot, shape, sharding):
    """Writes one layer into the stack in place. Stacking all layers at the end would need twice the memory."""
    if stack is None:
        stack = jnp.zeros(shape.shape, shape.dtype, device=sharding)
    return _updater(stack.sharding)(stack, read(entry, shape.dtype, slot.transpose), slot.layer)


@functools.cache
def _updater(sharding):
    def update(stack, value, layer):
        return jax.lax.dynamic_update_index_in_dim(stack, value, layer, 0)

    return jax.jit(update, donate_argnums=0, out_shardings=sharding)
