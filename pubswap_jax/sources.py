"""Where questions come from: JSONL, parquet and CSV files of one's own.

A source is a function that returns a list of `Problem`; a generator of questions is one, too. `local`, here, and `hub`,
in hub.py, read rows and take each field of a question from the column that `Fields` names.
"""

import csv
import dataclasses
import itertools
import json
import pathlib
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pubswap_jax.data import Problem, nearest

LETTERS = string.ascii_uppercase


@dataclasses.dataclass(frozen=True)
class Fields:
    """Which column gives which field of a `Problem`; an empty name says that there is none."""

    prompt: str = "question"
    answer: str = "answer"
    id: str = "id"  # without one: the file's name and the line
    topic: str = "topic"
    level: str = "level"
    options: str | Sequence[str] = ""  # one column with a dict or a list, or one column an option; makes it multiple choice
    key: str = ""  # a natural key (a hospital, a school): it leads the id, and the natural partition goes by it
    final: str = "whole"  # where in the answer's column the final answer stands: a name in FINAL
    topic_depth: int = 1  # levels kept of a topic tree "Mathematics -> Algebra -> ..."

    @classmethod
    def of(cls, names: Mapping[str, object]) -> "Fields":
        """From a config's mapping, with a word on a misspelt name."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in known:
                raise ValueError(f"data.fields has no {name!r}{nearest(name, known)}")
        for name, value in names.items():
            several = name == "options" and isinstance(value, list | tuple)
            expected = (int, "a whole number") if name == "topic_depth" else (str, "the name of a column")
            if not all(isinstance(one, expected[0]) for one in (value if several else [value])):
                raise ValueError(f"data.fields.{name} is {value!r}: {expected[1]} expected")
        fields = cls(**names)
        if fields.final not in FINAL:
            raise ValueError(f"data.fields.final is {fields.final!r}{nearest(fields.final, FINAL)}")
        return fields


def last_box(text: str) -> str:
    r"""What the last \boxed{...} of a solution holds, braces balanced; empty where there is none."""
    boxes = list(re.finditer(r"\\f?box(?:ed)?\s*", text))
    if not boxes:
        return ""
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        return text[start : start + 1]  # \boxed 5
    depth = 0
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 1 : end].strip()
    return ""


def after_hashes(text: str) -> str:
    """GSM8K's final number: what follows the last ####, without thousands' commas."""
    _, mark, tail = text.rpartition("####")
    return tail.strip().replace(",", "") if mark else ""


def letter(index: str) -> str:
    """The option's letter, of its number from 0; MedMCQA's -1 (a hidden answer) has none."""
    return LETTERS[int(index)] if index.isdecimal() and int(index) < len(LETTERS) else ""


FINAL = {"whole": str.strip, "box": last_box, "hashes": after_hashes, "index": letter}


def local(paths: str | Sequence[str], fields: Fields | None = None) -> list[Problem]:
    """The questions of JSONL, parquet or CSV files."""
    problems = []
    for path in [paths] if isinstance(paths, str) else paths:
        file = pathlib.Path(path).expanduser()
        if file.suffix not in READERS:
            raise ValueError(f"{path}: not a .jsonl, .parquet or .csv file")
        if not file.is_file():
            raise ValueError(
                f"{path}: no such file; data.path must name the file with the questions, as test_path and public_path theirs"
            )
        rows = ((f"{path}:{line}", f"{file.stem}/{line}", row) for line, row in READERS[file.suffix](file))
        problems += questions(rows, fields or Fields(), str(path))
    repeated = _first_repeated(problem.id for problem in problems)
    if repeated:
        raise ValueError(f"{paths}: two questions have the id {repeated!r}; set data.fields.id to another column, or to ''")
    return problems


def questions(rows: Iterable[tuple[str, str, Mapping]], fields: Fields, source: str) -> list[Problem]:
    """Rows of (place, id where the row has none, columns) as problems; the place leads each message."""
    problems = [_question(place, name, row, fields) for place, name, row in rows]
    if not problems:
        raise ValueError(f"{source}: no questions in it")
    return problems


def _question(place: str, name: str, row: Mapping, fields: Fields) -> Problem:
    def read(field: str) -> str:
        column = getattr(fields, field)
        return _text(_column(place, row, column, field)) if column else ""

    prompt = read("prompt")
    if not prompt:
        raise ValueError(f"{place}: the question in {fields.prompt!r} is empty")
    options = _options(place, row, fields.options) if fields.options else None
    answer = FINAL[fields.final](read("answer"))
    if options is not None and answer not in options:
        raise ValueError(f"{place}: the answer {answer!r} is none of the options {', '.join(options)}")
    name = read("id") or name
    return Problem(
        id=f"{read('key')}/{name}" if fields.key else name,
        prompt=prompt,
        answer=answer,
        topic=_branch(read("topic"), fields.topic_depth),
        level=read("level").removeprefix("Level "),
        kind="math" if options is None else "choice",
        options=options,
    )


def _column(place: str, row: Mapping, column: str, field: str) -> object:
    if column not in row:
        unset = "" if field in ("prompt", "answer", "options") else f", or set data.fields.{field} to '' for none"
        raise ValueError(f"{place}: no column {column!r} for data.fields.{field}{nearest(column, row)}{unset}")
    return row[column]


def _options(place: str, row: Mapping, columns: str | Sequence[str]) -> dict[str, str]:
    if not isinstance(columns, str):
        found = [_column(place, row, column, "options") for column in columns]
    else:
        found = _column(place, row, columns, "options")
    if isinstance(found, Sequence) and not isinstance(found, str):
        found = dict(zip(LETTERS, found, strict=False))
    if not isinstance(found, Mapping):
        raise ValueError(f"{place}: the options in {columns!r} are neither a dict nor a list")
    # Arrow fills the letters that other rows have with None.
    return {letter: _text(text) for letter, text in found.items() if text is not None}


def _branch(topic: str, depth: int) -> str:
    """'Mathematics -> Algebra -> Groups' to its first `depth` levels below the root."""
    levels = topic.split(" -> ")
    return " -> ".join(levels[1 : 1 + depth]) if len(levels) > 1 else topic


def _text(value: object) -> str:
    """A cell as text: 27.0 of a float column is the integer 27."""
    if value is None:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _first_repeated(names: Iterable[str]) -> str | None:
    seen = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _decoded(file: pathlib.Path) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{file}:{number}: not UTF-8: {error.reason}") from None


def jsonl(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    """(line number, row) of a file of JSON objects; a ValueError names the line that is none."""
    for number, line in enumerate(_decoded(file), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}:{number}: not a JSON object: {error.msg}, column {error.colno}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}:{number}: not a JSON object but a {type(row).__name__}")
        yield number, row


def _csv(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    reader = csv.DictReader(_decoded(file), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{file}:{reader.line_num}: the row and the header differ in length")
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.reader.line_num}: not a CSV row: {error}") from None


def _parquet(file: pathlib.Path) -> Iterator[tuple[int, Mapping]]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(file).iter_batches()
        yield from enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches), 1)
    except pyarrow.lib.ArrowException as error:
        raise ValueError(f"{file}: not a readable parquet file: {error}") from None


READERS = {".jsonl": jsonl, ".parquet": _parquet, ".csv": _csv}
