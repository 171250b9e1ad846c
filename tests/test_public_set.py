"""Poor public sets: what is altered is the public questions, and nothing else."""

import dataclasses
import functools
import pickle
from concurrent.futures import Future

import numpy as np
import pytest
from small_world import LABORATORY

from experiments import cells
from experiments.laboratory import config_of, table_of, train
from experiments.public_set import alter, study
from pubswap_jax.questions import embedded
from pubswap_jax.run.assembly import assemble

SMALL = LABORATORY | {"data.max_questions": 512}


@functools.cache
def run():
    return assemble(config_of("configs/math.py:hard", 2, SMALL))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_so_many_public_answers_are_of_a_wrong_procedure(share):
    public, before = run().split.public, run().train.problems
    altered = alter.wrong_answers(run(), share)
    changed = [i for i, (a, b) in enumerate(zip(before, altered.train.problems, strict=True)) if a != b]
    assert set(changed) <= set(public) and len(changed) == round(share * len(public))
    for i in changed:
        answer = altered.train.problems[i].answer
        follows = [name for name, (text, _) in embedded.demonstrations(before[i]).items() if text.endswith(f"{{{answer}}}")]
        assert len(follows) == 1 and follows[0] != embedded.TOPICS[before[i].topic].procedure
    # The judge reads what the problems say.
    there, here = (table_of(run(), questions).answers for questions in (run().train, altered.train))
    assert np.flatnonzero((there != here).any(-1)).tolist() == changed
    assert altered.split == run().split and altered.test is run().test


def test_two_topics_and_strangers():
    def held(questions):
        return {run().train.problems[i].topic for i in questions}

    two, strange = alter.two_topics(run()), alter.strangers(run())
    asked = alter.topics_of(run())
    assert len(asked) == 2 and held(two.split.public) == held(strange.split.public) == asked
    assert two.split.clients == run().split.clients and set(two.split.public) < set(run().split.public)
    for mine, all_mine in zip(strange.split.clients, run().split.clients, strict=True):
        assert mine == [i for i in all_mine if run().train.problems[i].topic not in asked]
    other = run()._replace(config=config_of("configs/math.py:hard", 3, SMALL))
    assert not alter.topics_of(other) & asked, "another seed has other topics"
    poor = run()._replace(split=dataclasses.replace(run().split, clients=[two.split.public]))
    with pytest.raises(ValueError, match="seed 2: a client would be left with fewer questions"):
        alter.strangers(poor)


def test_what_is_altered_is_what_is_trained():
    def all_wrong(run):
        everything = run._replace(train=run.test, split=dataclasses.replace(run.split, public=list(range(16))))
        return run._replace(test=alter.wrong_answers(everything, 1.0).train)

    def over(round, servers):
        raise KeyboardInterrupt

    said = []
    for change in (lambda run: run, all_wrong):
        with pytest.raises(KeyboardInterrupt):  # the base's score is all that is asked for
            train([run().config], say=said.append, watch=over, alter=change)
    clean, wrong = said
    assert clean.startswith("base") and wrong.startswith("base") and clean != wrong


class Inline:
    """A pool of processes that sends work as bytes, and does it here."""

    def __init__(self, *_):
        self._processes = {}

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*pickle.loads(pickle.dumps(arguments))))
        return future

    def shutdown(self, **_):
        pass


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_every_cell_is_trained_with_its_own_alteration(tmp_path, monkeypatch, backend):
    here, trained = run(), []

    def train_none(configs, say, alter):
        trained.append(alter(here).split)
        return [[{"round": 0}] for _ in configs]

    monkeypatch.setattr(cells.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(cells, "train", train_none)
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Inline)
    asked, altered = dict.fromkeys(["clean", "two", "strange"], SMALL), {"two": alter.two_topics, "strange": alter.strangers}
    cells.fill(tmp_path / "results.json", "configs/math.py:hard", asked, [2], 1, altered)
    assert trained == [here.split, alter.two_topics(here).split, alter.strangers(here).split]
    assert all(pickle.loads(pickle.dumps(one))(here).config is here.config for one in study.alterations().values())


def test_the_study_says_what_was_not_run(tmp_path):
    asked, altered = study.cells({}), study.alterations()
    assert set(altered) < set(asked) and len(asked) == len(altered) + 2 == 10
    seeds = dict.fromkeys("12", [{"global": 0.1}, {"global": 0.3}])
    results = {study.name_of(method, study.CLEAN): seeds for method in study.METHODS}
    assert study.table(results).count("not run") == 8
    study.draw(results, tmp_path / "public_set.png")
    assert (tmp_path / "public_set.svg").exists()
