"""The user's own rewards in a run: functions get a step's texts and verdicts, and their sum replaces the reward 1 or 0."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from pubswap_jax.questions import generators
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.tokens import Tokenizer, content
from pubswap_jax.run import reward
from pubswap_jax.run.judge import Grade, Grades
from pubswap_jax.run.reward import Responses, Reward, Scores
from pubswap_jax.settings import nearest
from pubswap_jax.types import Rollout

VERIFIER = "verifier"  # the value of reward.correct_at under which the verifier's verdict counts as right


class Own(NamedTuple):
    """The user's own rewards in a run: functions, weights, and which responses count as right."""

    functions: Sequence[Reward]
    weights: Sequence[float]
    correct_at: float | None  # None: the verifier says what is right
    form: str = "auto"  # of prompts and completions: messages or text; auto: messages where there is a chat template
    columns: Sequence[str] = ()  # of the questions, given to every function; a question without one has None there

    @property
    def verified(self) -> bool:
        """Whether the verifier's verdict counts, so that it must be able to read every answer."""
        return self.correct_at is None or any(one.name == "verifier" and not one.sha256 for one in self.functions)


def make_own(
    functions: str, weights: str, correct_at: str, form: str = "auto", given: Sequence[Reward] = (), questions: str = ""
) -> Own | None:
    """The own rewards that the config's section `reward` names, or those `given` in Python; None: there are none.

    Without either, the `questions` of reasoning_gym (data.name) are judged by their own verifiers.
    """
    if questions.startswith(generators.PREFIX) and not functions and not given:
        functions, correct_at = generators.COLUMN, "1.0" if correct_at == VERIFIER else correct_at
    if functions and given:
        raise ValueError(f"reward.functions={functions}: no effect beside reward=; leave one of the two out")
    if not functions and not given:
        for name, value, idle in (("weights", weights, ""), ("correct_at", correct_at, VERIFIER), ("form", form, "auto")):
            if value != idle:
                raise ValueError(
                    f"config.reward.{name}={value}: no effect without a reward; set reward.functions, or give the run the "
                    f"reward= that it had in Python"
                )
        return None
    rewards, numbers = reward.weighted(given, weights) if given else reward.load(functions, weights)
    return Own(rewards, numbers, threshold(correct_at), form)


def threshold(correct_at: str) -> float | None:
    """Parses reward.correct_at: '0.5' is a least reward of 0.5; 'verifier' is None."""
    if correct_at == VERIFIER:
        return None
    try:
        number = float(correct_at)
        if math.isfinite(number):
            return number
        raise ValueError
    except ValueError:
        raise ValueError(
            f"config.reward.correct_at={correct_at}: verifier or a number expected; rewards from the number on count as right"
        ) from None


def with_columns(own: Own, problems: Iterable[Problem]) -> Own:
    """A copy of the own rewards with the data columns of these questions.

    Raises if a function wants a column that the questions do not have.
    """
    own = own._replace(columns=tuple(dict.fromkeys(name for problem in problems for name in problem.columns)))
    known = (*own.columns, *reward.OFFERED)
    for one in own.functions:
        for parameter in inspect.signature(one.function).parameters.values():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if needed and parameter.name not in known:
                raise ValueError(
                    f"reward {one.name}: the questions have no column {parameter.name!r}{nearest(parameter.name, known)}"
                )
    return own


class Tally:
    """Collects each reward function's values and seconds since the last `take`."""

    def __init__(self):
        self._means: dict[str, list[np.ndarray]] = {}
        self._seconds: dict[str, float] = {}

    def note(self, scores: Scores, shape: tuple[int, int, int]) -> None:
        """Adds the scores of responses [c, B, G] to the tally: of all C clients of a step, or of the next c of them."""
        for name, values in scores.each.items():
            short = name.rpartition(":")[2]
            values = values.reshape(shape[0], -1)
            there = ~np.isnan(values)
            mean = np.where(there, values, 0).sum(1) / np.where(there.any(1), there.sum(1), np.nan)
            self._means.setdefault(short, []).append(mean)
            self._seconds[short] = self._seconds.get(short, 0.0) + scores.seconds[name]

    def take(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Returns and forgets what was noted: each function's mean reward f64[clients], NaN without one, and its seconds."""
        found = {name: np.concatenate(parts) for name, parts in self._means.items()}, self._seconds
        self._means, self._seconds = {}, {}
        return found


def rewarding(
    own: Own, tokenizer: Tokenizer, note: Callable[[Scores, tuple[int, int, int]], None] = lambda scores, shape: None
) -> Callable[[Grade], Grade]:
    """Returns a grading function that adds the user's own rewards to the grades. `note` is given the scores of every call."""

    chat = own.form == "messages" or (own.form == "auto" and tokenizer.hf.chat_template is not None)

    def rewarded(grade: Grade) -> Grade:
        def graded(rollouts: Rollout, problems: Sequence[Sequence[Problem]]) -> Grades:
            grades = grade(rollouts, problems)
            asked = _responses(own, tokenizer, grades, rollouts, problems)
            scores = reward.score(own.functions, own.weights, asked, conversational=chat)
            shape = grades.status.shape
            note(scores, shape)
            right = reward.bits(scores, grades.correct.ravel(), own.correct_at)
            worth = np.where(scores.left_out, np.nan, scores.reward)
            return grades._replace(bits=right.reshape(shape), worth=worth.reshape(shape))

        return graded

    return rewarded


def _responses(own: Own, tokenizer: Tokenizer, grades: Grades, rollouts: Rollout, problems) -> Responses:
    """Makes the arguments of reward functions from a step's grades and rollouts: n = C·B·G responses in array order."""
    tokens, mask = (x.reshape(-1, x.shape[-1]) for x in jax.device_get((rollouts.tokens, rollouts.mask)))
    each = [problem for row in problems for problem in row for _ in range(grades.status.shape[-1])]
    messages = {id(problem): content(problem, tokenizer.instructions[problem.kind]) for problem in each}
    return Responses(
        prompts=[messages[id(problem)] for problem in each],
        completions=grades.texts.ravel().tolist(),
        completion_ids=[row[kept].tolist() for row, kept in zip(tokens, mask.astype(bool), strict=True)],
        answer=[problem.answer for problem in each],
        correct=grades.correct.ravel().tolist(),
        columns={name: [problem.columns.get(name) for problem in each] for name in own.columns},
    )
