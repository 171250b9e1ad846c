"""Exports and loads LoRA adapters in PEFT's format, and merges them into a base model for programs without adapter support.

An inference server that finds no tensors under the expected names silently serves the base model. So `export_adapter` reads
its files back and checks them, and `load_adapter` refuses any field or tensor that it does not understand.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from pubswap_jax.files import sync_path
from pubswap_jax.policy.adapter import lora
from pubswap_jax.types import ModelConfig, PyTree
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.basis import basis_digest, check_basis
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.peft_checks import (
    BASE_DIGEST,
    BASIS_DIGEST,
    CONFIG,
    TENSORS_DIGEST,
    WEIGHTS,
    check_base,
    check_fields,
    check_targets,
    check_tensors,
)
from pubswap_jax.weights.peft_tensors import adapted_layers, layer_arrays, lora_shapes, peft_matrices, peft_name
from pubswap_jax.weights.tensorfile import DTYPES, Entry, read, read_header, read_json, read_metadata, write, write_json


def export_adapter(
    path: str | pathlib.Path, adapter: PyTree, config: ModelConfig, base_name: str, *, basis: PyTree | None = None
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors into the folder `path`.

    The files are written to a staging folder. It replaces `path` only after the tensors were read back and compared.

    If the config has a folder, as from `load_pretrained`, the digest of that base is written too. `load_adapter` then
    requires the same base. `basis` is base["basis"]; None: the family has no frozen arrays. Of a family with frozen arrays the
    digests of these and of the tensors are written, and `load_adapter` checks them.
    """
    matrices, rank, alpha = peft_matrices(config, adapter, basis or {})
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_name),
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": sorted(config.lora_targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    with _staged(path, replaces=(CONFIG, WEIGHTS)) as folder:
        write_json(folder / CONFIG, fields)
        specs = {name: (m.shape, m.dtype) for name, m in matrices.items()}
        metadata = {BASE_DIGEST: hf_folder.base_digest(config.folder)} if config.folder else {}
        if basis:
            metadata |= {BASIS_DIGEST: basis_digest(basis), TENSORS_DIGEST: basis_digest(_by_name(matrices))}
        write(folder / WEIGHTS, specs, iter(matrices.values()), metadata)
        written = read_header(folder / WEIGHTS)
        for name, matrix in matrices.items():
            if name not in written or not np.array_equal(read(written[name]), matrix):
                raise OSError(f"{path}: tensor {name!r} was not written as it is; check the disk and export again")


def load_adapter(
    path: str | pathlib.Path,
    config: ModelConfig,
    *,
    any_base: bool = False,
    basis: PyTree | None = None,
    say: Callable[[str], None] = print,
) -> tuple[ModelConfig, PyTree]:
    """Loads a PEFT adapter. Returns the config with the adapter's rank, alpha and targets, and the adapter in f32.

    Args:
      path: the adapter's folder.
      config: config of the base, as returned by `load_pretrained`.
      any_base: accept an adapter that was trained on another base with the same shapes.
      basis: frozen arrays that must be those that the adapter was trained with. They are compared and else not used: a folder
        holds a LoRA, whatever the family was. None: they are not compared.
      say: called with a log line if the adapter's base cannot be compared with this base.
    """
    folder = pathlib.Path(path)
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: {CONFIG} and {WEIGHTS} expected; save the adapter with safe_serialization=True")
    fields, tensors = read_json(folder / CONFIG), read_header(folder / WEIGHTS)
    rank, alpha = check_fields(folder / CONFIG, fields)
    config = config.replace(adapter=lora(rank, alpha), lora_targets=check_targets(folder, fields, tensors))
    check_tensors(folder, tensors, lora_shapes(config, rank))
    if not any_base:
        check_base(folder, fields, config, say)
    _check_digests(folder, tensors, basis)
    leaves: dict = {}
    for module, layer in adapted_layers(config).items():
        for half in "AB":
            matrix = read(tensors[peft_name(module, half)], np.dtype(np.float32), transpose=True)
            leaves.setdefault((*layer.path, half.lower()), {})[layer.number] = matrix
    if config.scan_layers:
        return config, unflatten_dict(
            {leaf: jnp.stack([by_layer[i] for i in sorted(by_layer)]) for leaf, by_layer in leaves.items()}
        )
    return config, unflatten_dict({leaf: jnp.asarray(*by_layer.values()) for leaf, by_layer in leaves.items()})


def _by_name(matrices: dict[str, np.ndarray]) -> PyTree:
    return {name: {"weight": matrix} for name, matrix in matrices.items()}


def _check_digests(folder: pathlib.Path, tensors: dict[str, Entry], basis: PyTree | None) -> None:
    """Raises if a tensor was changed after the export, or if `basis` is not what the adapter was trained with."""
    noted, file = read_metadata(folder / WEIGHTS), folder / WEIGHTS
    if theirs := noted.get(TENSORS_DIGEST):
        ours = basis_digest(_by_name({name: read(tensors[name], np.dtype(np.float32)) for name in tensors}))
        if ours != theirs:
            raise ValueError(f"{file}: a tensor was changed after the export; export the adapter again")
    if basis is not None:
        check_basis(str(file), noted.get(BASIS_DIGEST, ""), basis_digest(basis))


def merge_adapter(
    path: str | pathlib.Path,
    base: str | pathlib.Path,
    adapter: PyTree,
    config: ModelConfig,
    *,
    basis: PyTree | None = None,
    dtype: str | None = None,
) -> None:
    """Writes a model folder with W + P·Q in place of each adapted W, where P and Q are the adapter family's factors of ΔW.

    The sum is computed in f32 and stored in `dtype`, by default the base's dtype. `base` is a folder or a name, as for
    `load_pretrained`. Its tokenizer and generation files are copied. Only one tensor of the base is in memory at a time.
    `basis` is base["basis"] of `load_pretrained`; None: the family has no frozen arrays.
    """
    source = hf_folder.find_folder(base)
    tensors, own = hf_folder.find_tensors(source), read_config(source)
    hf_folder.check_tensors(source, tensors, own)
    if hf_folder.tensor_slots(own) != hf_folder.tensor_slots(config.replace(scan_layers=False)):
        raise ValueError(
            f"base: {source} is not of the shapes that config describes; give the model that the adapter was trained on"
        )
    layers = layer_arrays(config, adapter, basis or {})
    stored = jnp.dtype(dtype) if dtype else None
    if stored is not None and stored not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; one of {', '.join(map(str, DTYPES.values()))} expected")
    specs = {name: (entry.shape, stored or entry.dtype) for name, entry in tensors.items()}

    def merged() -> Iterator[np.ndarray]:
        for name, entry in tensors.items():
            arrays = layers.get(name.removesuffix(".weight"))
            if arrays is None:
                yield read(entry, specs[name][1])
            else:
                p, q = (np.asarray(factor, np.float32) for factor in config.adapter.factors(*arrays))
                yield (read(entry, np.dtype(np.float32)) + q.T @ p.T).astype(specs[name][1])

    with _staged(path) as folder:
        fields = read_json(source / "config.json")
        if dtype:
            fields = {k: v for k, v in fields.items() if k not in ("dtype", "torch_dtype")} | {"dtype": str(stored)}
        write_json(folder / "config.json", fields)
        for pattern in ("generation_config.json", *hf_folder.TOKENIZER_FILES):
            for file in source.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        write(folder / hf_folder.SINGLE, specs, merged())
        hf_folder.check_tensors(folder, hf_folder.find_tensors(folder), read_config(folder))


@contextlib.contextmanager
def _staged(path: str | pathlib.Path, replaces: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
    """Context with a hidden folder beside `path`, which replaces `path` if the block succeeds and is deleted if it raises."""
    path = pathlib.Path(path).expanduser().absolute()
    strangers = sorted({file.name for file in path.iterdir()} - set(replaces)) if path.exists() else []
    if strangers:
        raise FileExistsError(f"{path}: holds {strangers[0]}, which would be lost; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp makes it private
        if path.exists():
            old = path.rename(staging.with_name(staging.name + ".old"))
            staging.rename(path)
            shutil.rmtree(old)
        else:
            staging.rename(path)
        sync_path(path.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
