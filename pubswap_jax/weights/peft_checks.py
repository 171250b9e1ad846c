"""Checks that a PEFT folder is a plain LoRA adapter of a given base: its fields, targets, tensors and its base's digest."""

import math
import pathlib
from collections.abc import Callable

from pubswap_jax.types import LINEAR_LAYERS, ModelConfig
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.tensorfile import Entry, read_metadata

# Key of the base's digest in the metadata of WEIGHTS. In CONFIG, PEFT would warn about the unknown key or refuse it.
BASE_DIGEST = "base_sha256"
# Keys of two digests in the same metadata, of families with frozen arrays: of these arrays, and of the folder's tensors.
BASIS_DIGEST, TENSORS_DIGEST = "basis_sha256", "tensors_sha256"
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


def check_fields(path: pathlib.Path, fields: dict) -> tuple[int, float]:
    """Rank and alpha of a plain LoRA adapter, from adapter_config.json. Raises for every other kind of adapter."""
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


def check_targets(folder: pathlib.Path, fields: dict, tensors: dict[str, Entry]) -> tuple[str, ...]:
    """The linear layers that the tensors adapt. Raises if `target_modules` names others."""
    targets = tuple(t for t in LINEAR_LAYERS if any(f".{t}." in name for name in tensors))
    named = fields.get("target_modules")
    beyond = sorted({str(name).split(".")[-1] for name in named} - set(LINEAR_LAYERS)) if isinstance(named, list) else []
    if beyond:
        raise ValueError(f"{folder}: target_modules has {beyond[0]!r}; {_ONLY_BLOCKS}")
    if isinstance(named, list) and {str(name).split(".")[-1] for name in named} != set(targets):
        raise ValueError(
            f"{folder}: target_modules {sorted(map(str, named))} and the tensors' {sorted(targets)} differ; export it again"
        )
    return targets


def check_tensors(folder: pathlib.Path, tensors: dict[str, Entry], expected: dict[str, tuple[int, int]]) -> None:
    """Raises unless the adapter's tensors have exactly the expected names and shapes."""
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


def check_base(folder: pathlib.Path, fields: dict, config: ModelConfig, say: Callable[[str], None]) -> None:
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
