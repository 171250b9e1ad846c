"""Damaged and hostile GGUF files, and the types of tensors."""

import struct

import numpy as np
import pytest
from tiny_gguf import TYPES, packed, quantised, text, write_gguf

from pubswap_jax.weights import gguf, gguf_file


def header(tensors=0, entries=0, body=b"", magic=b"GGUF", version=3):
    return magic + struct.pack("<IQQ", version, tensors, entries) + body


def info(name="token_embd.weight", shape=(16, 40), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


HUGE = 1 << 62
NESTED = struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 4, 0)
FILES = {
    "empty": (b"", "too few"),
    "another magic": (header(magic=b"GGML", body=b"\0" * 8), "does not begin with GGUF"),
    "big-endian or a later version": (header(version=3 << 24, body=b"\0" * 8), "version 50331648 is not read"),
    "the first version": (header(version=1), "version 1 is not read"),
    "a huge number of tensors": (header(tensors=HUGE), "announces 4,611,686,018,427,387,904 tensors"),
    "a huge number of entries": (header(entries=HUGE), "metadata entries, more than"),
    "a huge text": (header(entries=1, body=struct.pack("<Q", HUGE) + b"\0" * 99), "a text of 4,611,686,018,427,387,904 bytes"),
    "a text beyond the end": (header(entries=1, body=struct.pack("<Q", 999) + b"key"), "inside its header"),
    "a huge array": (header(entries=1, body=text("k") + struct.pack("<IIQ", 9, 4, HUGE)), "an array of 4,611,686"),
    "a nested array": (header(entries=1, body=text("k") + NESTED), "an array of the type 9"),
    "an unknown kind of value": (header(entries=1, body=text("k") + struct.pack("<I", 77)), "the unknown type 77"),
    "a key twice": (header(entries=2, body=2 * (text("k") + packed(1))), "'k' occurs twice"),
    "a key that is no text": (header(entries=1, body=struct.pack("<Q", 2) + b"\xff\xfe" + packed(1)), "not UTF-8"),
    "an alignment of 0": (header(entries=1, body=text("general.alignment") + packed(0)), "general.alignment is 0"),
    "an unknown type of tensor": (header(tensors=1, body=info(kind=99)), "unknown type 99"),
    "an offset out of range": (header(tensors=1, body=info(offset=1 << 40) + b"\0" * 4096), "and the file at"),
    "an offset that is not aligned": (header(tensors=1, body=info(offset=5) + b"\0" * 4096), "not aligned"),
    "a tensor twice": (header(tensors=2, body=info() + info(offset=2560) + b"\0" * 9999), "occurs twice"),
    "tensors that overlap": (header(tensors=2, body=info() + info("b", offset=32) + b"\0" * 9999), "overlaps"),
    "a huge shape": (header(tensors=1, body=info(shape=(HUGE, HUGE))), "has the shape"),
    "many dimensions": (header(tensors=1, body=text("t") + struct.pack("<I", 1 << 31)), "2147483648 dimensions"),
    "rows that are no blocks": (header(tensors=1, body=info(kind=8)), "not blocks of 32"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_hostile_file_is_refused_in_one_line(tmp_path, capsys, name):
    content, message = FILES[name]
    (tmp_path / "x.gguf").write_bytes(content)
    assert gguf.main([str(tmp_path / "x.gguf"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and "x.gguf" in said
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


def test_a_file_cut_anywhere_is_refused(tmp_path):
    file = tmp_path / "whole.gguf"
    write_gguf(file, "qwen2")
    content = file.read_bytes()
    for length in [*range(0, 4096, 97), *range(4096, len(content), 2111), len(content) - 1]:
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.gguf: "):
            gguf_file.read_header(tmp_path / "cut.gguf")


def test_the_types_are_those_of_the_package():
    package = pytest.importorskip("gguf")
    sizes = {int(kind): (kind.name, *size) for kind, size in package.GGML_QUANT_SIZES.items()}
    assert {number: sizes[number] for number in gguf_file.TYPES} == gguf_file.TYPES


def test_a_quantised_tensor_by_hand(tmp_path):
    pytest.importorskip("gguf")
    values = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    (tmp_path / "x.gguf").write_bytes(b"12345" + quantised(values))
    found = gguf_file.read(tmp_path / "x.gguf", gguf_file.Tensor("Q8_0", (2, 32), 5))
    np.testing.assert_allclose(found, values, atol=0.5 / 127)
    scale = float(np.float16(1 / 127))
    np.testing.assert_allclose(found[0, 0], -127 * scale, rtol=1e-6)  # -1 is the block's largest value
    assert TYPES["Q8_0"] == 8


def test_a_quantised_file_without_the_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"\0" * 34)
    with pytest.raises(ImportError, match=r"pip install 'pubswap_jax\[gguf\]'"):
        gguf_file.read(tmp_path / "x.gguf", gguf_file.Tensor("Q8_0", (1, 32), 0))
