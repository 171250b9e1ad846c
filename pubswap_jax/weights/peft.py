"""Exports and loads LoRA adapters in PEFT's format, and merges them into a base model for programs without adapter support.

An inference server that finds no tensors under the expected names silently serves the base model. So `export_adapter` reads
its files back and checks them, and `load_adapter` refuses any field or tensor that it does not understand.
"""

import contextlib
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.files import sync_path
from pubswap_jax.types import LINEAR_LAYERS, ModelConfig, PyTree
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.tensorfile import DTYPES, read, read_header, read_json, read_metadata, write, write_json

# Key of the base's digest in the metadata of WEIGHTS. In CONFIG, PEFT would warn about the unknown key or refuse it.
BASE_DIGEST = "base_sha256"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of adapter_config.json that do not change what an adapter computes, or that are read here. All others must be off.
_NEUTRAL = {
    *("peft_type", "peft_version", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode"),
    *("r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "lora_dropout", "bias", "init_lora_weights"),
    *("eva_config", "qalora_group_size", "megatron_core", "runtime_config"),
}
_ONLY_BLOCKS = (
    f"only linear layers inside the blocks are adapted here ({', '.join(LINEAR_LAYERS)}), neither the head nor the embedding: "
    "train without it, or merge it into the base with peft"
)
# Other initialisations (PiSSA, OLoRA, CorDA, LoftQ) move part of the base's weights into the adapter.
_HARMLESS_INITS = (True, False, "gaussian", "orthogonal", "eva")


def export_adapter(path: str | pathlib.Path, adapter: PyTree, config: ModelConfig, base_name: str) -> None:
    """Writes adapter_config.json and adapter_model.safetensors into the folder `path`.

    The files are written to a staging folder. It replaces `path` only after the tensors were read back and compared.

    If the config has a folder, as from `load_pretrained`, the digest of that base is written too. `load_adapter` then
    requires the same base.
    """
    matrices = _to_peft(adapter, config)
    alpha = int(config.lora_alpha) if float(config.lora_alpha).is_integer() else config.lora_alpha
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base_name),
        "r": config.lora_rank,
        "lora_alpha": alpha,
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
        write(folder / WEIGHTS, specs, iter(matrices.values()), metadata)
        written = read_header(folder / WEIGHTS)
        for name, shape in _peft_shapes(config).items():
            if name not in written or written[name].shape != shape or not np.array_equal(read(written[name]), matrices[name]):
                raise OSError(f"{path}: tensor {name!r} was not written as it is; check the disk and export again")


def load_adapter(
    path: str | pathlib.Path, config: ModelConfig, *, any_base: bool = False, say: Callable[[str], None] = print
) -> tuple[ModelConfig, PyTree]:
    """Loads a PEFT adapter. Returns the config with the adapter's rank, alpha and targets, and the adapter in f32.

    Args:
      path: the adapter's folder.
      config: config of the base, as returned by `load_pretrained`.
      any_base: accept an adapter that was trained on another base with the same shapes.
      say: called with a log line if the adapter's base cannot be compared with this base.
    """
    folder = pathlib.Path(path)
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: {CONFIG} and {WEIGHTS} expected; save the adapter with safe_serialization=True")
    fields, tensors = read_json(folder / CONFIG), read_header(folder / WEIGHTS)
    rank, alpha = _checked_adapter(folder / CONFIG, fields)
    targets = tuple(t for t in LINEAR_LAYERS if any(f".{t}." in name for name in tensors))
    named = fields.get("target_modules")
    beyond = sorted({str(name).split(".")[-1] for name in named} - set(LINEAR_LAYERS)) if isinstance(named, list) else []
    if beyond:
        raise ValueError(f"{folder}: target_modules has {beyond[0]!r}; {_ONLY_BLOCKS}")
    if isinstance(named, list) and {str(name).split(".")[-1] for name in named} != set(targets):
        raise ValueError(
            f"{folder}: target_modules {sorted(map(str, named))} and the tensors' {sorted(targets)} differ; export it again"
        )
    config = config.replace(lora_rank=rank, lora_alpha=alpha, lora_targets=targets)
    expected = _peft_shapes(config)
    odd = sorted(set(expected) ^ set(tensors))
    strangers = [name for name in odd if name not in expected and ".layers." not in name]
    if strangers:
        raise ValueError(f"{folder / WEIGHTS}: tensor {strangers[0]!r} is not part of the base model's blocks; {_ONLY_BLOCKS}")
    if odd:
        problem = "is missing" if odd[0] in expected else "is not part of the base model"
        raise ValueError(
            f"{folder / WEIGHTS}: tensor {odd[0]!r} {problem} ({len(odd)} such); adapters must cover whole layers of this base"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{folder / WEIGHTS}: tensor {name!r} has shape {tensors[name].shape}, the base asks for {shape}")
    if not any_base:
        _check_base(folder, fields, config, say)
    leaves: dict = {}
    for name, (leaf, layer) in _peft_leaves(config).items():
        leaves.setdefault(leaf, {})[layer] = read(tensors[name], np.dtype(np.float32), transpose=True)
    if config.scan_layers:
        return config, unflatten_dict(
            {leaf: jnp.stack([by_layer[i] for i in sorted(by_layer)]) for leaf, by_layer in leaves.items()}
        )
    return config, unflatten_dict({leaf: jnp.asarray(*by_layer.values()) for leaf, by_layer in leaves.items()})


def _check_base(folder: pathlib.Path, fields: dict, config: ModelConfig, say: Callable[[str], None]) -> None:
    """Raises if the digest or hub name shows that the adapter belongs to another base. Calls `say` if digests are missing."""
    theirs, name = read_metadata(folder / WEIGHTS).get(BASE_DIGEST), fields.get("base_model_name_or_path")
    if theirs and config.folder:
        ours = hf_folder.base_digest(config.folder)
        if theirs != ours:
            raise ValueError(
                f"{folder}: trained on the base {name!r} (SHA-256 {str(theirs)[:12]}), and {config.folder} is another one "
                f"({ours[:12]}); give that base, or load_adapter(..., any_base=True) in Python"
            )
        return
    ours, given = hf_folder.hub_name(config.folder), str(name or "")
    on_the_hub = given.count("/") == 1 and not given.startswith((".", "/", "~"))
    if ours and on_the_hub and ours.split("/")[-1].lower() != given.split("/")[-1].lower():
        raise ValueError(
            f"{folder}: base_model_name_or_path is {given!r}, and the base is {ours!r}; give that base, or "
            "load_adapter(..., any_base=True) in Python"
        )
    missing = "the config has no folder" if theirs else "it holds no digest of its base"
    say(
        f"{folder}: trained on {repr(given) if given else 'a base that it does not name'}; that its weights are those of "
        f"{ours or config.folder or 'this base'} could not be checked: {missing}"
    )


def merge_adapter(
    path: str | pathlib.Path, base: str | pathlib.Path, adapter: PyTree, config: ModelConfig, *, dtype: str | None = None
) -> None:
    """Writes a model folder with W + (α/r)·A·B in place of each adapted W.

    The sum is computed in f32 and stored in `dtype`, by default the base's dtype. `base` is a folder or a name, as for
    `load_pretrained`. Its tokenizer and generation files are copied. Only one tensor of the base is in memory at a time.
    """
    source = hf_folder.find_folder(base)
    tensors, own = hf_folder.find_tensors(source), read_config(source)
    hf_folder.check_tensors(source, tensors, own)
    if hf_folder.tensor_slots(own) != hf_folder.tensor_slots(config.replace(scan_layers=False)):
        raise ValueError(
            f"base: {source} is not of the shapes that config describes; give the model that the adapter was trained on"
        )
    matrices, scale = _to_peft(adapter, config), np.float32(config.lora_alpha / config.lora_rank)
    stored = jnp.dtype(dtype) if dtype else None
    if stored is not None and stored not in DTYPES.values():
        raise ValueError(f"dtype is {dtype!r}; one of {', '.join(map(str, DTYPES.values()))} expected")
    specs = {name: (entry.shape, stored or entry.dtype) for name, entry in tensors.items()}

    def merged() -> Iterator[np.ndarray]:
        for name, entry in tensors.items():
            a, b = (matrices.get(_peft_key(name.removesuffix(".weight"), half)) for half in "AB")
            if a is None or b is None:
                yield read(entry, specs[name][1])
            else:
                yield (read(entry, np.dtype(np.float32)) + scale * (b @ a)).astype(specs[name][1])

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


def _peft_key(module: str, half: str) -> str:
    return f"base_model.model.{module}.lora_{half}.weight"


def _peft_leaves(config: ModelConfig) -> dict[str, tuple[tuple[str, ...], int]]:
    """PEFT's tensor name -> (path of the leaf in the adapter, layer). PEFT stores A as [r, in] and B as [out, r]."""
    unknown = set(config.lora_targets) - set(LINEAR_LAYERS)
    if unknown or not config.lora_targets:
        raise ValueError(f"config.lora_targets {config.lora_targets}: some of {', '.join(LINEAR_LAYERS)} expected")
    leaves = {}
    for name, slot in hf_folder.tensor_slots(config).items():
        if slot.transpose and slot.layer is not None and slot.path[1] in config.lora_targets:
            stem = hf_folder.leaf_path(config, slot)[:-1]
            leaves[_peft_key(name.removesuffix(".weight"), "A")] = ((*stem, "a"), slot.layer)
            leaves[_peft_key(name.removesuffix(".weight"), "B")] = ((*stem, "b"), slot.layer)
    return leaves


def _peft_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    linear, shapes = hf_folder.linear_layers(config), {}
    for name, (leaf, _) in _peft_leaves(config).items():
        _, wide, out = linear[leaf[-2]]
        shapes[name] = (config.lora_rank, wide) if leaf[-1] == "a" else (out, config.lora_rank)
    return shapes


def _to_peft(adapter: PyTree, config: ModelConfig) -> dict[str, np.ndarray]:
    """Converts the adapter to PEFT's matrices in f32. Raises unless the tree is the adapter that the config describes."""
    given, leaves, shapes = flatten_dict(adapter), _peft_leaves(config), _peft_shapes(config)
    odd = sorted(set(given) ^ {leaf for leaf, _ in leaves.values()})
    if odd:
        raise ValueError(
            f"adapter: leaf {'/'.join(odd[0])} and config.lora_targets {config.lora_targets} disagree; replace the config's"
        )
    matrices = {}
    for name, (leaf, layer) in leaves.items():
        expected = ((config.num_layers,) if config.scan_layers else ()) + shapes[name][::-1]
        if jnp.shape(given[leaf]) != expected:
            raise ValueError(
                f"adapter: leaf {'/'.join(leaf)} has shape {jnp.shape(given[leaf])}, the base and lora_rank ask for "
                f"{expected}; give one client's adapter"
            )
        value = given[leaf][layer] if config.scan_layers else given[leaf]
        matrices[name] = np.ascontiguousarray(np.asarray(jax.device_get(value), np.float32).T)
        if not np.isfinite(matrices[name]).all():
            raise ValueError(f"adapter: leaf {'/'.join(leaf)} is not finite; export an earlier round's adapter")
    return matrices


def _checked_adapter(path: pathlib.Path, fields: dict) -> tuple[int, float]:
    """Rank and alpha of a plain LoRA adapter. Raises for every other kind of adapter."""
    if fields.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {fields.get('peft_type')!r}; only 'LORA' is read")
    if fields.get("bias", "none") != "none":
        raise ValueError(f"{path}: bias is {fields['bias']!r}; adapters that train biases are not read")
    if fields.get("init_lora_weights", True) not in _HARMLESS_INITS:
        raise ValueError(
            f"{path}: init_lora_weights is {fields['init_lora_weights']!r}, which changes the base; convert it to plain LoRA"
        )
    if fields.get("modules_to_save"):
        raise ValueError(f"{path}: modules_to_save has {fields['modules_to_save'][0]!r}; {_ONLY_BLOCKS}")
    active = sorted(name for name, value in fields.items() if name not in _NEUTRAL and value)
    if active:
        raise ValueError(
            f"{path}: {active[0]} is {fields[active[0]]!r}, which plain LoRA does not have; retrain or merge it with peft"
        )
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{path}: r is {rank!r}; a whole number of at least 1 expected")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"{path}: lora_alpha is {alpha!r}; a number expected")
    # rsLoRA scales by alpha / sqrt(r), so alpha * sqrt(r) gives the same adapter under the scale alpha / r.
    return rank, float(alpha) * (math.sqrt(rank) if fields.get("use_rslora") else 1.0)


@contextlib.contextmanager
def _staged(path: str | pathlib.Path, replaces: tuple[str, ...] = ()) -> Iterator[pathlib.Path]:
    """Yields a hidden folder beside `path`. It replaces `path` if the block succeeds, and is deleted if the block raises."""
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
