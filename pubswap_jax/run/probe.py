"""`--mode=probe`: whether a base model can be trained on these questions, from its answers: figures by topic, and advice."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from pubswap_jax.questions.problem import Problem
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.evaluation import one
from pubswap_jax.run.pass_at_k import make_sampler, pass_at_k
from pubswap_jax.types import PyTree

QUESTIONS, SHOWN = 64, 3
HEAD = f"{'topic':<24}{'questions':>10}{'pass@1':>8}{'pass@K':>8}{'all wrong':>10}{'all right':>10}{'tokens':>8}{'cut off':>8}"


class Answers(NamedTuple):
    """A model's K answers to each of n questions, with verdicts and lengths."""

    problems: Sequence[Problem]
    correct: np.ndarray  # bool[n, K]
    lengths: np.ndarray  # int[n, K], in tokens
    cut: np.ndarray  # bool[n, K]: no stop token before the length limit
    texts: np.ndarray  # str[n, K]

    def take(self, rows: Sequence[int]) -> "Answers":
        return Answers([self.problems[i] for i in rows], *(part[list(rows)] for part in self[1:]))


def probe(config) -> str:
    """Probes the config's base model: samples answers to training questions, as training does. Returns figures as text."""
    run = assemble(config)
    return described(answers(run, run.policy.adapter, QUESTIONS), run.settings)


def answers(run: Run, adapter: PyTree, count: int) -> Answers:
    """Samples `training.group` answers (K) to each of `count` training questions, which the run's seed draws."""
    known, train = run.settings, run.data.train
    rng = np.random.Generator(np.random.Philox(known["seed"]))
    rows = np.sort(rng.permutation(len(train.problems))[:count])
    sampler = make_sampler(
        run.policy.model,
        samples=known["training.group"],
        max_new_tokens=known["training.max_new_tokens"],
        temperature=known["training.temperature"],
    )
    size, parts = min(run.examiner.batch, len(rows)), []
    for start in range(0, len(rows), size):
        some = np.resize(rows[start : start + size], size)  # a smaller last batch would compile a second program
        prompts = jax.tree.map(lambda x, some=some: x[some], train.prompts)
        asked = [train.problems[i] for i in some]
        rollouts = sampler(
            run.policy.base, one(adapter), *run.examiner.put((prompts, some.astype(np.int32)), 1), run.examiner.key
        )
        grades = run.examiner.grade(rollouts, [asked])
        tokens, mask = jax.device_get((rollouts.tokens, rollouts.mask))
        ended = (np.isin(tokens, run.policy.config.eos_ids) & mask).any(-1)
        real = len(rows[start : start + size])
        part = (grades.correct, mask.sum(-1), ~ended & mask.all(-1), grades.texts)
        parts.append([x[0, :real] for x in part])
    return Answers([train.problems[i] for i in rows], *(np.concatenate(part) for part in zip(*parts, strict=True)))


def described(found: Answers, settings: dict) -> str:
    """The text of a probe: a table by topic, sample answers, and advice."""
    lines = [HEAD.replace("pass@K", f"pass@{found.correct.shape[1]}")]
    names = sorted({problem.topic for problem in found.problems})
    for name in [*(names if len(names) > 1 else []), None]:
        rows = [i for i, problem in enumerate(found.problems) if name in (None, problem.topic)]
        lines.append(_row("all" if name is None else name or "(no topic)", found.take(rows)))
    for i in _spread(found)[:SHOWN]:
        problem = found.problems[i]
        lines += ["", f"question {problem.id}: {problem.prompt}", f"gold     {problem.answer}"]
        best = int(found.correct[i].argmax())
        lines.append(f"answer   {found.texts[i, best]!r} ({'right' if found.correct[i, best] else 'wrong'})")
    return "\n".join([*lines, "", *advice(found, settings)])


def advice(found: Answers, settings: dict) -> list[str]:
    """What the figures say about training from this base, one line each."""
    group, right = found.correct.shape[1], found.correct.mean()
    wrong, cut = (~found.correct.any(1)).mean(), found.cut.mean()
    lines = []
    if cut > 0.2:
        lines.append(
            f"{cut:.0%} of the answers are cut off at training.max_new_tokens={settings['training.max_new_tokens']}: raise it, "
            f"or ask for a shorter answer in model.instruction"
        )
    if wrong > 0.7:
        lines.append(
            f"{wrong:.0%} of the groups are all wrong and teach nothing: begin from a warm-up (model.warmup), show examples "
            f"(model.examples), change model.instruction, raise training.group, or take a larger base"
        )
    elif right > 0.9:
        lines.append("almost every answer is right: little is left to learn; take harder questions")
    else:
        gap = pass_at_k(found.correct, group) - right
        lines.append(
            f"there is something to elicit: pass@{group} is {gap:.2f} above pass@1, and {wrong:.0%} of the groups fail"
        )
    return lines


def _row(name: str, part: Answers) -> str:
    group = part.correct.shape[1]
    shares = [pass_at_k(part.correct, 1), pass_at_k(part.correct, group)]
    wrong, right = (~part.correct.any(1)).mean(), part.correct.all(1).mean()
    cells = f"{shares[0]:>8.3f}{shares[1]:>8.3f}{wrong:>10.2f}{right:>10.2f}{part.lengths.mean():>8.1f}{part.cut.mean():>8.2f}"
    return f"{name[:23]:<24}{len(part.problems):>10}{cells}"


def _spread(found: Answers) -> list[int]:
    """An order of the questions in which the first ones have different topics."""
    first = {problem.topic: i for i, problem in reversed(list(enumerate(found.problems)))}
    chosen = sorted(first.values())
    return chosen + [i for i in range(len(found.problems)) if i not in chosen]
