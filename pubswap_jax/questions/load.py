"""Loads a run's questions: reads, checks and encodes them, then splits them into public, private, validation and test sets."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pubswap_jax.questions import embedded, hub, readers, sources
from pubswap_jax.questions.leakage import near_copies
from pubswap_jax.questions.partition import Split, by_name, draw_iid, split
from pubswap_jax.questions.problem import Problem, drop_unreadable, dropped_line
from pubswap_jax.questions.tokens import Tokenizer, encode_all, left_pad
from pubswap_jax.settings import nearest
from pubswap_jax.types import Prompts
from pubswap_jax.verifier.score import readable

# data.name -> (preset, kind) of the noisy homework in embedded.py.
HOMEWORK = {
    "homework": ("easy", "math"),
    "homework_hard": ("hard", "math"),
    "homework_choice": ("easy", "choice"),
}
HELD_OUT = 10  # random stream for drawing validation and test sets; distinct from the streams in schedule.py


class Questions(NamedTuple):
    """Questions and their prompts; row i of `prompts` is `problems[i]`."""

    problems: list[Problem]
    prompts: Prompts  # numpy [n, P]


class Asked(NamedTuple):
    """The questions of a run, and how the training questions are split."""

    train: Questions  # public and private questions; `split` holds indices into them
    split: Split
    validation: Questions
    test: Questions
    notes: list[str]  # log lines: which questions were left out, and why


def load_questions(config, tokenizer: Tokenizer) -> Asked:
    """Loads, filters, encodes and splits the questions that the config names. All prompts have the same padded length."""
    notes: list[str] = []
    read, valid, test = read_problems(config)
    train, encoded = _usable(read[: config.data.max_questions or None], config, tokenizer, "training", notes)
    if test is None:
        size = config.data.test or _tenth(len(train), notes)
        train, encoded, test, test_encoded = _set_aside(train, encoded, size, config.seed, "data.test", notes)
    else:
        test, test_encoded = _usable(test, config, tokenizer, "test", notes)
        chosen = _draw(test, config.data.test or len(test), config.seed)
        test, test_encoded = [test[i] for i in chosen], [test_encoded[i] for i in chosen]
    train, encoded = _without_copies(train, encoded, test, config, "", notes)
    if valid is None:
        train, encoded, valid, valid_encoded = _set_aside(
            train, encoded, config.data.validation, config.seed, "data.validation", notes
        )
    else:
        valid, valid_encoded = _usable(valid, config, tokenizer, "validation", notes)
    public = config.data.public
    if config.data.public_path:
        shared, ids = _from_elsewhere(config, tokenizer, train, test, notes)
        public = range(len(train), len(train) + len(shared))
        train, encoded = train + shared, encoded + ids
    # `split` calls its held-out questions `test`. Copies of the test set are gone already; here it gets the validation set.
    dealt = split(
        train,
        config.federation.num_clients,
        by_name(config.data.partition, config.data.alpha),
        seed=config.seed,
        public=public,
        test=valid,
    )
    for against, rows in dealt.removed.items():
        if rows:
            name = {"test": "validation"}.get(against, against)
            notes.append(dropped_line([train[i] for i in rows], len(train), f"near copies of {name} questions"))
    if any("near copies" in note for note in notes):
        notes.append("near copies are found by shared wording: a question asked in other words is not seen as a copy")
    if config.data.partition in ("dirichlet", "by_topic") and not any(problem.topic for problem in train):
        kind = config.data.partition
        notes.append(
            f"no question has a topic, so data.partition={kind} deals them like iid: name a column in data.fields.topic"
        )
    longest = max(len(ids) for ids in [*encoded, *valid_encoded, *test_encoded])
    pad = [
        Questions(problems, left_pad(ids, np.arange(len(ids)), longest, tokenizer.pad_id))
        for problems, ids in ((train, encoded), (valid, valid_encoded), (test, test_encoded))
    ]
    return Asked(pad[0], dealt, pad[1], pad[2], notes)


def _from_elsewhere(config, tokenizer, private, test, notes) -> tuple[list[Problem], list[np.ndarray]]:
    """Public questions of data.public_path, without near copies of test questions, and their token ids."""
    fields = sources.Fields.of(config.data.fields.to_dict())
    beside = readers.expand(_paths(config.data.path))
    for file in readers.expand(_paths(config.data.public_path)):
        if any(file.samefile(other) for other in beside):
            raise ValueError(
                f"config.data.public_path: {file} is a file of data.path too; data.public takes a share of that one"
            )
    read = sources.local(_paths(config.data.public_path), fields, beside)
    problems, encoded = _usable(read, config, tokenizer, "public", notes)
    known = {problem.id for problem in private}
    for problem in problems:
        if problem.id in known:
            raise ValueError(
                f"config.data.public_path: {problem.id!r} is the id of a private question too; give it another, "
                f"or set data.fields.id to '' for ids of file and line"
            )
    return _without_copies(problems, encoded, test, config, "public: ", notes)


def _paths(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def read_problems(config) -> tuple[list[Problem], list[Problem] | None, list[Problem] | None]:
    """Training, validation and test questions that the config names. None means: draw that set from the training questions."""
    wanted = config.data
    if wanted.fields and not (wanted.path or wanted.test_path or wanted.public_path):
        raise ValueError("config.data.fields: there is no file whose columns it could name; set config.data.path")
    fields = sources.Fields.of(wanted.fields.to_dict())
    test = sources.local(_paths(wanted.test_path), fields) if wanted.test_path else None
    if wanted.path:
        return sources.local(_paths(wanted.path), fields), None, test
    if wanted.test_name and test is None:
        test = _of_sets(wanted.test_name, "test", "test_name")
    if wanted.name in HOMEWORK:
        preset, kind = HOMEWORK[wanted.name]
        ask = partial(embedded.problems, seed=config.seed, preset=preset, kind=kind)
        train, valid = ask("train", count=wanted.max_questions or None), ask("validation", count=wanted.validation)
        return train, valid, ask("test", count=wanted.test or None) if test is None else test
    train = _of_sets(wanted.name, "train", "name")
    if test is None and all("test" in hub.HUB[name].splits for name in wanted.name.split("+")):
        test = _of_sets(wanted.name, "test", "name")
    return train, None, test


def _of_sets(names: str, split: str, field: str) -> list[Problem]:
    """The questions of several hub sets. `names` joins the names of the sets with +."""
    for name in names.split("+"):
        if name not in hub.HUB:
            raise ValueError(f"config.data.{field}={name}{nearest(name, [*HOMEWORK, *hub.HUB])}")
    return [problem for name in names.split("+") for problem in hub.hub(name, split)]


def _usable(problems, config, tokenizer, what, notes) -> tuple[list[Problem], list[np.ndarray]]:
    """Keeps questions with a readable answer and a prompt that is short enough. Returns the questions and their token ids."""
    kept, dropped = drop_unreadable(problems, readable)
    if dropped:
        notes.append(dropped_line(dropped, len(problems), f"{what}: the verifier cannot read their answers"))
    kept, encoded, long = encode_all(tokenizer, kept, config.data.max_prompt_tokens)
    if long:
        limit = f"longer than data.max_prompt_tokens={config.data.max_prompt_tokens}"
        notes.append(dropped_line(long, len(problems), f"{what}: {limit}"))
    if not kept:
        raise ValueError(f"no {what} question is left of {len(problems)}: {notes[-1]}")
    return kept, encoded


def _tenth(count: int, notes: list[str]) -> int:
    """Size of the test set for data.test=0 without a test file or split: a tenth of the training questions."""
    if count < 10:
        raise ValueError(
            f"config.data.test=0: a tenth of {count} questions is none, and there is no test file or split; "
            f"set data.test to a number below {count}, or data.test_path"
        )
    notes.append(f"data.test=0, and there is no test file or split: a tenth, {count // 10} of {count} questions, is the test")
    return count // 10


def _without_copies(problems, encoded, test, config, lead, notes) -> tuple[list[Problem], list[np.ndarray]]:
    """Removes near copies of test questions. Returns the remaining questions and their token ids."""
    clean = near_copies(problems, test) < 0
    if not clean.any():
        what = "public" if lead else "training"
        field = next((name for name in ("test_path", "test_name") if config.data[name]), "test")
        hint = (
            "; name a file with other questions, or leave it empty to draw the test from data.path"
            if field == "test_path"
            else ""
        )
        raise ValueError(
            f"config.data.{field}={config.data[field]}: all {len(problems)} {what} questions are near copies of test ones, "
            f"and so none is left to train on{hint}"
        )
    if not clean.all():
        notes.append(dropped_line(_where(problems, ~clean), len(problems), f"{lead}near copies of test questions"))
    return _where(problems, clean), _where(encoded, clean)


def _set_aside(
    problems: list, encoded: list, size: int, seed: int, field: str, notes: list[str]
) -> tuple[list, list, list, list]:
    """Draws `size` questions, IID over topics. Returns (rest, token ids of the rest, drawn, token ids of the drawn)."""
    if size >= len(problems):
        lost = "".join(f"; {note}" for note in notes if "left out" in note)
        raise ValueError(f"config.{field}={size}: there are only {len(problems)} questions to take them from{lost}")
    chosen = np.zeros(len(problems), bool)
    chosen[_draw(problems, size, seed)] = True
    return _where(problems, ~chosen), _where(encoded, ~chosen), _where(problems, chosen), _where(encoded, chosen)


def _draw(problems: Sequence[Problem], size: int, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, HELD_OUT))))
    return np.sort(draw_iid(problems, min(size, len(problems)), rng))


def _where(rows: Sequence, kept: np.ndarray) -> list:
    return [row for row, keep in zip(rows, kept, strict=True) if keep]
