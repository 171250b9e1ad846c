"""From token ids to verdicts: decode every response, ask the verifier, and say it in arrays. The step's only host crossing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.data import Problem
from pubswap_jax.tokens import Tokenizer
from pubswap_jax.types import CORRECT, STATUSES, Batch, Rollout, Verdict
from pubswap_jax.verify import verify


class Grades(NamedTuple):
    """What the verifier says of each response, arrays of one shape."""

    status: np.ndarray  # int8, an index into STATUSES
    texts: np.ndarray  # str, as the model wrote it
    extracted: np.ndarray  # str, the final answer found in it

    @property
    def correct(self) -> np.ndarray:
        return self.status == CORRECT


def grade(tokenizer: Tokenizer, rollouts: Rollout, problems: Sequence[Sequence[Problem]], timeout: float = 1.0) -> Grades:
    """Grades [C, B, G] of responses [C, B, G, R] to the questions [C][B]."""
    tokens, mask = jax.device_get((rollouts.tokens, rollouts.mask))
    texts = tokenizer.decode(tokens, mask)
    asked = [problem for row in problems for problem in row for _ in range(texts.shape[2])]
    flat, status, extracted = texts.ravel(), np.zeros(texts.size, np.int8), np.full(texts.size, "", object)
    for kind in dict.fromkeys(problem.kind for problem in asked):
        rows = [i for i, problem in enumerate(asked) if problem.kind == kind]
        options = [asked[i].options for i in rows] if kind == "choice" else None
        said = [flat[i] for i in rows]
        verdicts = verify(said, [asked[i].answer for i in rows], kind=kind, options=options, timeout=timeout)
        status[rows] = [STATUSES.index(word) for word in verdicts.status]
        extracted[rows] = verdicts.extracted
    return Grades(status.reshape(texts.shape), texts, extracted.reshape(texts.shape))


def make_judge(tokenizer: Tokenizer, timeout: float = 1.0) -> Callable[[Rollout, Batch], Verdict]:
    """The judge of `client_step`: reward 1 where the verifier says correct, else 0."""

    def judge(rollouts: Rollout, batch: Batch) -> Verdict:
        return to_verdict(grade(tokenizer, rollouts, batch.answers, timeout))

    return judge


def to_verdict(grades: Grades) -> Verdict:
    dtype = jnp.result_type(float)
    return Verdict(*jax.device_put((grades.correct.astype(dtype), grades.correct, grades.status)))
