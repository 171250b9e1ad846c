"""Tiny Hugging Face folders for tests, written by hand and by the safetensors library."""

import json
import pathlib

import jax
import numpy as np
import safetensors.numpy

from pubswap_jax import Transformer, init_adapter, load_pretrained, lora

LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "eos_token_id": 3,
}
FAMILIES = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3,
        "tie_word_embeddings": False,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "rope_theta": 1e6, "sliding_window": 32, "use_sliding_window": False},
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "head_dim": 8,
    },
}


def model_files(family: str, **changes) -> tuple[dict, dict[str, np.ndarray]]:
    """config.json and the tensors of a tiny random model, spelled out by hand."""
    fields = TINY | {"model_type": family, "tie_word_embeddings": True} | FAMILIES[family] | changes
    rng = np.random.default_rng(0)
    head, d, f = fields.get("head_dim", 4), 16, 24
    shapes = {"model.embed_tokens.weight": (40, d), "model.norm.weight": (d,)}
    if not fields["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (40, d)
    for i in range(2):
        attention, mlp = f"model.layers.{i}.self_attn.", f"model.layers.{i}.mlp."
        shapes |= {f"model.layers.{i}.{norm}.weight": (d,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {attention + "q_proj.weight": (4 * head, d), attention + "o_proj.weight": (d, 4 * head)}
        shapes |= {attention + "k_proj.weight": (2 * head, d), attention + "v_proj.weight": (2 * head, d)}
        shapes |= {mlp + "gate_proj.weight": (f, d), mlp + "up_proj.weight": (f, d), mlp + "down_proj.weight": (d, f)}
        if family == "qwen2":
            shapes |= {attention + f"{name}_proj.bias": (width * head,) for name, width in (("q", 4), ("k", 2), ("v", 2))}
        if family == "qwen3":
            shapes |= {attention + "q_norm.weight": (head,), attention + "k_norm.weight": (head,)}
    return fields, {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(
    folder: pathlib.Path, family: str = "qwen2", shards: int = 1, dtype=np.float32, **changes
) -> dict[str, np.ndarray]:
    fields, tensors = model_files(family, **changes)
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    if shards == 1:
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
        return tensors
    weight_map = {}
    for shard in range(shards):
        part = dict(sorted(tensors.items())[shard::shards])
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        safetensors.numpy.save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors


def edit(path: pathlib.Path, **changes):
    """Changes fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def expected_leaves(tensors: dict[str, np.ndarray]) -> dict[tuple[str, ...], np.ndarray]:
    """The same mapping the slow way: rename every tensor, transpose every matrix but the embedding."""
    leaves = {}
    for name, tensor in tensors.items():
        path = name.removeprefix("model.").replace("layers.", "layers_").split(".")
        kind = {"weight": "scale" if tensor.ndim == 1 else "kernel", "bias": "bias"}[path[-1]]
        embedding = path[0] == "embed_tokens"
        leaves[(*path[:-1], "embedding" if embedding else kind)] = tensor if embedding else tensor.T
    return leaves


def adapted(folder, family="qwen2", scan_layers=False, **changes):
    """A base in a folder, its config with a small adapter, the base and a random adapter with B != 0."""
    write_model(folder, family)
    config, base = load_pretrained(folder, scan_layers=scan_layers)
    config = config.replace(**{"adapter": lora(3, 5.0)} | changes)
    shapes = jax.eval_shape(lambda: init_adapter(jax.random.key(0), Transformer(config), base))
    rng = np.random.default_rng(0)
    return config, base, jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
