"""Questions from Python objects: lists of rows, a datasets.Dataset, a pandas DataFrame."""

from collections.abc import Mapping, Sequence
from typing import Any

from pubswap_jax.questions import sources
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.readers import first_repeated


def rows(questions: Any) -> list[dict]:
    """The rows of a list of dicts, a Dataset or a DataFrame, as dicts."""
    if hasattr(questions, "to_dict") and hasattr(questions, "notna"):  # a DataFrame: its NaN and NA become None
        return questions.astype(object).where(questions.notna(), None).to_dict("records")
    if isinstance(questions, Mapping):
        names = ", ".join(map(str, list(questions)[:6]))
        raise ValueError(f"questions: rows expected, not a mapping of {names}; give one of its splits, or a list of rows")
    if isinstance(questions, str) or not hasattr(questions, "__iter__"):
        raise ValueError(f"questions={questions!r}: a list of rows, a datasets.Dataset or a DataFrame expected")
    found = list(questions)
    for number, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"questions[{number}] is a {type(row).__name__}; a row such as {{'question': …, 'answer': …}} expected"
            )
    return [dict(row) for row in found]


def problems(found: Sequence[Mapping], fields: sources.Fields) -> list[Problem]:
    """Questions of the rows that `rows` returned. A row without an id is named after its position."""
    named = ((f"questions[{number}]", f"row/{number}", row) for number, row in enumerate(found))
    asked = sources.questions(named, fields, "questions")
    repeated = first_repeated(problem.id for problem in asked)
    if repeated:
        raise ValueError(f"questions: two rows have the id {repeated!r}; set data.fields.id to another column, or to ''")
    return asked
