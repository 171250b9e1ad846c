"""Readers of JSON lines, JSON, CSV, TSV and parquet files. Text formats may be compressed with gzip.

A reader yields (number, row). The number is the line of a JSONL or CSV row, or the position, from 1, of a JSON or parquet row.
Every defect of a file raises a one-line ValueError that names the file and, for a bad row, its number.
"""

import csv
import glob
import gzip
import itertools
import json
import os
import pathlib
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence


def expand(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[pathlib.Path]:
    """Expands patterns such as data/*.jsonl to the matching files. Each file must exist and have a known format."""
    files = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        file = pathlib.Path(path).expanduser()
        matches = sorted(glob.glob(str(file), recursive=True)) if set(str(path)) & set("*?[") and not file.exists() else []
        files += map(pathlib.Path, matches) if matches else [file]
    for file in files:
        if file.is_dir():
            raise ValueError(f"{file}: a folder; name the files in it, as in {file}/*.jsonl")
        if not suffix(file):
            endings = ", ".join(READERS)
            raise ValueError(f"{file}: not a file of {endings}; .gz may follow all but .parquet")
        if not file.is_file():
            raise ValueError(
                f"{file}: no such file; data.path must name the file with the questions, as test_path and public_path theirs"
            )
    twice = first_repeated(map(os.path.abspath, files))
    if twice:
        raise ValueError(f"{twice}: the file is named twice")
    return files


def names(files: Sequence[pathlib.Path], beside: Sequence[pathlib.Path]) -> list[str]:
    """The id prefix of each file's rows: the shortest end of the path that distinguishes it from all other files."""
    paths = [pathlib.Path(os.path.abspath(file)) for file in (*files, *beside)]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        for last in (stem, lambda path: path.name):
            ends = ["/".join([*path.parts[-depth:-1], last(path)]) for path in paths]
            if len(set(ends)) == len(ends):
                return ends[: len(files)]
    raise ValueError(f"{files[0]}: the file is named twice")


def first_repeated(names: Iterable[str]) -> str | None:
    seen = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def suffix(file: pathlib.Path) -> str:
    """The key in `READERS` that a file's name ends with, or '' for an unknown format."""
    name = file.name.lower()
    text = name.removesuffix(".gz")
    found = next((ending for ending in READERS if text.endswith(ending)), "")
    return "" if found == ".parquet" and text != name else found


def stem(file: pathlib.Path) -> str:
    """A file's name without its format suffixes, such as 'train' for train.jsonl.gz."""
    name = file.name[:-3] if file.name.lower().endswith(".gz") else file.name
    return name[: len(name) - len(suffix(file))]


def read(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    """Reads the rows of a file, in the format that its `suffix` says; the file's format must be known."""
    return READERS[suffix(file)](file)


def jsonl(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    """Reads a file with one JSON object per line: yields (line number, row)."""
    for number, line in enumerate(_decoded(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            raise ValueError(f"{file}:{number}: not a JSON object that can be read: it is nested too deeply") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number}: not a JSON object: {error.msg}, column {error.colno}") from None
        yield number, _object(file, number, row)


def _object(file: pathlib.Path, number: int, row: object) -> Mapping:
    if not isinstance(row, dict):
        raise ValueError(f"{file}:{number}: not a JSON object but a {type(row).__name__}")
    return row


def _json(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    """Rows of a JSON list, of {"data": [rows]}, or of JSON lines, which are often named .json."""
    try:
        found = json.loads("".join(_decoded(file)))
    except RecursionError:
        raise ValueError(f"{file}: not JSON that can be read: its lists are nested too deeply") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            yield from jsonl(file)
            return
        raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}, column {error.colno}") from None
    rows = found.get("data") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        raise ValueError(f'{file}: neither a list of rows, nor {{"data": [rows]}}, nor several lines of JSON objects')
    for number, row in enumerate(rows, 1):
        yield number, _object(file, number, row)


def _csv(file: pathlib.Path, delimiter: str = ",") -> Iterator[tuple[int, Mapping]]:
    reader = csv.DictReader(_decoded(file), delimiter=delimiter, strict=True)
    try:
        repeated = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if repeated:
            raise ValueError(f"{file}:1: two columns have the name {repeated[0]!r}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{file}:{reader.line_num}: the row and the header differ in length")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.reader.line_num}: not a CSV row: {error}") from None


def _tsv(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    return _csv(file, "\t")


def _parquet(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        batches = map(_doubles, pyarrow.parquet.ParquetFile(file).iter_batches())
        yield from enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches), 1)
    except pyarrow.lib.ArrowException as error:
        raise ValueError(f"{file}: not a readable parquet file: {error}") from None


def _doubles(batch):
    """Converts float32 columns to float64 through their decimal text: 0.1 stays 0.1. A plain cast gives 0.10000000149."""
    import pyarrow

    for i, field in enumerate(batch.schema):
        if field.type == pyarrow.float32():
            batch = batch.set_column(i, field.name, batch.column(i).cast(pyarrow.string()).cast(pyarrow.float64()))
    return batch


def _decoded(file: pathlib.Path) -> Iterator[str]:
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}:{number}: not UTF-8: {error.reason}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: not a readable gzip file: {error}") from None


READERS = {".jsonl": jsonl, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
