"""Converts a GGUF file of a llama or qwen2 model to a Hugging Face folder, without torch.

python -m pubswap_jax.weights.gguf FILE FOLDER        # config.json, model.safetensors, tokenizer and generation config

`model.path` may also name the file, or a folder with one GGUF file: `folder_of` then converts it once, beside the file.
"""

import argparse
import functools
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np

from pubswap_jax.weights import tensorfile
from pubswap_jax.weights.gguf_file import PLAIN, Tensor, read, read_header
from pubswap_jax.weights.gguf_tokenizer import write_tokenizer

SOURCE = "gguf.json"  # in a converted folder: the SHA-256 of the file
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_PERMUTED = ("attn_q.weight", "attn_k.weight")
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Metadata that describes what this model does not implement: each must be absent or have the value that turns it off.
_OFF = {
    "rope.scaling.type": "none",
    "expert_count": 0,
    "attention.sliding_window": 0,
    "attention.causal": True,
    "rope.scale_linear": 1.0,
    "logit_scale": 0.0,
}


def folder_of(file: pathlib.Path) -> pathlib.Path:
    """The Hugging Face folder of a GGUF file, FILE-hf beside the file. Converts the file if that has not been done."""
    folder = file.with_name(f"{file.stem}-hf")
    if (folder / SOURCE).is_file() and tensorfile.read_json(folder / SOURCE).get("sha256") == digest(file):
        return folder
    if not os.access(file.parent, os.W_OK):
        raise ValueError(f"{file.parent}: not writable; python -m pubswap_jax.weights.gguf {file} FOLDER, then give FOLDER")
    if folder.exists() and not (folder / SOURCE).is_file():
        raise ValueError(f"{folder}: not a folder that this program converted; remove it, or give it as model.path")
    convert(file, folder)
    return folder


def digest(file: pathlib.Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def convert(file: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the Hugging Face folder of a GGUF file. The folder appears when it is complete."""
    fields, tensors = read_header(file)
    family = fields.get("general.architecture")
    if not isinstance(family, str) or family not in ARCHITECTURES:
        raise ValueError(f"{file}: the architecture {family!r:.80} is not read; {' and '.join(ARCHITECTURES)} are")
    config = config_fields(file, family, fields, tensors)
    names = {name: hf_name(file, name) for name in sorted(tensors)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        new = pathlib.Path(made) / "new"
        new.mkdir()
        config |= write_tokenizer(new, file, fields)
        specs = {names[name]: (tensor.shape, PLAIN.get(tensor.kind, np.dtype(np.float32))) for name, tensor in tensors.items()}
        tensorfile.write(new / "model.safetensors", specs, _values(file, family, config, tensors))
        tensorfile.write_json(new / "config.json", config)
        tensorfile.write_json(new / SOURCE, {"sha256": digest(file)})
        if folder.exists():
            shutil.rmtree(folder)
        new.rename(folder)


def hf_name(file: pathlib.Path, name: str) -> str:
    """Hugging Face's name for a tensor of a GGUF file. Raises for a tensor that no model of these architectures has."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    block, *rest = name.split(".")
    if block == "blk" and len(rest) == 3 and rest[0].isdecimal() and rest[1] in _IN_LAYER and rest[2] in ("weight", "bias"):
        return f"model.layers.{int(rest[0])}.{_IN_LAYER[rest[1]]}.{rest[2]}"
    if name == "rope_freqs.weight":
        raise ValueError(f"{file}: scaled rotary embeddings (Llama 3.1 and later) are read from safetensors, not from GGUF")
    raise ValueError(f"{file}: tensor {name!r:.80} is not known; no model of these architectures has it")


def config_fields(
    file: pathlib.Path, family: str, fields: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> dict[str, object]:
    """Makes the fields of config.json from a GGUF file's metadata. Raises for options that the model does not implement."""
    for name, off in _OFF.items():
        if fields.get(f"{family}.{name}", off) != off:
            raise ValueError(f"{file}: {family}.{name} is {fields[f'{family}.{name}']!r:.80}, which is not implemented")
    number = functools.partial(_number, file, family, fields)
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{file}: tensor 'token_embd.weight' is missing; take another file of the model")
    hidden, heads = number("embedding_length"), number("attention.head_count")
    kv_heads = number("attention.head_count_kv", heads)
    head = number("attention.key_length", hidden // heads)
    if heads % kv_heads or head % 2 or number("rope.dimension_count", head) != head:
        raise ValueError(f"{file}: heads of {head}, {heads} of queries and {kv_heads} of keys, do not go together")
    return {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon", kind=float),
        "rope_theta": number("rope.freq_base", 10000.0, float),
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": "float32",
    }


def _number(file: pathlib.Path, family: str, fields: Mapping[str, object], name: str, default=None, kind=int):
    """A positive number from the file's metadata.

    A float32 is written with the digits that determine it: 1e-5, not 9.9999997e-06.
    """
    value = fields.get(f"{family}.{name}", default)
    if type(value) is not kind or not 0 < value < 1 << 40:
        raise ValueError(f"{file}: {family}.{name} is {value!r:.80}; a positive {'whole ' * (kind is int)}number expected")
    return float(str(np.float32(value))) if kind is float else value


def _values(
    file: pathlib.Path, family: str, config: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> Iterator[np.ndarray]:
    for name, tensor in tensors.items():
        value = read(file, tensor)
        if not np.isfinite(value.astype(np.float32)).all():
            raise ValueError(f"{file}: tensor {name!r:.80} is not finite; download the file again")
        if family == "llama" and name.endswith(_PERMUTED):
            value = unpermuted(value, config["num_attention_heads" if "attn_q" in name else "num_key_value_heads"])
        yield value


def unpermuted(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Puts the rows of a llama file's query or key matrix into Hugging Face's order.

    llama.cpp rotates neighbours (2i, 2i + 1), Hugging Face rotates halves (i, i + d/2), so the file's rows are interleaved.
    """
    rows, wide = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, wide).swapaxes(1, 2).reshape(rows, wide)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pubswap_jax.weights.gguf", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    asked = parser.parse_args(arguments)
    try:
        if asked.folder.exists():
            raise ValueError(f"{asked.folder}: exists; name a new folder")
        convert(asked.file, asked.folder)
    except (ValueError, OSError, ImportError) as error:
        print(f"pubswap_jax: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    print(asked.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
