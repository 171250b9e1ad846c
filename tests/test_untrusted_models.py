"""Unsound and hostile model folders: each is refused in one line that says what is wrong, and never with another error."""

import json

import numpy as np
import pytest
import safetensors.numpy
from hf_files import edit, write_model

from pubswap_jax import load_pretrained


def without(name):
    return lambda folder: (folder / name).unlink()


def config_of(**changes):
    return lambda folder: edit(folder / "config.json", **changes)


def text_of(name, text):
    return lambda folder: (folder / name).write_bytes(text)


def tensors_of(change):
    def apply(folder):
        tensors = change(dict(safetensors.numpy.load_file(folder / "model.safetensors")))
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")

    return apply


def header_of(change):
    """Rewrites the raw header of the file, as an attacker would."""

    def apply(folder):
        raw = (folder / "model.safetensors").read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        header = change(json.loads(raw[8:end]))
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[end:])

    return apply


def altered(name, **fields):
    return header_of(lambda header: header | {name: header[name] | fields})


def sharded(change):
    """Two shards, and then a changed index."""

    def apply(folder):
        (folder / "model.safetensors").unlink()
        write_model(folder, shards=2)
        index = folder / "model.safetensors.index.json"
        fields = json.loads(index.read_text())
        change(folder, fields)
        index.write_text(json.dumps(fields))

    return apply


def as_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def as_half_pickle(folder):
    tensors_of(lambda t: {name: value for name, value in t.items() if "layers.1" not in name})(folder)
    (folder / "pytorch_model-00002.bin").write_bytes(b"\x80\x04.")


def climb(target):
    def change(folder, fields):
        fields["weight_map"]["model.norm.weight"] = target
        (folder.parent / "outside.safetensors").write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())

    return sharded(change)


def large_ids(name, fields):
    return lambda folder: (folder / name).write_text(json.dumps(fields))


NORM = "model.norm.weight"
TRUNCATE = lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-4])  # noqa: E731
APPEND = lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b"abcd")  # noqa: E731
REFUSALS = {
    "pickle only": (as_pickle, "pickles can run code"),
    "pickle for the rest": (as_half_pickle, "is missing"),
    "remote code": (config_of(auto_map={"AutoModelForCausalLM": "model.Evil"}), "remote code is never run"),
    "no config": (without("config.json"), "config.json: not found"),
    "no weights": (without("model.safetensors"), "neither model.safetensors nor"),
    "unknown family": (config_of(model_type="gemma3"), "model_type 'gemma3' is not supported"),
    "no family": (config_of(model_type=None), "model_type None"),
    "family of a wrong type": (config_of(model_type=["qwen2"]), "model_type"),
    "other head": (config_of(architectures=["Qwen2ForSequenceClassification"]), "architectures"),
    "sliding window": (config_of(use_sliding_window=True), "sliding-window"),
    "sliding layers": (config_of(layer_types=["sliding_attention", "full_attention"]), "layer_types"),
    "quantised": (config_of(quantization_config={"quant_method": "gptq"}), "quantised"),
    "other activation": (config_of(hidden_act="gelu"), "hidden_act"),
    "MLP biases": (config_of(mlp_bias=True), "mlp_bias"),
    "other rope": (config_of(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_type 'yarn'"),
    "old spelling of other rope": (config_of(rope_scaling={"type": "linear", "factor": 2.0}), "rope_type 'linear'"),
    "half of llama3 rope": (config_of(rope_scaling={"rope_type": "llama3", "factor": 2.0}), "low_freq_factor"),
    "rope is a list": (config_of(rope_scaling=[1]), "rope_scaling must be an object"),
    "partial rotation": (config_of(partial_rotary_factor=0.5), "partial_rotary_factor"),
    "size of a wrong type": (config_of(hidden_size="16"), "hidden_size is '16'"),
    "size is true": (config_of(num_hidden_layers=True), "num_hidden_layers"),
    "no size": (config_of(intermediate_size=None), "intermediate_size is None"),
    "a billion layers": (config_of(num_hidden_layers=10**9), "num_hidden_layers"),
    "a negative size": (config_of(vocab_size=-1), "vocab_size"),
    "heads do not divide": (config_of(num_key_value_heads=3), "must divide"),
    "odd head": (config_of(head_dim=3), "must be even"),
    "stop token out of range": (config_of(eos_token_id=40), "eos_token_id 40"),
    "config is not JSON": (text_of("config.json", b"{'a': 1}"), "not valid JSON"),
    "config is a list": (text_of("config.json", b"[]"), "a JSON object expected"),
    "config is not text": (text_of("config.json", b"\xff\xfe\x00"), "not valid JSON"),
    "config nests without end": (text_of("config.json", b'{"a":' * 100_000), "not valid JSON"),
    "config holds NaN": (text_of("config.json", b'{"rms_norm_eps": NaN}'), "NaN"),
    "config repeats a key": (text_of("config.json", b'{"a": 1, "a": 2}'), "a key occurs twice"),
    "infinite epsilon": (config_of(rms_norm_eps=1e400), "not valid JSON"),
    "config is huge": (text_of("config.json", b" " * (64 << 20) + b"{}"), "too many"),
    "tensor missing": (tensors_of(lambda t: {k: v for k, v in t.items() if k != NORM}), f"'{NORM}' is missing"),
    "tensor extra": (tensors_of(lambda t: t | {"model.extra": np.zeros(3, np.float32)}), "'model.extra' does not belong"),
    "tensor misshapen": (tensors_of(lambda t: t | {NORM: np.zeros(17, np.float32)}), r"shape \(17,\)"),
    "tensor transposed": (
        tensors_of(lambda t: t | {k: np.ascontiguousarray(v.T) for k, v in t.items() if "mlp.up" in k}),
        r"config.json asks for \(24, 16\)",
    ),
    "tensor of integers": (tensors_of(lambda t: t | {NORM: np.ones(16, np.int8)}), "stored as I8"),
    "another tied head": (
        tensors_of(lambda t: t | {"lm_head.weight": np.ones((40, 16), np.float32)}),
        "differs from the embedding",
    ),
    "truncated": (TRUNCATE, "do not fill the file"),
    "appended": (APPEND, "do not fill the file"),
    "empty file": (text_of("model.safetensors", b""), "not a safetensors file"),
    "header longer than the file": (
        text_of("model.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
        "not a safetensors file",
    ),
    "header is not JSON": (header_of(lambda header: b"{" * 64), "not valid JSON"),
    "header is a list": (header_of(lambda header: b"[1, 2]"), "a JSON object expected"),
    "a tensor twice": (header_of(lambda header: b'{"a": {}, "a": {}}'), "a key occurs twice"),
    "tensor is a number": (header_of(lambda header: header | {NORM: 1}), "needs dtype, shape"),
    "unknown dtype": (altered(NORM, dtype="F8_E4M3"), "stored as F8_E4M3"),
    "dtype is a list": (altered(NORM, dtype=["F32"]), "is stored as"),
    "negative shape": (altered(NORM, shape=[-16]), "has shape"),
    "huge shape": (altered(NORM, shape=[1 << 62]), "has shape"),
    "a thousand axes": (altered(NORM, shape=[1] * 1000), "has shape"),
    "offsets beyond the end": (altered(NORM, data_offsets=[1 << 40, (1 << 40) + 64]), "do not fill the file"),
    "offsets overlap": (altered(NORM, data_offsets=[0, 64]), "do not fill the file"),
    "offsets backwards": (altered(NORM, data_offsets=[64, 0]), "is not its shape's size"),
    "one offset": (altered(NORM, data_offsets=[0]), "data_offsets"),
    "index climbs": (climb("../outside.safetensors"), "not a safetensors file of this folder"),
    "index climbs from the root": (climb("/etc/model.safetensors"), "not a safetensors file of this folder"),
    "index climbs in Windows": (climb("..\\outside.safetensors"), "not a safetensors file of this folder"),
    "index names a pickle": (climb("pytorch_model.bin"), "not a safetensors file of this folder"),
    "index names a number": (climb(3), "not a safetensors file of this folder"),
    "index names no shard": (climb("model-9.safetensors"), "named by model.safetensors.index.json and not found"),
    "index has no map": (sharded(lambda folder, fields: fields.pop("weight_map")), "weight_map must map"),
    "index misses a tensor": (sharded(lambda folder, fields: fields["weight_map"].pop(NORM)), "is not announced"),
    "index invents a tensor": (
        sharded(lambda folder, fields: fields["weight_map"].update({"model.ghost": "model-00001-of-00002.safetensors"})),
        "announced by .* and missing",
    ),
    "ids of vocab.json": (large_ids("vocab.json", {"a": 0, "b": 40}), "ids up to 40"),
    "added ids": (large_ids("added_tokens.json", {"<x>": 41}), "ids up to 41"),
    "ids of tokenizer_config.json": (large_ids("tokenizer_config.json", {"added_tokens_decoder": {"42": {}}}), "ids up to 42"),
    "ids of tokenizer.json": (large_ids("tokenizer.json", {"model": {"vocab": {"a": 43}}}), "ids up to 43"),
    "added ids of tokenizer.json": (large_ids("tokenizer.json", {"added_tokens": [{"id": 44}]}), "ids up to 44"),
    "ids that are text": (large_ids("vocab.json", {"a": "0"}), "must be integers"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_one_line(tmp_path, name):
    spoil, line = REFUSALS[name]
    write_model(tmp_path / "model")
    load_pretrained(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises((ValueError, FileNotFoundError), match=line) as caught:
        load_pretrained(tmp_path / "model")
    assert "\n" not in str(caught.value)
