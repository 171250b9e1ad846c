"""Reads GGUF files: the metadata, the list of tensors, and one tensor at a time as float32.

Format, all little-endian: the magic "GGUF", a version, the number of tensors, the number of metadata entries, the entries, the
list of tensors, then the tensors' data from the next multiple of `general.alignment`. Files are untrusted: every count is
compared with the bytes that are left before anything is read, and every tensor must lie inside the file.
Quantised tensors are dequantised by the package `gguf` (extra `gguf`).
"""

import mmap
import pathlib
import struct
from typing import NamedTuple

import ml_dtypes
import numpy as np

# Number of a tensor type -> (its name, values a block, bytes a block). The types without a dequantiser are left out.
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
PLAIN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9
_MOST_ENTRIES, _MOST_STRINGS, _LONGEST_STRING = 1 << 16, 1 << 21, 1 << 24
_BLOCK = 1 << 21  # values that are dequantised at a time


class Tensor(NamedTuple):
    """Type, shape and place of a tensor in a GGUF file. The shape is NumPy's order: [out, in] for a matrix."""

    kind: str
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file


class _Cursor:
    """Reads a file's header from front to back. Raises a one-line ValueError instead of reading past the end."""

    def __init__(self, path: pathlib.Path, data: mmap.mmap):
        self.path, self.data, self.at, self.strings = path, data, 0, 0

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: {what}; download the file again")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.wrong(f"not a whole GGUF file: it ends at byte {len(self.data):,}, inside its header")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str) -> int:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        size = self.number("<Q")
        self.strings += 1
        if size > _LONGEST_STRING or self.strings > _MOST_STRINGS:
            raise self.wrong(f"its metadata has a text of {size:,} bytes, or more than {_MOST_STRINGS:,} texts")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise self.wrong("a text of its metadata is not UTF-8") from None

    def value(self, kind: int):
        """Reads the next metadata value, of the type that `kind` numbers: a number, bool, str, list of str or NumPy array."""
        if kind in _NUMBERS:
            return np.frombuffer(self.take(np.dtype(_NUMBERS[kind]).itemsize), _NUMBERS[kind])[0].item()
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise self.wrong(f"its metadata has a value of the unknown type {kind}")
        inner, count = self.number("<I"), self.number("<Q")
        if inner not in _NUMBERS and inner != _STRING:
            raise self.wrong(f"its metadata has an array of the type {inner}, which is not read")
        size = 8 if inner == _STRING else np.dtype(_NUMBERS[inner]).itemsize
        if count > (len(self.data) - self.at) // size:
            raise self.wrong(f"its metadata has an array of {count:,} values, more than the file can hold")
        if inner == _STRING:
            return [self.text() for _ in range(count)]
        return np.frombuffer(self.take(count * size), _NUMBERS[inner])


def read_header(path: pathlib.Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Reads the metadata of a GGUF file and the list of its tensors, by name."""
    size = path.stat().st_size
    if size < 24:
        raise ValueError(f"{path}: not a GGUF file: {size} bytes are too few; download the file again")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _header(_Cursor(path, data))


def _header(cursor: _Cursor) -> tuple[dict[str, object], dict[str, Tensor]]:
    if cursor.take(4) != b"GGUF":
        raise cursor.wrong("not a GGUF file: it does not begin with GGUF")
    version = cursor.number("<I")
    if version not in (2, 3):
        raise ValueError(f"{cursor.path}: GGUF version {version} is not read; versions 2 and 3 are (little-endian)")
    tensors, entries = cursor.number("<Q"), cursor.number("<Q")
    if max(tensors, entries) > _MOST_ENTRIES:
        raise cursor.wrong(f"it announces {tensors:,} tensors and {entries:,} metadata entries, more than {_MOST_ENTRIES:,}")
    fields: dict[str, object] = {}
    for _ in range(entries):
        key = cursor.text()
        if key in fields:
            raise cursor.wrong(f"the metadata key {key!r:.80} occurs twice")
        fields[key] = cursor.value(cursor.number("<I"))
    found = [_tensor(cursor) for _ in range(tensors)]
    alignment = fields.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
        raise cursor.wrong(f"general.alignment is {alignment!r:.80}, not a power of two")
    return fields, _placed(cursor, found, -(-cursor.at // alignment) * alignment, alignment)


def _tensor(cursor: _Cursor) -> tuple[str, Tensor]:
    name, dimensions = cursor.text(), cursor.number("<I")
    if not 1 <= dimensions <= 2:
        raise cursor.wrong(f"tensor {name!r:.80} has {dimensions} dimensions; a model of these architectures has 1 or 2")
    shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
    if not all(1 <= width <= 1 << 24 for width in shape):
        raise cursor.wrong(f"tensor {name!r:.80} has the shape {shape}")
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    if kind not in TYPES:
        raise ValueError(f"{cursor.path}: tensor {name!r:.80} has the unknown type {kind}; take another quantisation")
    name_of_kind, block, _ = TYPES[kind]
    if shape[-1] % block:
        raise cursor.wrong(f"tensor {name!r:.80} is {name_of_kind}, and its rows of {shape[-1]} are not blocks of {block}")
    return name, Tensor(name_of_kind, shape, offset)


def _placed(cursor: _Cursor, found: list[tuple[str, Tensor]], start: int, alignment: int) -> dict[str, Tensor]:
    """The tensors with offsets from the file's beginning. Raises for a tensor that is unaligned, overlaps or lies outside."""
    end, tensors = start, {}
    for name, tensor in sorted(found, key=lambda item: item[1].offset):
        offset = start + tensor.offset
        if offset % alignment or offset < end:
            raise cursor.wrong(f"tensor {name!r:.80} overlaps another one, or its offset {tensor.offset:,} is not aligned")
        end = offset + _bytes(tensor)
        if end > len(cursor.data):
            raise cursor.wrong(f"tensor {name!r:.80} ends at byte {end:,}, and the file at {len(cursor.data):,}")
        if name in tensors:
            raise cursor.wrong(f"tensor {name!r:.80} occurs twice")
        tensors[name] = tensor._replace(offset=offset)
    return tensors


def _bytes(tensor: Tensor) -> int:
    _, block, size = _BY_NAME[tensor.kind]
    return tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1) // block * size


_BY_NAME = {name: (number, block, size) for number, (name, block, size) in TYPES.items()}


def read(path: pathlib.Path, tensor: Tensor) -> np.ndarray:
    """Reads one tensor of a GGUF file: in its own dtype for F32, F16 and BF16, else as float32."""
    raw = np.memmap(path, np.uint8, "r", tensor.offset, (_bytes(tensor),))
    if tensor.kind in PLAIN:
        return np.array(raw.view(PLAIN[tensor.kind])).reshape(tensor.shape)
    dequantise, number = _dequantiser(path, tensor.kind)
    out = np.empty(tensor.shape, np.float32)
    rows = out.reshape(-1, tensor.shape[-1])
    packed = raw.reshape(len(rows), -1)
    step = max(1, _BLOCK // tensor.shape[-1])
    for start in range(0, len(rows), step):
        rows[start : start + step] = dequantise(np.ascontiguousarray(packed[start : start + step]), number)
    return out


def _dequantiser(path: pathlib.Path, kind: str):
    try:
        import gguf
    except ImportError:
        raise ImportError(
            f"{path}: its tensors are quantised ({kind}), and the package gguf is missing: pip install 'pubswap_jax[gguf]'"
        ) from None
    return gguf.dequantize, gguf.GGMLQuantizationType[kind]
