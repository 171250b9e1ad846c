"""Poor public sets: what is altered is the public questions, and nothing else."""

import dataclasses
import functools
import pickle
from concurrent.futures import Future

import pytest
from small_world import LABORATORY

from experiments import cells
from experiments.laboratory import config_of, train
from experiments.public_set import alter, study
from pubswap_jax.questions import embedded
from pubswap_jax.run.assembly import assemble

SMALL = LABORATORY | {"data.max_questions": 512}


@functools.cache
def run():
    return assemble(config_of("configs/math.py:hard", 2, SMALL))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_so_many_public_answers_are_of_a_wrong_procedure(share):
    public, before = run().data.split.public, run().data.train.problems
    altered = alter.wrong_answers(run(), share)
    changed = [i for i, (a, b) in enumerate(zip(before, altered.data.train.problems, strict=True)) if a != b]
    assert set(changed) <= set(public) and len(changed) == round(share * len(public))
    for i in changed:
        answer = altered.data.train.problems[i].answer
        follows = [name for name, (text, _) in embedded.demonstrations(before[i]).items() if text.endswith(f"{{{answer}}}")]
        assert len(follows) == 1 and follows[0] != embedded.TOPICS[before[i].topic].procedure
    for number in range(8):  # the judge reads the batch's problems
        event = run().timeline(run().timeline.number(number // 2, number % 2))
        for before, after in zip(run().data.batch(event).answers, altered.data.batch(event).answers, strict=True):
            for old, new in zip(before, after, strict=True):
                assert new == next(p for p in altered.data.train.problems if p.id == old.id)
    assert altered.data.split == run().data.split and altered.data.test is run().data.test


def test_two_topics_and_strangers():
    def held(questions):
        return {run().data.train.problems[i].topic for i in questions}

    two, strange = alter.two_topics(run()), alter.strangers(run())
    asked = alter.topics_of(run())
    assert len(asked) == 2 and held(two.data.split.public) == held(strange.data.split.public) == asked
    assert two.data.split.clients == run().data.split.clients and set(two.data.split.public) < set(run().data.split.public)
    for mine, all_mine in zip(strange.data.split.clients, run().data.split.clients, strict=True):
        assert mine == [i for i in all_mine if run().data.train.problems[i].topic not in asked]
    other = run()._replace(settings=run().settings | {"seed": 3})
    assert not alter.topics_of(other) & asked, "another seed has other topics"
    poor = alter.with_questions(
        run(), run().data._replace(split=dataclasses.replace(run().data.split, clients=[two.data.split.public]))
    )
    with pytest.raises(ValueError, match="seed 2: a client would be left with fewer questions"):
        alter.strangers(poor)


@pytest.mark.slow
def test_what_is_altered_is_what_is_trained():
    def all_wrong(run):
        """Marks all validation questions by wrong procedures."""
        split = dataclasses.replace(run.data.split, public=list(range(len(run.data.validation.problems))))
        everything = run._replace(data=run.data._replace(train=run.data.validation, split=split))
        return run._replace(data=run.data._replace(validation=alter.wrong_answers(everything, 1.0).data.train))

    def over(round, server):
        raise KeyboardInterrupt

    said = []
    built = config_of("configs/math.py:hard", 2, SMALL | {"data.validation": 128})  # of eight, the base may know none
    for change in (lambda run: run, all_wrong):
        with pytest.raises(KeyboardInterrupt):  # the base's score is all that is asked for
            train([built], say=said.append, watch=over, alter=change)
    clean, wrong = (line for line in said if line.startswith("base model saved"))
    assert clean != wrong, (clean, wrong)
    assert not clean.endswith("0.000"), "the base knows some answers"


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
        trained.append(alter(here).data.split)
        return [[{"round": 0}] for _ in configs]

    monkeypatch.setattr(cells.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(cells, "train", train_none)
    monkeypatch.setattr(cells, "ProcessPoolExecutor", Inline)
    asked, altered = dict.fromkeys(["clean", "two", "strange"], SMALL), {"two": alter.two_topics, "strange": alter.strangers}
    cells.fill(tmp_path / "results.json", "configs/math.py:hard", asked, [2], 1, altered)
    assert trained == [here.data.split, alter.two_topics(here).data.split, alter.strangers(here).data.split]
    assert all(pickle.loads(pickle.dumps(one))(here).settings is here.settings for one in study.alterations().values())


def test_the_study_says_what_was_not_run(tmp_path):
    asked, altered = study.cells({}), study.alterations()
    assert set(altered) < set(asked) and len(asked) == len(altered) + 2 == 10
    seeds = dict.fromkeys("12", [{"global": 0.1}, {"global": 0.3}])
    results = {study.name_of(method, study.CLEAN): seeds for method in study.METHODS}
    assert study.table(results).count("not run") == 8
    study.draw(results, tmp_path / "public_set.png")
    assert (tmp_path / "public_set.svg").exists()
