"""A run's questions as text: who asks how many, how long the prompts are, and what was left out. `--mode=data` prints it."""

from collections.abc import Sequence

import numpy as np

from pubswap_jax.questions.load import Asked, Questions
from pubswap_jax.questions.problem import topics

LONGEST_SAMPLE = 300  # characters of the sample question that is shown


def described(asked: Asked) -> str:
    """The text of `--mode=data`: a table of the questions' parts, the questions that were left out and why, and a sample."""
    train, split = asked.train, asked.split
    rows = [_row("public", train, split.public)]
    rows += [_row(f"client {i}", train, part) for i, part in enumerate(split.clients)]
    rows += [_row(name, part) for name, part in (("validation", asked.validation), ("test", asked.test))]
    head = f"{'':<12}{'questions':>10}{'topics':>8}{'prompt tokens: median':>23}{'longest':>9}"
    sample = train.problems[0]
    shown = sample.prompt if len(sample.prompt) <= LONGEST_SAMPLE else sample.prompt[:LONGEST_SAMPLE] + "…"
    about = [
        f"the first question, {sample.id}: {shown!r}",
        f"its answer: {sample.answer!r}; its columns: {', '.join(sample.columns) or 'none'}",
    ]
    return "\n".join([head, *rows, *asked.notes, *about])


def _row(name: str, questions: Questions, numbers: Sequence[int] | None = None) -> str:
    numbers = list(range(len(questions.problems)) if numbers is None else numbers)
    if not numbers:
        return f"{name:<12}{0:>10}"
    lengths = questions.prompts.mask[numbers].sum(-1)
    there = len(topics([questions.problems[i] for i in numbers]))
    return f"{name:<12}{len(numbers):>10}{there:>8}{int(np.median(lengths)):>23}{lengths.max():>9}"
