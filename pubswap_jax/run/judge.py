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
from pubswap_jax.types import CORRECT, STATUSES, UNPARSED, Batch, Reference, Rollout, Verdict
from pubswap_jax.verifier.evaluated import is_evaluated
from pubswap_jax.verifier.score import verify


class Grades(NamedTuple):
    """The verifier's result for each response, and the user's own rewards for it if there are any; arrays of one shape."""

    status: np.ndarray  # int8, an index into STATUSES
    texts: np.ndarray  # str, the decoded response; empty if another process graded it
    extracted: np.ndarray  # str, the final answer extracted from the response
    bits: np.ndarray | None = None  # bool, what counts as right; None: what the verifier found right
    worth: np.ndarray | None = None  # f64, the reward, NaN for a response left out; None: 1 for a right response, else 0

    @property
    def correct(self) -> np.ndarray:
        return self.status == CORRECT if self.bits is None else self.bits

    @property
    def reward(self) -> np.ndarray:
        """f64. A response left out gets the mean of its group's other rewards, so that its advantage is 0."""
        if self.worth is None:
            return self.correct.astype(float)
        there = ~np.isnan(self.worth)
        mean = np.where(there, self.worth, 0).sum(-1, keepdims=True) / np.maximum(there.sum(-1, keepdims=True), 1)
        return np.where(there, self.worth, mean)


Grade = Callable[[Rollout, Sequence[Sequence[Problem]]], Grades]


def grade(
    tokenizer: Tokenizer,
    rollouts: Rollout,
    problems: Sequence[Sequence[Problem]],
    timeout: float = 1.0,
    accept: str = "value",
) -> Grades:
    """Decodes responses [C, B, G, R], verifies them as answers to the questions [C][B], and returns Grades [C, B, G].

    `accept`: see the field verifier.accept.
    """
    tokens, mask = jax.device_get((rollouts.tokens, rollouts.mask))
    texts = tokenizer.decode(tokens, mask)
    asked = [problem for row in problems for problem in row for _ in range(texts.shape[2])]
    status, extracted = against(texts.ravel(), [problem.answer for problem in asked], asked, timeout, accept)
    return Grades(status.reshape(texts.shape), texts, extracted.reshape(texts.shape))


def against(
    texts: Sequence[str], golds: Sequence[str], asked: Sequence[Problem], timeout: float = 1.0, accept: str = "value"
) -> tuple[np.ndarray, np.ndarray]:
    """The status int8[n] and the extracted answer [n] of each response to a question, compared with its gold."""
    status, extracted = np.zeros(len(texts), np.int8), np.full(len(texts), "", object)
    for kind in dict.fromkeys(problem.kind for problem in asked):
        rows = [i for i, problem in enumerate(asked) if problem.kind == kind]
        options = [asked[i].options for i in rows] if kind == "choice" else None
        verdicts = verify([texts[i] for i in rows], [golds[i] for i in rows], kind=kind, options=options, timeout=timeout)
        status[rows] = [STATUSES.index(word) for word in verdicts.status]
        extracted[rows] = verdicts.extracted
        if kind == "math" and accept == "evaluated":
            left = [i for i in rows if status[i] == CORRECT and not is_evaluated(extracted[i], golds[i])]
            status[left] = STATUSES.index("wrong")
    return status, extracted


def agreement(
    tokenizer: Tokenizer, rollouts: Rollout, reference: Reference, timeout: float = 1.0, accept: str = "value"
) -> Grades:
    """Grades [C, B, G] of candidates by experts: against the answer where an expert holds it, else against its own.

    Reading: an expert whose own response has no answer agrees with no candidate. What was not asked is not graded.
    """
    held, wanted = jax.device_get((reference.held, reference.asked))
    tokens, mask, said, said_mask = jax.device_get((rollouts.tokens, rollouts.mask, reference.said.tokens, reference.said.mask))
    texts, own = tokenizer.decode(tokens, mask), tokenizer.decode(said, said_mask)[..., 0]
    status, extracted = np.full(texts.shape, UNPARSED, np.int8), np.full(texts.shape, "", object)
    places, golds, asked = [], [], []
    for client, row in np.argwhere(wanted):
        problem = reference.answers[client][row]
        gold = problem.answer if held[client, row] else said_answer(own[client, row], problem)
        for candidate in range(texts.shape[2]) if gold else ():
            places.append((client, row, candidate)), golds.append(gold), asked.append(problem)
    if places:
        where = tuple(np.array(places).T)
        status[where], extracted[where] = against(texts[where], golds, asked, timeout, accept)
    return Grades(status, texts, extracted)


def said_answer(text: str, problem: Problem) -> str:
    """The final answer of a response, in a form that others are compared with; empty if it gives none. No gold is read."""
    if problem.kind != "choice":
        return verify([text], [""]).extracted[0]
    keys = list(problem.options or "ABCDEFGHIJ")
    right = verify([text] * len(keys), keys, kind="choice", options=[problem.options] * len(keys)).correct
    return keys[int(np.argmax(right))] if right.any() else ""


def make_judge(
    tokenizer: Tokenizer,
    timeout: float = 1.0,
    rewarded: Callable[[Grade], Grade] | None = None,
    *,
    accept: str = "value",
) -> Callable[[Rollout, Batch], Verdict]:
    """Returns the judge of a run: reward 1 for a correct response, else 0, or what `rewarded` makes of the grades.

    Experts' rewards of candidates are 1 or 0, whatever `rewarded` is.
    """
    graded = partial(grade, tokenizer, timeout=timeout, accept=accept)
    graded = rewarded(graded) if rewarded else graded

    def judge(rollouts: Rollout, batch: Batch) -> Verdict:
        if isinstance(batch.answers, Reference):
            return to_verdict(agreement(tokenizer, rollouts, batch.answers, timeout, accept))
        grades = grade_together(graded, rollouts, batch.answers)
        return to_verdict(grades, getattr(rollouts.tokens, "sharding", None))

    return judge


def judge_of_shapes(rollouts: Rollout, batch: Batch) -> Verdict:
    """A judge that computes nothing: from the shapes of rollouts it returns the shapes of their verdicts."""
    dtypes = (jnp.result_type(float), bool, np.int8)
    return Verdict(*(jax.ShapeDtypeStruct(rollouts.tokens.shape[:-1], dtype) for dtype in dtypes))


def grade_together(grade: Grade, rollouts: Rollout, problems: Sequence[Sequence[Problem]]) -> Grades:
    """`grade` on many hosts: each process grades the responses on its own devices; all but the texts are then exchanged."""
    if not isinstance(rollouts.tokens, jax.Array) or rollouts.tokens.is_fully_addressable:
        return grade(rollouts, problems)
    clients, prompts, group, length = rollouts.tokens.shape
    tokens, mask = hosts.owned(rollouts.tokens), hosts.owned(rollouts.mask)
    rows = [(c, b) for place, _ in tokens for c in range(clients)[place[0]] for b in range(prompts)[place[1]]]
    mine = Grades(*np.zeros((5, 1, 0, group), object))
    if rows:
        own = (np.concatenate([x.reshape(-1, group, length) for _, x in part])[None] for part in (tokens, mask))
        mine = grade(Rollout(*own, None), [[problems[c][b] for c, b in rows]])
    shape = (clients, prompts, group)
    status, texts, extracted = np.zeros(shape, np.int8), np.full(shape, "", object), np.full(shape, "", object)
    bits, worth = np.zeros(shape, bool), np.zeros(shape)
    own_rewards = mine.correct.astype(float) if mine.worth is None else mine.worth
    found = (mine.status, mine.extracted, mine.correct, own_rewards)
    for their_rows, *theirs in hosts.gathered([rows, *(part[0].tolist() for part in found)]):
        for i, row in enumerate(map(tuple, their_rows)):
            status[row], extracted[row], bits[row], worth[row] = (part[i] for part in theirs)
    for row, said in zip(rows, mine.texts[0], strict=True):
        texts[row] = said
    return Grades(status, texts, extracted, bits, worth)


def to_verdict(grades: Grades, beside=None) -> Verdict:
    """Puts grades on the device as a Verdict, sharded over [C, B] like the array with the sharding `beside`."""
    dtype, sharding = jnp.result_type(float), None
    if isinstance(beside, NamedSharding):
        sharding = NamedSharding(beside.mesh, PartitionSpec(*beside.spec[:2]))
    return Verdict(*hosts.put((grades.reward.astype(dtype), grades.correct, grades.status), sharding))
