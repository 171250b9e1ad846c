"""Public sets that are worse than one could wish: each a function from a run to the same run with other questions."""

import dataclasses

from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from pubswap_jax.questions import embedded
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.schedule import permutation
from pubswap_jax.run.assembly import Data, Run, make_batches

WRONG = 21  # the stream of what is wrong, beside the run's own


def with_questions(run: Run, data: Data) -> Run:
    """The run with other questions: its batches are drawn from them."""
    config = ConfigDict(unflatten_dict(run.settings, sep="."))
    return run._replace(data=data._replace(batch=make_batches(config, data, run.place)))


def wrong_answers(run: Run, share: float) -> Run:
    """So large a share of the public questions is marked by the result of a wrong procedure, drawn for each of them."""
    public, problems, seed = run.data.split.public, list(run.data.train.problems), run.settings["seed"]
    chosen = permutation(len(public), seed, WRONG)[: round(share * len(public))]
    for number, place in enumerate(chosen):
        problems[public[place]] = _mistaken(problems[public[place]], seed, number)
    return with_questions(run, run.data._replace(train=run.data.train._replace(problems=problems)))


def _mistaken(problem: Problem, seed: int, number: int) -> Problem:
    others = [name for name in embedded.PROCEDURES if name != embedded.TOPICS[problem.topic].procedure]
    text, _ = embedded.demonstrations(problem)[others[permutation(len(others), seed, WRONG, number)[0]]]
    return dataclasses.replace(problem, answer=text.partition(r"\boxed{")[2].removesuffix("}"))


def two_topics(run: Run) -> Run:
    """Only the public questions of two topics are left, other ones for other seeds."""
    split = run.data.split
    return _dealt(run, public=_of(run, split.public, topics_of(run)))


def strangers(run: Run) -> Run:
    """And no client holds a question of these two topics."""
    others = set(embedded.TOPICS) - topics_of(run)
    clients = [_of(run, questions, others) for questions in run.data.split.clients]
    if min(map(len, clients)) < run.settings["training.prompts"]:
        raise ValueError(f"seed {run.settings['seed']}: a client would be left with fewer questions than it answers a step")
    return _dealt(two_topics(run), clients=clients)


def topics_of(run: Run) -> set[str]:
    """Two of the eight, by the run's seed."""
    names = list(embedded.TOPICS)
    return {names[(2 * run.settings["seed"] + i) % len(names)] for i in range(2)}


def _dealt(run: Run, **lists) -> Run:
    return with_questions(run, run.data._replace(split=dataclasses.replace(run.data.split, **lists)))


def _of(run: Run, questions: list[int], topics: set[str]) -> list[int]:
    return [i for i in questions if run.data.train.problems[i].topic in topics]
