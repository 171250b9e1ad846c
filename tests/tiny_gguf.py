"""Writes tiny GGUF files, byte by byte: a random llama or qwen2 model with a byte-level vocabulary of 40 tokens."""

import pathlib
import string
import struct

import numpy as np
from hf_files import model_files

KINDS = {str: 8, bool: 7, int: 4, float: 6}
TYPES = {"F32": 0, "F16": 1, "Q8_0": 8}
MERGES = ["a b", "Ġ a", "ab c"]
CONTROLS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
TOKENS = [*string.ascii_lowercase, *"Ġ0123Ċ", "ab", "Ġa", "abc", *CONTROLS, "[PAD38]", "[PAD39]"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def metadata(family: str, fields: dict) -> dict:
    model = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 16,
        "feed_forward_length": 24,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": fields["rope_theta"],
    }
    kinds = [3 if token in CONTROLS else 5 if token.startswith("[PAD") else 1 for token in TOKENS]
    words = {
        "model": "gpt2",
        "pre": {"llama": "smollm", "qwen2": "qwen2"}[family],
        "tokens": TOKENS,
        "merges": MERGES,
        "token_type": kinds,
        "eos_token_id": TOKENS.index("<|im_end|>"),
        "padding_token_id": TOKENS.index("<|endoftext|>"),
        "bos_token_id": TOKENS.index("<|im_start|>"),
        "add_bos_token": False,
    }
    found = {"general.architecture": family, "tokenizer.chat_template": CHAT}
    found |= {f"{family}.{name}": value for name, value in model.items()}
    return found | {f"tokenizer.ggml.{name}": value for name, value in words.items()}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(value) -> bytes:
    """A metadata value: its type, then its content."""
    if isinstance(value, list):
        kind = type(value[0])
        body = b"".join(text(one) if kind is str else struct.pack("<i", one) for one in value)
        return struct.pack("<IIQ", 9, 8 if kind is str else 5, len(value)) + body
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    return struct.pack({bool: "<I?", int: "<II", float: "<If"}[type(value)], KINDS[type(value)], value)


def quantised(values: np.ndarray) -> bytes:
    """Q8_0: blocks of 32 values, a float16 scale and 32 int8."""
    blocks = values.reshape(-1, 32)
    scales = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    whole = np.rint(blocks / scales.astype(np.float32)).astype(np.int8)
    return b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, whole, strict=True))


def content(tensor: np.ndarray, kind: str) -> bytes:
    return quantised(tensor) if kind == "Q8_0" else tensor.astype({"F32": np.float32, "F16": np.float16}[kind]).tobytes()


def gguf_name(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a query or key matrix as llama.cpp orders them, one by one: row i of a half beside row i of the other."""
    head = len(matrix) // heads
    order = [h * head + half * head // 2 + i for h in range(heads) for i in range(head // 2) for half in range(2)]
    return matrix[order]


def write_gguf(path: pathlib.Path, family: str, tied: bool = True, kind: str = "F32", changes=(), version: int = 3):
    """Writes the file and returns Hugging Face's fields and tensors. `changes`: metadata entries; None removes one."""
    extra = {"rope_scaling": None} if family == "llama" else {}
    fields, tensors = model_files(family, tie_word_embeddings=tied, **extra)
    entries = {name: value for name, value in (metadata(family, fields) | dict(changes)).items() if value is not None}
    infos, data = [], b""
    for name, tensor in tensors.items():
        heads = {"q_proj.weight": 4, "k_proj.weight": 2}.get(".".join(name.split(".")[-2:]), 0)
        stored = interleaved(tensor, heads) if heads and family == "llama" else tensor
        own = kind if tensor.ndim == 2 and (kind != "Q8_0" or tensor.shape[-1] % 32 == 0) else "F32"
        data += b"\0" * (-len(data) % 32)
        shape = struct.pack(f"<I{tensor.ndim}Q", tensor.ndim, *tensor.shape[::-1])
        infos.append(text(gguf_name(name)) + shape + struct.pack("<IQ", TYPES[own], len(data)))
        data += content(stored, own)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    head += b"".join(text(key) + packed(value) for key, value in entries.items()) + b"".join(infos)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return fields, tensors
