"""Evaluation statistics (pass@k, maj@k, intervals), computed from samples with their own random stream."""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.devices.hosts import fetch
from pubswap_jax.policy.sampling import sample
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.problem import Problem
from pubswap_jax.run.judge import Grades
from pubswap_jax.types import Array, Prompts, PyTree, Rollout
from pubswap_jax.verifier.evaluated import is_evaluated


class Examiner(NamedTuple):
    """Everything that evaluating a run's adapters needs: sampler, grader and settings."""

    sampler: Callable[..., Rollout]  # see `make_sampler`
    greedy: Callable[..., Rollout] | None  # the same with temperature 0, one sample; None: not asked for
    grade: Callable[[Rollout, Sequence[Sequence[Problem]]], Grades]
    key: Array
    put: Callable[[PyTree, int], PyTree] = lambda tree, models: jax.device_put(tree)
    # ^ (questions [B, ...], M) puts a batch of questions on the devices
    batch: int = 64  # questions at a time
    samples: int = 1  # answers to each question
    every: int = 1  # evaluate after every so many rounds
    clients: bool = True  # whether clients' own adapters are evaluated beside the shared one


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """One model's graded answers to n questions."""

    problems: Sequence[Problem]
    correct: np.ndarray  # bool[n, samples]
    answers: np.ndarray  # str[n, samples], the extracted answers
    lengths: np.ndarray  # int32[n, samples], in tokens

    def topic(self, name: str) -> "Evaluation":
        rows = [i for i, problem in enumerate(self.problems) if problem.topic == name]
        return Evaluation([self.problems[i] for i in rows], self.correct[rows], self.answers[rows], self.lengths[rows])


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """pass@k: the mean over questions of 1 − C(n−c, k) / C(n, k), with n samples, c of them correct.

    It is unbiased (Chen et al., arXiv 2107.03374).
    """
    return float(pass_at_k_each(correct, k).mean())


def pass_at_k_each(correct: np.ndarray, k: int) -> np.ndarray:
    """The pass@k estimate of each question, from its samples' correctness: bool[n, samples] -> f64[n]."""
    correct = np.asarray(correct, bool)
    if correct.ndim != 2 or not correct.size:
        raise ValueError(f"correct: bool[questions, samples], neither of them empty, expected; got shape {correct.shape}")
    samples = correct.shape[1]
    if not 1 <= k <= samples:
        raise ValueError(f"k: between 1 and the {samples} samples of each question expected, got {k}")
    wrong = samples - correct.sum(axis=1)
    # C(w, k) / C(n, k) as a product of k factors: binomials could overflow. The product is 0 if fewer than k are wrong.
    factors = np.clip(wrong[:, None] - np.arange(k), 0, None) / (samples - np.arange(k))
    return 1.0 - factors.prod(axis=1)


def maj_at_k_each(answers: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Whether the most frequent answer of all k samples is correct; a tie counts as the share of correct winners. f64[n].

    Answers are grouped by their text. All correct answers form one group, however they are written. A sample without an
    answer has no vote.
    """
    return np.array([_majority(said, right) for said, right in zip(answers, np.asarray(correct, bool), strict=True)], float)


def _majority(answers: Sequence[str], correct: Sequence[bool]) -> float:
    votes = collections.Counter(True if right else text for text, right in zip(answers, correct, strict=True) if right or text)
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    return (True in winners) / max(len(winners), 1)


Z = 1.959964  # the 97.5 % quantile of the standard normal distribution, for 95 % intervals


def interval(
    each: np.ndarray, level: float = 0.95, draws: int = 1000, seed: int = 0, lowest: float = 0.0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value per question (Efron 1979). For paired differences, `lowest` is -1.

    If all n values are equal, a bootstrap interval has no width. The interval is then value ± z² / (n + z²), where
    z² / (n + z²) is Wilson's 95 % bound for the share of questions with another value. If all questions are right, or all
    wrong, this is exactly Wilson's interval.
    """
    each = np.asarray(each, float)
    if np.ptp(each) == 0:
        value, share = float(each[0]), Z**2 / (len(each) + Z**2)
        return max(value - share, lowest), min(value + share, 1.0)
    rng = np.random.Generator(np.random.Philox(seed))
    means = each[rng.integers(len(each), size=(draws, len(each)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(evaluation: Evaluation, ks: Sequence[int]) -> dict[str, float]:
    """The statistics of an evaluation: pass@1 with its interval, pass@k, maj@k, mean length in tokens.

    pass@1 of evaluated answers counts only answers that leave no calculation to do; maj@k is over all samples.
    """
    each = pass_at_k_each(evaluation.correct, 1)
    low, high = interval(each)
    figures = {"pass@1": float(each.mean()), "pass@1_low": low, "pass@1_high": high}
    figures |= {f"pass@{k}": pass_at_k(evaluation.correct, k) for k in ks if 1 < k <= evaluation.correct.shape[1]}
    majority = maj_at_k_each(evaluation.answers, evaluation.correct)
    return figures | {
        f"maj@{evaluation.correct.shape[1]}": float(majority.mean()),
        "evaluated@1": float(evaluated(evaluation).mean()),
        "length": float(evaluation.lengths.mean()),
    }


def evaluated(evaluation: Evaluation) -> np.ndarray:
    """Marks correct answers that leave no calculation to do, bool[n, samples], as `verifier.accept=evaluated` counts them."""
    rows = zip(evaluation.problems, evaluation.answers, evaluation.correct, strict=True)
    done = [
        [
            bool(right) and (problem.kind != "math" or is_evaluated(text, problem.answer))
            for text, right in zip(said, rights, strict=True)
        ]
        for problem, said, rights in rows
    ]
    return np.array(done, bool).reshape(evaluation.correct.shape)


def by_topic(evaluation: Evaluation) -> dict[str, float]:
    """pass@1 of each topic, in alphabetical order."""
    names = sorted({problem.topic for problem in evaluation.problems})
    return {name: pass_at_k(evaluation.topic(name).correct, 1) for name in names}


def comparison(base: Evaluation, best: Sequence[Evaluation]) -> list[tuple[str, int, float, float, float, float]]:
    """Compares the best round with the base, by topic: rows (topic, questions, base, best, low, high), the last one 'all'.

    base and best are pass@1, best as the mean of its models; low and high are a paired interval of the change.
    """
    rows = []
    for name in [*by_topic(base), None]:
        before, *after = (_each(model, name) for model in (base, *best))
        mean = np.mean(after, axis=0)
        label = "all" if name is None else name or "(no topic)"
        rows.append((label, len(before), float(before.mean()), float(mean.mean()), *interval(mean - before, lowest=-1.0)))
    return rows


def _each(model: Evaluation, topic: str | None) -> np.ndarray:
    return pass_at_k_each((model if topic is None else model.topic(topic)).correct, 1)


# --- sampling ----------------------------------------------------------------------------------------------------------


def make_sampler(
    model,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    greedy: bool = False,
) -> Callable[..., Rollout]:
    """Returns the sampler of an evaluation: (base, adapters [M, ...], prompts [B, P], numbers int32[B], key) -> Rollout.

    The M models answer the same prompts.

    A question's random stream depends only on its number: not on the model, the round or the other questions in its batch.
    """

    @jax.jit
    def run(base: PyTree, adapters: PyTree, prompts: Prompts, numbers: Array, key: Array) -> Rollout:
        models, batch = jax.tree.leaves(adapters)[0].shape[0], numbers.shape[0]
        fold = jax.vmap(jax.random.fold_in, (None, 0))
        keys = jax.vmap(fold, (0, None))(fold(key, numbers), jnp.arange(samples))
        return sample(
            model,
            base,
            adapters,
            jax.tree.map(lambda x: jnp.broadcast_to(x, (models, *x.shape)), prompts),
            jnp.broadcast_to(keys, (models, batch, samples)),
            group=samples,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            greedy=greedy,
        )

    return run


def evaluate(
    examiner: Examiner, base: PyTree, adapters: PyTree, questions: Questions, greedy: bool = False
) -> list[Evaluation]:
    """Samples and grades M adapters, leaves [M, ...], on the questions: one Evaluation each.

    All batches have `examiner.batch` questions.
    """
    total, models, size = len(questions.problems), jax.tree.leaves(adapters)[0].shape[0], examiner.batch
    sampler = examiner.greedy if greedy else examiner.sampler
    waiting, finished = None, []
    for start in range(0, total, size):
        # Pad the last batch with the last question: a smaller batch would compile a second program.
        numbers = np.minimum(np.arange(start, start + size, dtype=np.int32), total - 1)
        prompts = jax.tree.map(lambda x, rows=numbers: x[rows], questions.prompts)
        rollouts = sampler(base, adapters, *examiner.put((prompts, numbers), models), examiner.key)
        if waiting:
            finished.append(_graded(*waiting, questions, models, examiner.grade))  # while the device samples the next batch
        waiting = rollouts, numbers, min(size, total - start)
    finished.append(_graded(*waiting, questions, models, examiner.grade))
    correct, answers, lengths = (np.concatenate(parts, axis=1) for parts in zip(*finished, strict=True))
    return [Evaluation(questions.problems, *parts) for parts in zip(correct, answers, lengths, strict=True)]


def _graded(rollouts, numbers, real, questions, models, grade) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grades = grade(rollouts, [[questions.problems[i] for i in numbers]] * models)
    lengths = fetch(rollouts.mask).sum(-1).astype(np.int32)
    return grades.correct[:, :real], grades.extracted[:, :real], lengths[:, :real]
