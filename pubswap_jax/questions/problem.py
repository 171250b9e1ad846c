"""`Problem`, the type of every question, and helpers for lists of problems. See sources.py for how problems are read."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pubswap_jax.verifier import keys
from pubswap_jax.verifier.score import KINDS as KINDS


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with an answer that the verifier can check; for multiple choice also the options."""

    id: str
    prompt: str
    answer: str  # math: an expression; choice: the right option's key
    topic: str = ""
    level: str = ""
    kind: str = "math"  # math | choice
    options: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)  # choice: key (A, 1, yes) -> text
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # its row, for own rewards

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"question {self.id}: kind is {self.kind!r}, not one of {', '.join(KINDS)}")
        if self.options is not None:
            keys.check(self.options, f"question {self.id}")
        if self.options is not None and self.answer not in self.options:
            raise ValueError(f"question {self.id}: the answer {self.answer!r} is none of its options {', '.join(self.options)}")


def drop_unreadable(problems: Sequence[Problem], readable: Callable[..., np.ndarray]) -> tuple[list[Problem], list[Problem]]:
    """Divides questions into those whose answer the verifier can read, and the rest: (kept, dropped).

    The verifier's check is `readable(answers, kind='math') -> bool[n]`. A question with an unreadable answer would always give
    reward zero, so it must not be asked.
    """
    able = np.array([bool(problem.answer.strip()) for problem in problems], bool)
    for i, problem in enumerate(problems):
        # With options there is nothing to check: `Problem` refuses an answer that is not one of the options.
        if problem.kind == "choice" and problem.options is None:
            able[i] = keys.is_letter(problem.answer)
    maths = [i for i, problem in enumerate(problems) if able[i] and problem.kind == "math"]
    if maths:
        able[maths] = readable([problems[i].answer for i in maths], kind="math")
    kept = [problem for problem, ok in zip(problems, able, strict=True) if ok]
    return kept, [problem for problem, ok in zip(problems, able, strict=True) if not ok]


def dropped_line(dropped: Sequence[Problem], of: int, why: str, shown: int = 5) -> str:
    """A log line: how many questions were left out, why, and the ids of the first `shown`."""
    first = ", ".join(problem.id for problem in dropped[:shown])
    return f"{len(dropped)} of {of} questions left out, {why}: {first}{', …' if len(dropped) > shown else ''}"


def topics(problems: Sequence[Problem]) -> list[str]:
    """The names of the questions' topics, most frequent first."""
    return [topic for topic, _ in collections.Counter(problem.topic for problem in problems).most_common()]
