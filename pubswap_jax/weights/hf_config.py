"""Converts Hugging Face's config.json to a ModelConfig. Raises for options that the model does not implement."""

import pathlib

from pubswap_jax.policy.adapter import lora
from pubswap_jax.types import Llama3Rope, ModelConfig
from pubswap_jax.weights.tensorfile import read_json

# Differences between the families: biases on q, k and v, and norms of queries and keys.
_FAMILIES = {
    "llama": {"qkv_bias": False, "qk_norm": False},
    "qwen2": {"qkv_bias": True, "qk_norm": False},
    "qwen3": {"qkv_bias": False, "qk_norm": True},
}
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_LARGEST_SIZE = 1 << 24

# Options of these families that this model does not implement. If one is on, ignoring it would silently give wrong outputs.
_MUST_BE_OFF = (
    ("auto_map", "remote code is never run"),
    ("quantization_config", "quantised checkpoints are not read; download the unquantised one"),
    ("use_sliding_window", "sliding-window attention is not implemented"),
    ("mlp_bias", "biases in the MLP are not implemented"),
)


def read_config(folder: pathlib.Path) -> ModelConfig:
    """Reads config.json, and token ids from generation_config.json. Accepts the RoPE fields of transformers 4 and 5."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; put the model's config.json there")
    fields = read_json(path)
    family = fields.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(f"{path}: model_type {family!r} is not supported; this model reads {', '.join(_FAMILIES)}")
    _refuse_unsupported(path, family, fields)
    sizes = {
        "vocab_size": _size(path, fields, "vocab_size"),
        "hidden_size": _size(path, fields, "hidden_size"),
        "intermediate_size": _size(path, fields, "intermediate_size"),
        "num_layers": _size(path, fields, "num_hidden_layers", 4096),
        "num_heads": _size(path, fields, "num_attention_heads"),
        "max_positions": _size(path, fields, "max_position_embeddings"),
    }
    sizes["num_kv_heads"] = _size(path, {"num_key_value_heads": sizes["num_heads"]} | _given(fields), "num_key_value_heads")
    # hidden_size / num_heads is wrong for a Qwen3 file without head_dim: Qwen3's default is 128.
    head_dim = 128 if family == "qwen3" else sizes["hidden_size"] // sizes["num_heads"]
    sizes["head_dim"] = _size(path, {"head_dim": head_dim} | _given(fields), "head_dim")
    if sizes["num_heads"] % sizes["num_kv_heads"] or sizes["head_dim"] % 2:
        raise ValueError(
            f"{path}: num_key_value_heads must divide num_attention_heads, and head_dim must be even; correct the file"
        )
    theta, scaling = _rope(path, fields)
    eos_ids, pad_id = _special_ids(folder, fields, sizes["vocab_size"])
    return ModelConfig(
        **sizes,
        **_FAMILIES[family],
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=_positive(path, {"rms_norm_eps": 1e-6} | _given(fields), "rms_norm_eps"),
        tie_embeddings=fields.get("tie_word_embeddings", False) is True,
        model_type=family,
        eos_ids=eos_ids,
        pad_id=pad_id,
        adapter=lora(32, 64.0),  # the paper's
        folder=str(folder.absolute()),
    )


def check_vocabulary(config: ModelConfig, largest_id: int) -> None:
    """Raises if a tokenizer id has no row in the embedding. Without the check, the gather would silently clip the id."""
    if largest_id >= config.vocab_size:
        raise ValueError(
            f"the tokenizer makes ids up to {largest_id}, the embedding has {config.vocab_size} rows; take the model's own"
        )


def largest_token_id(folder: pathlib.Path) -> int:
    """The largest token id in the tokenizer files of a model's folder; -1 if there are none."""
    ids = [-1]
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            ids += _integers(folder / name, read_json(folder / name).values())
    if (folder / "tokenizer_config.json").is_file():
        added = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        ids += _integers(folder / "tokenizer_config.json", (int(i) if i.isdecimal() else i for i in added))
    if (folder / "tokenizer.json").is_file():
        fields = read_json(folder / "tokenizer.json", limit=1 << 30)
        model, added = fields.get("model") or {}, fields.get("added_tokens") or []
        vocabulary = model.get("vocab") or {}
        ids += (
            _integers(folder / "tokenizer.json", vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        )
        ids += _integers(folder / "tokenizer.json", (token.get("id") for token in added))
    return max(ids)


def _integers(path: pathlib.Path, values) -> list[int]:
    values = list(values)
    if not all(type(value) is int for value in values):
        raise ValueError(f"{path}: token ids must be integers; download the file again")
    return values


def _given(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if value is not None}


def _size(path: pathlib.Path, fields: dict, name: str, largest: int = _LARGEST_SIZE) -> int:
    value = fields.get(name)
    if type(value) is not int or not 1 <= value <= largest:
        raise ValueError(f"{path}: {name} is {value!r}; a whole number from 1 to {largest:,} expected")
    return value


def _positive(path: pathlib.Path, fields: dict, name: str) -> float:
    value = fields.get(name)
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise ValueError(f"{path}: {name} is {value!r}; a positive number expected")
    return float(value)


def _refuse_unsupported(path: pathlib.Path, family: str, fields: dict) -> None:
    for name, why in _MUST_BE_OFF:
        if fields.get(name):
            raise ValueError(f"{path}: {name} is set: {why}")
    expected = _ARCHITECTURES[family]
    if fields.get("architectures", [expected]) not in ([expected], None):
        raise ValueError(f"{path}: architectures is {fields['architectures']!r}; only [{expected!r}] is read for {family}")
    if fields.get("hidden_act", "silu") != "silu":
        raise ValueError(f"{path}: hidden_act is {fields['hidden_act']!r}; only 'silu' is implemented")
    if fields.get("attention_bias") and family != "qwen2":
        raise ValueError(f"{path}: attention_bias is set: biases in {family}'s attention are not implemented")
    if set(fields.get("layer_types") or ()) - {"full_attention"}:
        raise ValueError(f"{path}: layer_types has more than 'full_attention', which alone is implemented")


def _rope(path: pathlib.Path, fields: dict) -> tuple[float, Llama3Rope | None]:
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"{path}: rope_parameters / rope_scaling must be an object, found {rope!r}")
    fields = {"rope_theta": 10000.0} | _given(fields) | _given(rope)
    theta = _positive(path, fields, "rope_theta")
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"{path}: partial_rotary_factor is set: rotating a part of each head is not implemented")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(f"{path}: rope_type {kind!r} is not supported; 'default' and 'llama3' are")
    return theta, Llama3Rope(
        factor=_positive(path, rope, "factor"),
        low_freq_factor=_positive(path, rope, "low_freq_factor"),
        high_freq_factor=_positive(path, rope, "high_freq_factor"),
        original_max_position_embeddings=_size(path, rope, "original_max_position_embeddings"),
    )


def _special_ids(folder: pathlib.Path, fields: dict, vocab_size: int) -> tuple[tuple[int, ...], int]:
    """Stop token ids and padding id. generation_config.json overrides config.json.

    A chat model may list all of its stop tokens only in generation_config.json.
    """
    path = folder / "generation_config.json"
    fields = _given(fields) | (_given(read_json(path)) if path.is_file() else {})
    eos = fields.get("eos_token_id", [])
    eos = eos if isinstance(eos, list) else [eos]
    for value in eos:
        if type(value) is not int or not 0 <= value < vocab_size:
            raise ValueError(
                f"{folder}: eos_token_id {value!r} is not one of the {vocab_size} rows of the embedding; correct the file"
            )
    pad = fields.get("pad_token_id", 0)
    # Llama 2 files use -1 for "none". Padding is masked, so any valid row will do.
    return tuple(eos), pad if type(pad) is int and 0 <= pad < vocab_size else 0
