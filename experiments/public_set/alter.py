"""Public sets that are worse than one could wish: each a function from a run to the same run with other questions."""

import dataclasses

from pubswap_jax.questions import embedded
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.schedule import permutation
from pubswap_jax.run.assembly import Run

WRONG = 21  # the stream of what is wrong, beside the run's own


def wrong_answers(run: Run, share: float) -> Run:
    """So large a share of the public questions is marked by the result of a wrong procedure, drawn for each of them anew."""
    public, problems = run.split.public, list(run.train.problems)
    chosen = permutation(len(public), run.config.seed, WRONG)[: round(share * len(public))]
    for number, place in enumerate(chosen):
        problems[public[place]] = _mistaken(problems[public[place]], run.config.seed, number)
    return run._replace(train=run.train._replace(problems=problems))


def _mistaken(problem: Problem, seed: int, number: int) -> Problem:
    others = [name for name in embedded.PROCEDURES if name != embedded.TOPICS[problem.topic].procedure]
    text, _ = embedded.demonstrations(problem)[others[permutation(len(others), seed, WRONG, number)[0]]]
    return dataclasses.replace(problem, answer=text.partition(r"\boxed{")[2].removesuffix("}"))


def two_topics(run: Run) -> Run:
    """Only the public questions of two topics are left, other ones for other seeds."""
    return run._replace(split=dataclasses.replace(run.split, public=_of(run, run.split.public, topics_of(run))))


def strangers(run: Run) -> Run:
    """And no client holds a question of these two topics."""
    others = set(embedded.TOPICS) - topics_of(run)
    clients = [_of(run, questions, others) for questions in run.split.clients]
    if min(map(len, clients)) < run.config.training.prompts:
        raise ValueError(f"seed {run.config.seed}: a client would be left with fewer questions than it answers a step")
    run = two_topics(run)
    return run._replace(split=dataclasses.replace(run.split, clients=clients))


def topics_of(run: Run) -> set[str]:
    """Two of the eight, by the run's seed."""
    names = list(embedded.TOPICS)
    return {names[(2 * run.config.seed + i) % len(names)] for i in range(2)}


def _of(run: Run, questions: list[int], topics: set[str]) -> list[int]:
    return [i for i in questions if run.train.problems[i].topic in topics]
