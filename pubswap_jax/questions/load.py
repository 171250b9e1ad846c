"""Loads a run's questions: reads, checks and encodes them, then splits them into public, private, validation and test sets."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from pubswap_jax.questions import embedded, generators, hub, memory, readers, sources
from pubswap_jax.questions.partition import Partition, Split, split
from pubswap_jax.questions.pile import Pile, Row, draw, padded, problems_of, set_aside, usable, without_copies
from pubswap_jax.questions.pile import Questions as Questions
from pubswap_jax.questions.problem import Problem, dropped_line
from pubswap_jax.questions.tokens import Tokenizer
from pubswap_jax.settings import nearest

# data.name -> (preset, kind) of the noisy homework in embedded.py.
HOMEWORK = {
    "homework": ("easy", "math"),
    "homework_hard": ("hard", "math"),
    "homework_choice": ("easy", "choice"),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Settings of a run's questions: which ones to load and how to split them.

    Fields have the names of the config's section `data`.
    """

    seed: int
    num_clients: int
    name: str
    path: str
    test_path: str
    test_name: str
    public_path: str
    fields: Mapping[str, Any]
    max_prompt_tokens: int
    max_questions: int
    test: int
    validation: int
    public: float
    partition: str
    partitioned: Partition  # the function that `partition` names
    rows: Sequence[Mapping] | None = None  # the questions themselves, instead of `name` and `path`
    verified: bool = True  # the verifier decides; False: own rewards do, so that its limits leave no question out


class Asked(NamedTuple):
    """The questions of a run after loading: training, validation and test, and the split of the training questions."""

    train: Questions  # public and private questions; `split` holds indices into them
    split: Split
    validation: Questions
    test: Questions
    notes: list[str]  # log lines: which questions were left out, and why


class Parts(NamedTuple):
    """Questions before the split over clients: those of training, and those of validation and test, which are held out."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    notes: list[str]


def load_questions(wanted: Wanted, tokenizer: Tokenizer) -> Asked:
    """Loads, filters, encodes and splits the questions. All prompts have the same padded length."""
    train, validation, test, notes = _held_out(wanted, tokenizer)
    public: float | range = wanted.public
    if wanted.public_path:
        shared = _from_elsewhere(wanted, tokenizer, train, test)
        public = range(len(train), len(train) + len(shared.rows))
        train, notes = train + shared.rows, notes + shared.notes
    problems = problems_of(train)
    # `split` calls its held-out questions `test`. Copies of the test set are gone already; here it gets the validation set.
    dealt = split(
        problems,
        wanted.num_clients,
        wanted.partitioned,
        seed=wanted.seed,
        public=public,
        test=problems_of(validation),
    )
    notes = notes + _copies_found(dealt, problems)
    if any("near copies" in note for note in notes):
        notes.append("near copies are found by shared wording: a question asked in other words is not seen as a copy")
    if wanted.partition in ("dirichlet", "by_topic") and not any(problem.topic for problem in problems):
        kind = wanted.partition
        notes.append(
            f"no question has a topic, so data.partition={kind} deals them like iid: name a column in data.fields.topic"
        )
    longest = max(len(row.ids) for row in [*train, *validation, *test])
    train, validation, test = (padded(rows, tokenizer, longest) for rows in (train, validation, test))
    return Asked(train, dealt, validation, test, notes)


def _held_out(wanted: Wanted, tokenizer: Tokenizer) -> Parts:
    """Loads and filters the questions, and holds out validation and test.

    Sets without questions of their own are drawn from training.
    """
    read, own_validation, own_test = read_problems(wanted)
    train, notes = usable(
        read[: wanted.max_questions or None], tokenizer, wanted.max_prompt_tokens, "training", wanted.verified
    )
    if own_test is None:
        size = wanted.test or _tenth(len(train))
        if not wanted.test:
            what = f"a tenth, {size} of {len(train)} questions, is the test"
            notes = [*notes, f"data.test=0, and there is no test file or split: {what}"]
        train, test = set_aside(train, size, wanted.seed, "data.test", notes)
    else:
        kept = usable(own_test, tokenizer, wanted.max_prompt_tokens, "test", wanted.verified)
        test = [kept.rows[i] for i in draw(kept.rows, wanted.test or len(kept.rows), wanted.seed)]
        notes = notes + kept.notes
    clean = without_copies(train, test)
    _check_left(clean, len(train), "training", wanted)
    notes = notes + clean.notes
    if own_validation is None:
        train, validation = set_aside(clean.rows, wanted.validation, wanted.seed, "data.validation", notes)
        return Parts(train, validation, test, notes)
    kept = usable(own_validation, tokenizer, wanted.max_prompt_tokens, "validation", wanted.verified)
    return Parts(clean.rows, kept.rows, test, notes + kept.notes)


def _from_elsewhere(wanted: Wanted, tokenizer: Tokenizer, private: Sequence[Row], test: Sequence[Row]) -> Pile:
    """The public questions from the files of data.public_path, without near copies of test questions."""
    beside = readers.expand(_paths(wanted.path))
    for file in readers.expand(_paths(wanted.public_path)):
        if any(file.samefile(other) for other in beside):
            raise ValueError(
                f"config.data.public_path: {file} is a file of data.path too; data.public takes a share of that one"
            )
    read = sources.local(_paths(wanted.public_path), sources.Fields.of(wanted.fields), beside)
    kept = usable(read, tokenizer, wanted.max_prompt_tokens, "public", wanted.verified)
    known = {row.problem.id for row in private}
    for row in kept.rows:
        if row.problem.id in known:
            raise ValueError(
                f"config.data.public_path: {row.problem.id!r} is the id of a private question too; give it another, "
                f"or set data.fields.id to '' for ids of file and line"
            )
    clean = without_copies(kept.rows, test, "public: ")
    _check_left(clean, len(kept.rows), "public", wanted)
    return Pile(clean.rows, kept.notes + clean.notes)


def _copies_found(dealt: Split, problems: Sequence[Problem]) -> list[str]:
    """Log lines about the near copies that `split` removed."""
    lines = []
    for against, rows in dealt.removed.items():
        if rows:
            name = {"test": "validation"}.get(against, against)
            lines.append(dropped_line([problems[i] for i in rows], len(problems), f"near copies of {name} questions"))
    return lines


def _paths(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def read_problems(wanted: Wanted) -> tuple[list[Problem], list[Problem] | None, list[Problem] | None]:
    """Training, validation and test questions. None means: draw that set from the training questions."""
    named = f"{wanted.name}+{wanted.test_name}".split("+")
    of_columns = wanted.rows is not None or wanted.path or wanted.test_path or wanted.public_path
    if wanted.fields and not of_columns and not any(name.startswith(hub.PREFIX) for name in named):
        raise ValueError("config.data.fields: there is no file whose columns it could name; set config.data.path")
    fields = sources.Fields.of(wanted.fields)
    test = sources.local(_paths(wanted.test_path), fields) if wanted.test_path else None
    if wanted.rows is not None:
        return memory.problems(wanted.rows, fields), None, test
    if wanted.path:
        return sources.local(_paths(wanted.path), fields), None, test
    if wanted.test_name and test is None:
        test = _of_sets(wanted.test_name, "test", "test_name", fields)
    if wanted.name.startswith(generators.PREFIX):
        return generators.problems(wanted.name, wanted.max_questions, wanted.seed), None, test
    if wanted.name in HOMEWORK:
        preset, kind = HOMEWORK[wanted.name]
        ask = partial(embedded.problems, seed=wanted.seed, preset=preset, kind=kind)
        train, valid = ask("train", count=wanted.max_questions or None), ask("validation", count=wanted.validation)
        return train, valid, ask("test", count=wanted.test or None) if test is None else test
    train = _of_sets(wanted.name, "train", "name", fields)
    if test is None and all("test" in hub.splits(name) for name in wanted.name.split("+")):
        test = _of_sets(wanted.name, "test", "name", fields)
    return train, None, test


def _of_sets(names: str, split: str, field: str, fields: sources.Fields) -> list[Problem]:
    """The questions of several hub sets. `names` joins the names of the sets with +."""
    for name in names.split("+"):
        if name not in hub.HUB and not name.startswith(hub.PREFIX):
            known = nearest(name, [*HOMEWORK, *hub.HUB])
            hint = f"; write {hub.PREFIX}{name}@REVISION for a set on the hub" if "/" in name else known
            raise ValueError(f"config.data.{field}={name}{hint}")
    found = [problem for name in names.split("+") for problem in hub.hub(name, split, fields)]
    repeated = readers.first_repeated(problem.id for problem in found)
    if repeated:
        raise ValueError(
            f"config.data.{field}={names}: two questions have the id {repeated!r}; set data.fields.id to another column"
        )
    return found


def _tenth(count: int) -> int:
    """Size of the test set for data.test=0 without a test file or split: a tenth of the training questions."""
    if count < 10:
        raise ValueError(
            f"config.data.test=0: a tenth of {count} questions is none, and there is no test file or split; "
            f"set data.test to a number below {count}, or data.test_path"
        )
    return count // 10


def _check_left(clean: Pile, count: int, what: str, wanted: Wanted) -> None:
    """Raises if all `count` questions were near copies of test questions."""
    if clean.rows:
        return
    given = {"test_path": wanted.test_path, "test_name": wanted.test_name, "test": wanted.test}
    field = next(name for name, value in given.items() if value or name == "test")
    elsewhere = "; name a file with other questions, or leave it empty to draw the test from data.path"
    raise ValueError(
        f"config.data.{field}={given[field]}: all {count} {what} questions are near copies of test ones, "
        f"and so none is left to train on{elsewhere if field == 'test_path' else ''}"
    )
