"""From token ids to verdicts: decode every response, run the verifier, return arrays. The step's only host crossing."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pubswap_jax.devices import hosts
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.tokens import Tokenizer
from pubswap_jax.types import CORRECT, STATUSES, Batch, Rollout, Verdict
from pubswap_jax.verifier.score import verify


class Grades(NamedTuple):
    """The verifier's result for each response; arrays of one shape."""

    status: np.ndarray  # int8, an index into STATUSES
    texts: np.ndarray  # str, the decoded response; empty if another process graded it
    extracted: np.ndarray  # str, the final answer extracted from the response

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
    """The judge of a run: reward 1 for a correct response, else 0."""

    def judge(rollouts: Rollout, batch: Batch) -> Verdict:
        grades = grade_together(partial(grade, tokenizer, timeout=timeout), rollouts, batch.answers)
        return to_verdict(grades, getattr(rollouts.tokens, "sharding", None))

    return judge


def judge_of_shapes(rollouts: Rollout, batch: Batch) -> Verdict:
    """A judge for rollouts that are shapes: the shapes of their verdicts."""
    dtypes = (jnp.result_type(float), bool, np.int8)
    return Verdict(*(jax.ShapeDtypeStruct(rollouts.tokens.shape[:-1], dtype) for dtype in dtypes))


def grade_together(grade: Callable, rollouts: Rollout, problems: Sequence[Sequence[Problem]]) -> Grades:
    """`grade` on many hosts: each process grades the responses on its own devices; statuses and answers are then exchanged."""
    if not isinstance(rollouts.tokens, jax.Array) or rollouts.tokens.is_fully_addressable:
        return grade(rollouts, problems)
    clients, prompts, group, length = rollouts.tokens.shape
    tokens, mask = hosts.owned(rollouts.tokens), hosts.owned(rollouts.mask)
    rows = [(c, b) for place, _ in tokens for c in range(clients)[place[0]] for b in range(prompts)[place[1]]]
    mine = Grades(*np.zeros((3, 1, 0, group), object))
    if rows:
        own = (np.concatenate([x.reshape(-1, group, length) for _, x in part])[None] for part in (tokens, mask))
        mine = grade(Rollout(*own, None), [[problems[c][b] for c, b in rows]])
    shape = (clients, prompts, group)
    status, texts, extracted = np.zeros(shape, np.int8), np.full(shape, "", object), np.full(shape, "", object)
    for their_rows, statuses, answers in hosts.gathered([rows, mine.status[0].tolist(), mine.extracted[0].tolist()]):
        for row, status_of_row, answers_of_row in zip(their_rows, statuses, answers, strict=True):
            status[tuple(row)], extracted[tuple(row)] = status_of_row, answers_of_row
    for row, said in zip(rows, mine.texts[0], strict=True):
        texts[row] = said
    return Grades(status, texts, extracted)


def to_verdict(grades: Grades, beside=None) -> Verdict:
    """The grades as device arrays, sharded over [C, B] like the array with the sharding `beside`."""
    dtype, sharding = jnp.result_type(float), None
    if isinstance(beside, NamedSharding):
        sharding = NamedSharding(beside.mesh, PartitionSpec(*beside.spec[:2]))
    return Verdict(*hosts.put((grades.correct.astype(dtype), grades.correct, grades.status), sharding))
