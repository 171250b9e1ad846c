"""Hugging Face folders in: every tensor where it belongs, nothing refused that is sound, nothing read that is not."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

from pubswap_jax import ModelConfig, Transformer, load_pretrained
from pubswap_jax.hf_config import read_config
from pubswap_jax.pretrained import check_vocabulary, param_shapes
from pubswap_jax.types import Llama3Rope

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
    return fields, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


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


# --- in ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_lands_in_its_leaf(tmp_path, family, shards):
    want = expected_leaves(write_model(tmp_path, family, shards))
    config, params = load_pretrained(tmp_path)
    got = flatten_dict(params)
    assert set(got) == set(want)
    for path in want:
        np.testing.assert_array_equal(got[path], want[path])
    made = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, made)


@pytest.mark.parametrize("family", FAMILIES)
def test_scanned_layers_are_the_same_layers_stacked(tmp_path, family):
    write_model(tmp_path, family)
    _, plain = load_pretrained(tmp_path)
    config, scanned = load_pretrained(tmp_path, scan_layers=True)
    assert config.scan_layers
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), plain["layers_0"], plain["layers_1"])
    jax.tree.map(np.testing.assert_array_equal, scanned["layers"], stacked)
    made = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, scanned) == jax.tree.map(jnp.shape, made)


@pytest.mark.parametrize("stored", [jnp.bfloat16, np.float16, np.float32])
def test_dtypes_are_kept_or_cast(tmp_path, stored):
    tensors = write_model(tmp_path, dtype=stored)
    _, kept = load_pretrained(tmp_path)
    _, cast = load_pretrained(tmp_path, dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype(stored)}
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype("float32")}
    want = tensors["model.layers.1.mlp.down_proj.weight"].T
    np.testing.assert_array_equal(kept["layers_1"]["mlp"]["down_proj"]["kernel"], want)
    np.testing.assert_array_equal(cast["layers_1"]["mlp"]["down_proj"]["kernel"], want.astype(np.float32))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_arrays_arrive_sharded(tmp_path, scan_layers):
    write_model(tmp_path)
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def last_axis(shapes):
        split = lambda shape: jax.sharding.PartitionSpec(*(None,) * (len(shape.shape) - 1), "model")  # noqa: E731
        return jax.tree.map(lambda shape: jax.sharding.NamedSharding(mesh, split(shape)), shapes)

    config, params = load_pretrained(tmp_path, shardings=last_axis, scan_layers=scan_layers)
    jax.tree.map(
        lambda leaf: (leaf.sharding.shard_shape(leaf.shape)[-1] * 2 == leaf.shape[-1]) or pytest.fail(str(leaf)), params
    )
    _, whole = load_pretrained(tmp_path, scan_layers=scan_layers)
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    same = load_pretrained(tmp_path, shardings=last_axis(param_shapes(config)), scan_layers=scan_layers)[1]
    assert jax.tree.map(lambda leaf: leaf.sharding, same) == jax.tree.map(lambda leaf: leaf.sharding, params)


def test_a_tied_head_that_repeats_the_embedding_is_no_extra_tensor(tmp_path):
    tensors = write_model(tmp_path)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    safetensors.numpy.save_file(tensors | head, tmp_path / "model.safetensors")
    assert "lm_head" not in load_pretrained(tmp_path)[1]


def test_both_spellings_of_rope(tmp_path):
    write_model(tmp_path, "llama")
    old, _ = load_pretrained(tmp_path)
    edit(tmp_path / "config.json", rope_scaling=None, rope_theta=None, rope_parameters=LLAMA3 | {"rope_theta": 500000.0})
    assert load_pretrained(tmp_path)[0] == old
    assert old.rope_theta == 500000.0 and old.rope_scaling == Llama3Rope(32.0, 1.0, 4.0, 64)


def test_stop_tokens_are_all_of_the_generation_config_else_the_configs(tmp_path):
    write_model(tmp_path)
    assert load_pretrained(tmp_path)[0].eos_ids == (3,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 3], "pad_token_id": 7}))
    config, _ = load_pretrained(tmp_path)
    assert config.eos_ids == (5, 3) and config.pad_id == 7


def test_configs_read_as_transformers_reads_them(shared_data, tmp_path):
    from transformers import AutoConfig

    files = sorted((shared_data / "hf_configs").glob("*.config.json"))
    assert len(files) == 12
    for file in files:
        (tmp_path / "config.json").write_text(file.read_text())
        ours, theirs = read_config(tmp_path), AutoConfig.from_pretrained(tmp_path)
        heads = theirs.num_attention_heads
        assert ours.num_layers == theirs.num_hidden_layers and ours.num_heads == heads
        assert ours.num_kv_heads == theirs.num_key_value_heads and ours.vocab_size == theirs.vocab_size
        assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // heads)
        assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
        assert (ours.rope_scaling is not None) == (theirs.rope_parameters["rope_type"] == "llama3")
        assert ours.rms_norm_eps == theirs.rms_norm_eps and ours.tie_embeddings == theirs.tie_word_embeddings
        assert ours.eos_ids == tuple(np.atleast_1d(theirs.eos_token_id))


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_is_found_in_the_cache_without_a_network(hub_cache):
    commit = "0123456789" * 4
    repository = hub_cache / "models--somebody--tiny"
    write_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    config, _ = load_pretrained("somebody/tiny")
    assert config.hidden_size == 16


def test_a_name_out_of_reach_says_which_files_to_put_where(hub_cache):
    with pytest.raises(FileNotFoundError, match=r"nobody/tiny: .*put config.json and model.safetensors .* into a folder"):
        load_pretrained("nobody/tiny")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_pretrained("./not/here")


# --- refusals: what is done to a sound folder -> a word of the one line that comes of it ------------------------------------


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


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_biases_are_refused_where_the_model_has_none(tmp_path, family):
    write_model(tmp_path, family, attention_bias=True)
    with pytest.raises(ValueError, match="attention_bias"):
        load_pretrained(tmp_path)


def test_no_byte_of_a_header_can_be_changed_into_another_model(tmp_path):
    """Random damage to a header is refused in one line or changes no name and no shape: never another error."""
    tensors = write_model(tmp_path)
    sound = (tmp_path / "model.safetensors").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        raw = bytearray(sound)
        raw[rng.integers(0, 8 + int.from_bytes(sound[:8], "little"))] ^= 1 << rng.integers(0, 8)
        (tmp_path / "model.safetensors").write_bytes(raw)
        try:
            got = flatten_dict(load_pretrained(tmp_path)[1])
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert {path: value.shape for path, value in expected_leaves(tensors).items()} == {
                p: v.shape for p, v in got.items()
            }
    assert refused > 150


def test_a_vocabulary_fits_its_embedding():
    config = ModelConfig(40, 16, 24, 2, 4, 2, 4)
    check_vocabulary(config, 39)
    with pytest.raises(ValueError, match="ids up to 40, the embedding has 40 rows"):
        check_vocabulary(config, 40)


# --- memory -----------------------------------------------------------------------------------------------------------

PEAK = """
import json, pathlib, sys, jax
from pubswap_jax.pretrained import load_pretrained
def peak():  # not ru_maxrss, which a child inherits from its parent
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
options = json.loads(sys.argv[3])
load_pretrained(sys.argv[2], **options)  # a tiny one first: the interpreter and XLA take what they need
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
before = peak()
_, params = load_pretrained(sys.argv[1], **options)
print(peak() - before, sum(leaf.nbytes for leaf in jax.tree.leaves(jax.block_until_ready(params))))
"""


@pytest.mark.parametrize("options", [{}, {"dtype": "float32"}, {"scan_layers": True}])
@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="measures memory through Linux's /proc")
def test_loading_needs_the_arrays_and_one_tensor(tmp_path, options):
    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "vocab_size": 32768,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    }
    write_model(tmp_path / "tiny", dtype=jnp.bfloat16)
    large = tmp_path / "large"
    large.mkdir()
    fields = model_files("qwen2")[0] | sizes
    (large / "config.json").write_text(json.dumps(fields))
    from pubswap_jax import hf_folder
    from pubswap_jax.tensorfile import write

    slots = hf_folder.tensor_slots(read_config(large))
    specs = {name: (slot.shape, jnp.dtype("bfloat16")) for name, slot in slots.items()}
    write(large / "model.safetensors", specs, (np.zeros(shape, dtype) for shape, dtype in specs.values()))
    command = [sys.executable, "-c", PEAK, str(large), str(tmp_path / "tiny"), json.dumps(options)]
    grown, finished = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    largest = 32768 * 1024 * (4 if options.get("dtype") == "float32" else 2)
    assert grown - finished <= 1.1 * largest, (grown, finished, largest)
