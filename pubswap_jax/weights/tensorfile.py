"""Reads and writes safetensors files in blocks. The format: an 8-byte header length, a JSON header, then the raw data.

The safetensors library is not used. It maps whole files, whose pages count as this process's memory until the file is closed,
and its numpy interface has no bfloat16. This module reads blocks directly into an array of the requested dtype and
orientation, so there is never a second copy of a tensor. Files are untrusted: the whole header is checked before any data is
read.
"""

import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000
_BLOCK_BYTES = 1 << 20


class Entry(NamedTuple):
    """A tensor of a safetensors file: its location, dtype and shape."""

    path: pathlib.Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file


def read_json(path: pathlib.Path, limit: int = 64 << 20) -> dict:
    """The JSON object in a small file. Raises a one-line ValueError if the file is too large or invalid."""
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"{path}: {size:,} bytes are too many for a JSON file of this kind (limit {limit:,})")
    return parse_json(path.read_bytes(), path)


def parse_json(text: bytes, path: pathlib.Path) -> dict:
    """Parses a JSON object. Raises for duplicate keys, NaN and infinity."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); download the file again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object expected, found a {type(value).__name__}")
    return value


def _unique(pairs: list) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def read_metadata(path: pathlib.Path) -> dict:
    """The `__metadata__` of a safetensors file, an object of strings that its writer chose; {} if there is none."""
    found = _json_header(path)[0].get("__metadata__")
    return found if isinstance(found, dict) else {}


def _json_header(path: pathlib.Path) -> tuple[dict, int]:
    """The JSON header of a safetensors file, and its length in bytes."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_LONGEST_HEADER, path.stat().st_size - 8):
            raise ValueError(f"{path}: not a safetensors file, or a truncated one; download the file again")
        return parse_json(file.read(length), path), length


def read_header(path: pathlib.Path) -> dict[str, Entry]:
    """All tensors of a safetensors file. Raises unless the tensors fill the file exactly, without holes or overlaps."""
    size = path.stat().st_size
    header, length = _json_header(path)
    header.pop("__metadata__", None)
    entries, spans = {}, []
    for name, fields in header.items():
        dtype, shape, (begin, end) = _checked_fields(path, name, fields)
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{path}: tensor {name!r} has {end - begin} bytes, which is not its shape's size; download the file again"
            )
        entries[name] = Entry(path, dtype, shape, 8 + length + begin)
        spans.append((begin, end))
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or 8 + length + ends[-1] != size:
        raise ValueError(f"{path}: the tensors do not fill the file exactly (truncated or altered); download the file again")
    return entries


def _checked_fields(path, name, fields) -> tuple[np.dtype, tuple[int, ...], list[int]]:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{path}: tensor {name!r} needs dtype, shape and data_offsets; download the file again")
    if not isinstance(fields["dtype"], str) or fields["dtype"] not in DTYPES:
        raise ValueError(
            f"{path}: tensor {name!r} is stored as {fields['dtype']}; only {', '.join(DTYPES)} are read, not quantised files"
        )
    for key in ("shape", "data_offsets"):
        numbers = fields[key]
        if not isinstance(numbers, list) or len(numbers) > 8 or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
            raise ValueError(f"{path}: tensor {name!r} has {key} {numbers!r}; download the file again")
    if len(fields["data_offsets"]) != 2:
        raise ValueError(f"{path}: tensor {name!r} has data_offsets {fields['data_offsets']!r}; download the file again")
    return DTYPES[fields["dtype"]], tuple(fields["shape"]), fields["data_offsets"]


def blocks(entry: Entry) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows, values) for consecutive blocks of whole rows, about 1 MiB each."""
    row = math.prod(entry.shape[1:])
    step = max(1, _BLOCK_BYTES // max(1, row * entry.dtype.itemsize))
    with open(entry.path, "rb") as file:
        file.seek(entry.offset)
        for start in range(0, entry.shape[0], step):
            stop = min(start + step, entry.shape[0])
            block = np.fromfile(file, entry.dtype, (stop - start) * row)
            yield slice(start, stop), block.reshape(stop - start, *entry.shape[1:])


def read(entry: Entry, dtype: np.dtype | None = None, transpose: bool = False) -> np.ndarray:
    """Reads a tensor. Casts and transposes block by block, so that no second copy of the tensor is made."""
    out = np.empty(entry.shape[::-1] if transpose else entry.shape, dtype or entry.dtype)
    rows = out.T if transpose else out
    for where, block in blocks(entry):
        rows[where] = block
    return out


def write(
    path: pathlib.Path,
    specs: dict[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Iterator[np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes tensors one at a time, in the order of `specs`. Returns after fsync."""
    # Hugging Face's readers require `format` and ignore all other metadata.
    header, end = {"__metadata__": {"format": "pt"} | (metadata or {})}, 0
    for name, (shape, dtype) in specs.items():
        begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _CODES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, (shape, dtype)), tensor in zip(specs.items(), tensors, strict=True):
            if tensor.shape != tuple(shape) or tensor.dtype != dtype:
                raise ValueError(f"{path}: tensor {name!r} is {tensor.dtype}{tensor.shape}, announced as {dtype}{tuple(shape)}")
            np.ascontiguousarray(tensor).tofile(file)
        sync(file)


def write_json(path: pathlib.Path, value: dict) -> None:
    """Writes an indented JSON file. Returns after fsync."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
        sync(file)


def sync(file) -> None:
    """Flushes and fsyncs an open file."""
    file.flush()
    os.fsync(file.fileno())
