"""Reads questions from the user's JSONL, JSON, CSV, TSV and parquet files.

A source is a function that returns `list[Problem]`. `local` (here) and `hub` (hub.py) read rows. `Fields` maps the columns of
a row to the fields of a `Problem`.
"""

import ast
import dataclasses
import json
import os
import pathlib
import re
import string
from collections.abc import Iterable, Mapping, Sequence

from pubswap_jax.questions import readers
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.readers import first_repeated
from pubswap_jax.questions.readers import jsonl as jsonl
from pubswap_jax.settings import nearest

LETTERS = string.ascii_uppercase


# Texts that mean "no answer", as programs write missing values to CSV files.
MISSING = {"nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "#N/A"}


@dataclasses.dataclass(frozen=True)
class Fields:
    """Which column of a question file holds which field of a `Problem`. An empty name means that there is no such column.

    A name may list alternatives for files with different columns: "question|prompt" takes the first of the two columns that
    is present and not empty in a row. An empty alternative, as in "topic|", allows files without the column.
    """

    prompt: str = "question"
    answer: str = "answer"
    id: str = "id|"  # without an id, the file's name and the line number
    topic: str = "topic|"
    level: str = "level|"
    options: str | Sequence[str] = ""  # a column with a dict or list, or one column per option; makes questions multiple choice
    key: str = ""  # column of a natural key (a hospital, a school): prefixes the id; partition 'natural' groups by it
    final: str = "whole"  # how to extract the final answer from the answer column: a name in FINAL; "box|whole" tries both
    topic_depth: int = 1  # levels kept below the root of a topic path "Mathematics -> Algebra -> ..."

    @classmethod
    def of(cls, names: Mapping[str, object]) -> "Fields":
        """Builds `Fields` from a config's mapping. Raises for unknown names and wrong types."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in names:
            if name not in known:
                raise ValueError(f"data.fields has no {name!r}{nearest(name, known, write=repr)}")
        for name, value in names.items():
            several = name == "options" and isinstance(value, list | tuple)
            expected = (int, "a whole number") if name == "topic_depth" else (str, "the name of a column")
            if not all(isinstance(one, expected[0]) for one in (value if several else [value])):
                raise ValueError(f"data.fields.{name} is {value!r}: {expected[1]} expected")
            if name in ("prompt", "answer") and not value.strip():
                raise ValueError(
                    f"data.fields.{name} is {value!r}: every question needs one, so the name of a column is expected"
                )
        fields = cls(**names)
        for final in fields.final.split("|"):
            if final not in FINAL:
                raise ValueError(f"data.fields.final is {fields.final!r}{nearest(final, FINAL, write=repr)}")
        return fields


def last_box(text: str) -> str:
    r"""Content of the last \boxed{...} in a solution, with balanced braces; '' without a box."""
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
    """GSM8K's final answer: the text after the last ####, without commas. Returns '' if there is no ####."""
    _, mark, tail = text.rpartition("####")
    return tail.strip().replace(",", "") if mark else ""


def letter(index: str) -> str:
    """Letter of an option, given its number from 0. Other texts, such as MedMCQA's -1 for a hidden answer, give ''."""
    return LETTERS[int(index)] if index.isdecimal() and int(index) < len(LETTERS) else ""


FINAL = {"whole": str.strip, "box": last_box, "hashes": after_hashes, "index": letter}


def examples(path: str) -> list[tuple[str, str]]:
    """(question, answer) of each row of a file of examples: texts in the columns `question` and `answer`."""
    files = readers.expand(path)
    if len(files) != 1:
        raise ValueError(f"config.model.examples={path}: one file expected, got {len(files)}")
    (file,) = files
    rows = [(f"{file}:{line}", row) for line, row in readers.read(file)]
    found = [tuple(_text(place, name, _cell(place, row, name, name)) for name in ("question", "answer")) for place, row in rows]
    if not found or not all(question and answer for question, answer in found):
        raise ValueError(f"config.model.examples: {file}: every row needs a question and an answer")
    return found


def local(
    paths: str | os.PathLike | Sequence[str | os.PathLike], fields: Fields | None = None, beside: Sequence[pathlib.Path] = ()
) -> list[Problem]:
    """Questions from files. A row without an id is named after its file and line, distinct from ids of files in `beside`."""
    files = readers.expand(paths)
    if not files:
        raise ValueError(f"{paths!r} names no file of questions")
    parts = []
    for file, name in zip(files, readers.names(files, beside), strict=True):
        rows = ((f"{file}:{line}", f"{name}/{line}", row) for line, row in readers.read(file))
        parts.append(questions(rows, fields or Fields(), str(file)))
    problems = [problem for part in parts for problem in part]
    repeated = first_repeated(problem.id for problem in problems)
    if repeated:
        where = [str(file) for file, part in zip(files, parts, strict=True) if any(p.id == repeated for p in part)]
        raise ValueError(
            f"{' and '.join(where)}: two questions have the id {repeated!r}; set data.fields.id to another column, "
            f"or to '' for ids of file and line"
        )
    return problems


def questions(rows: Iterable[tuple[str, str, Mapping]], fields: Fields, source: str) -> list[Problem]:
    """Converts rows (place, default id, columns) to problems. Error messages start with the place."""
    problems = [_question(place, name, row, fields) for place, name, row in rows]
    if not problems:
        raise ValueError(f"{source}: no questions in it")
    return problems


def _question(place: str, name: str, row: Mapping, fields: Fields) -> Problem:
    def read(field: str) -> str:
        column = getattr(fields, field)
        return _text(place, column, _cell(place, row, column, field))

    prompt = read("prompt")
    if not prompt:
        raise ValueError(f"{place}: the question in {fields.prompt!r} is empty")
    answer = _final(fields.final, read("answer"))
    options = _options(place, row, fields.options) if fields.options else None
    if options is not None:
        options = _filled(place, options, answer)
    elif answer in MISSING:
        answer = ""
    name = read("id") or name
    return Problem(
        id=f"{read('key')}/{name}" if fields.key else name,
        prompt=prompt,
        answer=answer,
        topic=_branch(read("topic"), fields.topic_depth),
        level=read("level").removeprefix("Level "),
        kind="math" if options is None else "choice",
        options=options,
        columns=row,
    )


def _cell(place: str, row: Mapping, columns: str, field: str) -> object:
    """First non-empty cell among the alternatives in `columns`. None if all are empty, or if no column is required."""
    names = [columns] if columns in row else [name.strip() for name in columns.split("|")]
    present = [name for name in names if name in row]
    if not present and "" not in names:
        unset = "" if field in ("prompt", "answer", "options") else f", or set data.fields.{field} to '' for none"
        wanted = " or ".join(map(repr, names))
        raise ValueError(f"{place}: no column {wanted} for data.fields.{field}{nearest(names[0], row, write=repr)}{unset}")
    return next((row[name] for name in present if not _missing(row[name])), None)


def _final(names: str, text: str) -> str:
    """Final answer in `text`: tries the FINAL functions in `names` in order and returns the first non-empty result, else ''."""
    return next(filter(None, (FINAL[name](text) for name in names.split("|"))), "")


def _options(place: str, row: Mapping, columns: str | Sequence[str]) -> dict[str, str]:
    """key -> text of every option of a row. Empty options have the text ''."""
    if isinstance(columns, str):
        found = _cell(place, row, columns, "options")
        found = _parsed(found) if isinstance(found, str) else found
    else:
        found = [_cell(place, row, column, "options") for column in columns]
    if isinstance(found, list | tuple):
        _check_letters(place, len(found))
        found = dict(zip(LETTERS, found, strict=False))
    if not isinstance(found, Mapping):
        raise ValueError(f"{place}: the options in {columns!r} are neither a dict nor a list, nor the text of one")
    return {str(key).strip(): _text(place, columns, text) for key, text in found.items()}


def _parsed(text: str) -> object:
    """A cell's text read as JSON or as a Python literal; None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        # A list with fewer than two items is refused: NumPy prints ['x' 'y'] without a comma, and Python reads ['xy'].
        return None if isinstance(found, list | tuple) and len(found) < 2 else found
    return None


def _filled(place: str, options: Mapping[str, str], answer: str) -> dict[str, str]:
    """The non-empty options. Raises unless the answer is the key of one of them."""
    filled = {key: text for key, text in options.items() if text}
    _check_letters(place, len(filled))
    if answer in filled:
        return filled
    if not answer:
        raise ValueError(f"{place}: the answer is missing; a question with options needs the key of the right one")
    if answer in options:
        raise ValueError(f"{place}: the answer is {answer!r}, and that option is empty")
    texts = [key for key, text in filled.items() if text == answer]
    hint = "; set data.fields.final to 'index' if it counts the options from 0" if answer.isdecimal() else ""
    hint = f"; it is the text of {texts[0]!r}, and the key is expected" if texts else hint
    raise ValueError(f"{place}: the answer {answer!r} is none of the options {', '.join(filled)}{hint}")


def _check_letters(place: str, count: int) -> None:
    if count > len(LETTERS):
        raise ValueError(f"{place}: {count} options; a question may have {len(LETTERS)} at most, one a letter")


def _branch(topic: str, depth: int) -> str:
    """The first `depth` levels below the root of a topic path such as 'Mathematics -> Algebra -> Groups'."""
    levels = topic.split(" -> ")
    return " -> ".join(levels[1 : 1 + depth]) if len(levels) > 1 else topic


def _missing(value: object) -> bool:
    return value is None or value == "" or value != value  # only NaN differs from itself


def _text(place: str, column: object, value: object) -> str:
    """A cell as text. A whole number in a float column loses its '.0'; NaN counts as an empty cell."""
    if _missing(value):
        return ""
    if isinstance(value, Mapping | list | tuple | bytes):
        raise ValueError(f"{place}: {column!r} holds a {type(value).__name__}, where a text or a number is expected")
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{place}: {column!r} holds half of a surrogate pair, which is no character")
    return text
