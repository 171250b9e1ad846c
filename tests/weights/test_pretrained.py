"""Hugging Face folders in: every tensor where it belongs, in its type and its shards, and no more memory than that takes."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hf_files import FAMILIES, expected_leaves, model_files, write_model

from pubswap_jax import Transformer, load_pretrained
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.hf_config import read_config
from pubswap_jax.weights.pretrained import param_shapes
from pubswap_jax.weights.tensorfile import write

# --- in ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_lands_in_its_leaf(tmp_path, family, shards):
    want = expected_leaves(write_model(tmp_path, family, shards))
    config, base = load_pretrained(tmp_path)
    params = base["params"]
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
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *(plain["params"][f"layers_{i}"] for i in range(2)))
    jax.tree.map(np.testing.assert_array_equal, scanned["params"]["layers"], stacked)
    made = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, scanned["params"]) == jax.tree.map(jnp.shape, made)


@pytest.mark.parametrize("stored", [jnp.bfloat16, np.float16, np.float32])
def test_dtypes_are_kept_or_cast(tmp_path, stored):
    tensors = write_model(tmp_path, dtype=stored)
    _, kept = load_pretrained(tmp_path)
    _, cast = load_pretrained(tmp_path, dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype(stored)}
    assert {leaf.dtype for leaf in jax.tree.leaves(cast)} == {jnp.dtype("float32")}
    want = tensors["model.layers.1.mlp.down_proj.weight"].T
    np.testing.assert_array_equal(kept["params"]["layers_1"]["mlp"]["down_proj"]["kernel"], want)
    np.testing.assert_array_equal(cast["params"]["layers_1"]["mlp"]["down_proj"]["kernel"], want.astype(np.float32))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_arrays_arrive_sharded(tmp_path, scan_layers):
    write_model(tmp_path)
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def last_axis(shapes):
        split = lambda shape: jax.sharding.PartitionSpec(*(None,) * (len(shape.shape) - 1), "model")  # noqa: E731
        return jax.tree.map(lambda shape: jax.sharding.NamedSharding(mesh, split(shape)), shapes)

    config, base = load_pretrained(tmp_path, shardings=last_axis, scan_layers=scan_layers)
    jax.tree.map(lambda leaf: (leaf.sharding.shard_shape(leaf.shape)[-1] * 2 == leaf.shape[-1]) or pytest.fail(str(leaf)), base)
    _, whole = load_pretrained(tmp_path, scan_layers=scan_layers)
    jax.tree.map(np.testing.assert_array_equal, base, whole)
    same = load_pretrained(tmp_path, shardings=last_axis(param_shapes(config)), scan_layers=scan_layers)[1]
    assert jax.tree.map(lambda leaf: leaf.sharding, same) == jax.tree.map(lambda leaf: leaf.sharding, base)


# --- memory -----------------------------------------------------------------------------------------------------------

PEAK = """
import json, pathlib, sys, jax
from pubswap_jax.weights.pretrained import load_pretrained
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


@pytest.mark.slow
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
    slots = hf_folder.tensor_slots(read_config(large))
    specs = {name: (slot.shape, jnp.dtype("bfloat16")) for name, slot in slots.items()}
    write(large / "model.safetensors", specs, (np.zeros(shape, dtype) for shape, dtype in specs.values()))
    command = [sys.executable, "-c", PEAK, str(large), str(tmp_path / "tiny"), json.dumps(options)]
    grown, finished = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    largest = 32768 * 1024 * (4 if options.get("dtype") == "float32" else 2)
    assert grown - finished <= 1.1 * largest, (grown, finished, largest)
