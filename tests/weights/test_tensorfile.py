"""Safetensors files against the safetensors library, in both directions, and damaged ones."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from hf_files import expected_leaves, write_model

from pubswap_jax import load_pretrained
from pubswap_jax.weights import tensorfile

DTYPES = [np.float16, np.float32, np.float64, jnp.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_we_write_the_library_reads(tmp_path, dtype):
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(dtype) for name, shape in {"b": (3, 5), "a": (7,), "c": (2, 3, 4)}.items()}
    specs = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    tensorfile.write(tmp_path / "x.safetensors", specs, iter(tensors.values()))
    with safetensors.safe_open(tmp_path / "x.safetensors", "flax") as file:
        assert file.metadata() == {"format": "pt"}
        for name in tensors:
            theirs = file.get_tensor(name)
            np.testing.assert_allclose(np.asarray(theirs, np.float64), tensors[name].astype(np.float64), rtol=1e-6)
    entries = tensorfile.read_header(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        ours = tensorfile.read(entries[name])
        assert ours.dtype == tensor.dtype
        np.testing.assert_array_equal(ours, tensor)


def test_tensors_of_many_blocks_are_cast_and_transposed_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorfile, "_BLOCK_BYTES", 100)
    tensors = {"tall": np.arange(700.0, dtype=np.float32).reshape(100, 7), "wide": np.ones((3, 90), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors")
    entries = tensorfile.read_header(tmp_path / "x.safetensors")
    assert len(list(tensorfile.blocks(entries["tall"]))) == 34
    np.testing.assert_array_equal(tensorfile.read(entries["tall"], np.dtype(np.float64), transpose=True), tensors["tall"].T)
    np.testing.assert_array_equal(tensorfile.read(entries["wide"]), tensors["wide"])


def test_a_tensor_other_than_announced_is_not_written(tmp_path):
    specs = {"a": ((2, 3), np.dtype(np.float32))}
    with pytest.raises(ValueError, match="announced as"):
        tensorfile.write(tmp_path / "x.safetensors", specs, iter([np.zeros((3, 2), np.float32)]))


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
            got = flatten_dict(load_pretrained(tmp_path)[1]["params"])
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert {path: value.shape for path, value in expected_leaves(tensors).items()} == {
                p: v.shape for p, v in got.items()
            }
    assert refused > 150
