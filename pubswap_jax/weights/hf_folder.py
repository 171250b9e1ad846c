"""A Hugging Face model folder: how to find it, which tensors it must contain, and where each goes in the parameter tree."""

import functools
import hashlib
import pathlib
from typing import NamedTuple

from pubswap_jax.types import ModelConfig
from pubswap_jax.weights import gguf
from pubswap_jax.weights.tensorfile import Entry, blocks, read_header, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer*.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "*.jinja")
_WANTED = ["config.json", "generation_config.json", "model*.safetensors", INDEX, *TOKENIZER_FILES]
# Scripts of the repository that bring a model without the hub.
_SCRIPTS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "bash experiments/real_model/smollm2.sh FOLDER"}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")


class Slot(NamedTuple):
    """The place of one tensor of a model file in the parameter tree."""

    path: tuple[str, ...]  # path of the leaf in the tree; for a tensor of a layer, its path below the layer
    layer: int | None  # None: not part of a layer
    shape: tuple[int, ...]  # in the file
    transpose: bool  # the file holds [out, in], the tree [in, out]


def base_digest(folder: str | pathlib.Path) -> str:
    """SHA-256 over the base's config, weights and tokenizer. A run resumes only with an identical base."""
    files = [
        path
        for pattern in ("config.json", "*.safetensors", "tokenizer*.json")
        for path in sorted(pathlib.Path(folder).glob(pattern))
    ]
    return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=8)
def _digest(files: tuple[tuple[pathlib.Path, int, int], ...]) -> str:
    """SHA-256 over the names and contents of files. Cached, because an export asks once per client.

    An entry is (path, size, modification time). Size and time are part of the cache key, so that a changed file is read again.
    """
    total = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def hub_name(folder: str | pathlib.Path) -> str:
    """Hub name of a snapshot in the Hugging Face cache, such as 'Qwen/Qwen3-4B'; '' for any other folder."""
    parts = [part for part in pathlib.Path(folder).parts if part.startswith("models--")]
    return parts[-1].removeprefix("models--").replace("--", "/") if parts else ""


def find_folder(path_or_name: str | pathlib.Path, revision: str | None = None, config_only: bool = False) -> pathlib.Path:
    """Returns the folder if it exists, else the model's folder in the Hugging Face cache, downloading it if necessary.

    A GGUF file, or a folder with one GGUF file and no config.json, is converted to a folder beside the file.
    With `config_only`, config.json and generation_config.json are enough, and nothing else is downloaded.
    """
    folder = pathlib.Path(path_or_name).expanduser()
    if folder.suffix == ".gguf" and folder.is_file():
        return gguf.folder_of(folder)
    if folder.is_dir():
        return _converted(folder)
    name = str(path_or_name)
    fix = f"put config.json and {SINGLE} (or {INDEX} and its shards), or a GGUF file, into a folder and give its path"
    fix += f"; {_SCRIPTS[name]} brings this model" if name in _SCRIPTS else ""
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"{name}: no such folder; {fix}")
    import huggingface_hub  # imported here, so that local folders do not need it

    cause: Exception | None = None
    for offline in (True, False):
        try:
            wanted = _WANTED[:2] if config_only else _WANTED
            found = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=offline)
        except (OSError, ValueError, huggingface_hub.errors.EntryNotFoundError) as error:
            cause = error
            continue
        if not offline or _is_complete(pathlib.Path(found), config_only):
            return pathlib.Path(found)
    reason = str(cause).strip().split("\n")[0]
    raise FileNotFoundError(
        f"{name}: neither a folder nor in the Hugging Face cache, and not to be had from the hub ({reason}); {fix}"
    )


def _converted(folder: pathlib.Path) -> pathlib.Path:
    files = [] if (folder / "config.json").is_file() else sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ValueError(f"{folder}: {len(files)} GGUF files, {', '.join(file.name for file in files[:4])}; name one of them")
    return gguf.folder_of(files[0]) if files else folder


def _is_complete(folder: pathlib.Path, config_only: bool) -> bool:
    if config_only or not (folder / "config.json").is_file():
        return (folder / "config.json").is_file()
    if (folder / SINGLE).is_file():
        return True
    return (folder / INDEX).is_file() and all((folder / shard).is_file() for shard in set(_weight_map(folder / INDEX).values()))


def _weight_map(path: pathlib.Path) -> dict[str, str]:
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{path}: weight_map must map tensors to files; download the file again")
    for name in names.values():
        # A shard must be in the folder of its index. A path in `name` could point to any file on the machine.
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or pathlib.PurePath(name).name != name
            or "\\" in name
        ):
            raise ValueError(f"{path}: weight_map names {name!r}, which is not a safetensors file of this folder; refused")
    return names


def find_tensors(folder: pathlib.Path) -> dict[str, Entry]:
    """All tensors of a model folder: of its single safetensors file, or of the shards that its index names."""
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{folder}: only {pickles[0]} and no {SINGLE}; pickles can run code and are never read: convert to safetensors"
            )
        raise FileNotFoundError(f"{folder}: neither {SINGLE} nor {INDEX}; put the model's safetensors files there")
    names, tensors = _weight_map(folder / INDEX), {}
    shards = sorted(set(names.values()))
    for shard in shards:
        if not (folder / shard).is_file():
            raise FileNotFoundError(f"{folder / shard}: named by {INDEX} and not found; put it there")
    for shard in shards:
        found = read_header(folder / shard)
        strays = sorted(name for name in found if names.get(name) != shard)
        if strays:
            raise ValueError(f"{folder / shard}: tensor {strays[0]!r} is not announced by {INDEX}; download the files again")
        tensors |= found
    missing = sorted(set(names) - set(tensors))
    if missing:
        raise ValueError(
            f"{folder / names[missing[0]]}: tensor {missing[0]!r} is announced by {INDEX} and missing; download it again"
        )
    return tensors


def linear_layers(config: ModelConfig) -> dict[str, tuple[str, int, int]]:
    """Linear layers of a block: name -> (parent module, input size, output size)."""
    d, f = config.hidden_size, config.intermediate_size
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "q_proj": ("self_attn", d, heads),
        "k_proj": ("self_attn", d, kv),
        "v_proj": ("self_attn", d, kv),
        "o_proj": ("self_attn", heads, d),
        "gate_proj": ("mlp", d, f),
        "up_proj": ("mlp", d, f),
        "down_proj": ("mlp", f, d),
    }


def tensor_slots(config: ModelConfig) -> dict[str, Slot]:
    """Where each tensor of a Hugging Face model goes in the parameter tree: the tensor's name -> `Slot`."""
    d, vocabulary = config.hidden_size, config.vocab_size
    slots = {
        "model.embed_tokens.weight": Slot(("embed_tokens", "embedding"), None, (vocabulary, d), False),
        "model.norm.weight": Slot(("norm", "scale"), None, (d,), False),
    }
    if not config.tie_embeddings:
        slots["lm_head.weight"] = Slot(("lm_head", "kernel"), None, (vocabulary, d), True)
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            slots[f"{prefix}{norm}.weight"] = Slot((norm, "scale"), layer, (d,), False)
        for norm in ("q_norm", "k_norm") if config.qk_norm else ():
            slots[f"{prefix}self_attn.{norm}.weight"] = Slot(("self_attn", norm, "scale"), layer, (config.head_dim,), False)
        for name, (parent, wide, out) in linear_layers(config).items():
            slots[f"{prefix}{parent}.{name}.weight"] = Slot((parent, name, "kernel"), layer, (out, wide), True)
            if config.qkv_bias and name in ("q_proj", "k_proj", "v_proj"):
                slots[f"{prefix}{parent}.{name}.bias"] = Slot((parent, name, "bias"), layer, (out,), False)
    return slots


def leaf_path(config: ModelConfig, slot: Slot) -> tuple[str, ...]:
    """The path of a tensor's array in the parameter tree. With scan_layers, that array is the stack of all layers."""
    if slot.layer is None:
        return slot.path
    return ("layers" if config.scan_layers else f"layers_{slot.layer}", *slot.path)


def check_tensors(folder: pathlib.Path, tensors: dict[str, Entry], config: ModelConfig) -> None:
    """Raises unless the folder holds exactly the tensors that the config describes, with the right shapes."""
    slots = tensor_slots(config)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    extra = set(tensors) - set(slots)
    if config.tie_embeddings and head in extra and embedding in tensors:
        # Some tied checkpoints store the embedding twice. Ignoring an lm_head with other values would lose weights.
        if not _equal(tensors[head], tensors[embedding]):
            raise ValueError(
                f"{folder}: {head} differs from the embedding, but config.json ties them; set tie_word_embeddings to false"
            )
        extra -= {head}
    for problem, names in (("is missing", set(slots) - set(tensors)), ("does not belong to the architecture", extra)):
        if names:
            raise ValueError(
                f"{folder}: tensor {min(names)!r} {problem} ({len(names)} in all); take config.json and weights of one model"
            )
    for name, slot in slots.items():
        if tensors[name].shape != slot.shape:
            raise ValueError(f"{folder}: tensor {name!r} has shape {tensors[name].shape}, config.json asks for {slot.shape}")


def _equal(one: Entry, other: Entry) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return all((a == b).all() for (_, a), (_, b) in zip(blocks(one), blocks(other), strict=True))
