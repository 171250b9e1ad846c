"""Questions with the token ids of their prompts: which ones a run can ask, and drawing a part of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pubswap_jax.questions.leakage import near_copies
from pubswap_jax.questions.partition import draw_iid
from pubswap_jax.questions.problem import Problem, drop_unreadable, dropped_line
from pubswap_jax.questions.tokens import Tokenizer, encode_all, left_pad
from pubswap_jax.types import Prompts
from pubswap_jax.verifier.score import readable

HELD_OUT = 10  # random stream for drawing validation and test sets; distinct from the streams in schedule.py


class Row(NamedTuple):
    """A question together with the token ids of its prompt."""

    problem: Problem
    ids: np.ndarray


class Questions(NamedTuple):
    """Questions and their prompts; row i of `prompts` is `problems[i]`."""

    problems: list[Problem]
    prompts: Prompts  # numpy [n, P]


class Pile(NamedTuple):
    """Questions that were kept, and log lines about the questions that were left out."""

    rows: list[Row]
    notes: list[str]


def problems_of(rows: Sequence[Row]) -> list[Problem]:
    return [row.problem for row in rows]


def usable(problems: Sequence[Problem], tokenizer: Tokenizer, max_prompt_tokens: int, what: str, verified: bool = True) -> Pile:
    """Encodes the questions, and keeps those with a prompt that is short enough and, if `verified`, a readable answer."""
    notes = []
    kept, dropped = drop_unreadable(problems, readable) if verified else (problems, [])
    if dropped:
        notes.append(dropped_line(dropped, len(problems), f"{what}: the verifier cannot read their answers"))
    kept, encoded, long = encode_all(tokenizer, kept, max_prompt_tokens)
    if long:
        limit = f"longer than data.max_prompt_tokens={max_prompt_tokens}"
        notes.append(dropped_line(long, len(problems), f"{what}: {limit}"))
    if not kept:
        raise ValueError(f"no {what} question is left of {len(problems)}: {notes[-1]}")
    return Pile([Row(problem, ids) for problem, ids in zip(kept, encoded, strict=True)], notes)


def padded(rows: Sequence[Row], tokenizer: Tokenizer, length: int = 0) -> Questions:
    """Questions with prompts of this padded length; 0: as long as the longest prompt."""
    ids = [row.ids for row in rows]
    return Questions(problems_of(rows), left_pad(ids, np.arange(len(rows)), length or max(map(len, ids)), tokenizer.pad_id))


def without_copies(rows: Sequence[Row], test: Sequence[Row], lead: str = "") -> Pile:
    """Removes the rows that nearly copy a test question. `lead` begins the log line about them."""
    problems = problems_of(rows)
    clean = near_copies(problems, problems_of(test)) < 0
    lines = [] if clean.all() else [dropped_line(_where(problems, ~clean), len(rows), f"{lead}near copies of test questions")]
    return Pile(_where(rows, clean), lines)


def set_aside(rows: Sequence[Row], size: int, seed: int, field: str, notes: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Draws `size` questions, IID over topics: (the rest, the drawn questions). `notes` tell why there may be too few."""
    if size >= len(rows):
        lost = "".join(f"; {note}" for note in notes if "left out" in note)
        raise ValueError(f"config.{field}={size}: there are only {len(rows)} questions to take them from{lost}")
    chosen = np.zeros(len(rows), bool)
    chosen[draw(rows, size, seed)] = True
    return _where(rows, ~chosen), _where(rows, chosen)


def draw(rows: Sequence[Row], size: int, seed: int) -> np.ndarray:
    """Indices of `size` questions, IID over topics, in increasing order; of all questions if there are fewer."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, HELD_OUT))))
    return np.sort(draw_iid(problems_of(rows), min(size, len(rows)), rng))


def _where(rows: Sequence, kept: np.ndarray) -> list:
    return [row for row, keep in zip(rows, kept, strict=True) if keep]
