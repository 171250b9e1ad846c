"""What is evaluated when, and the final table."""

import jax
import numpy as np
from small_world import finished

from pubswap_jax.questions.problem import Problem
from pubswap_jax.run import evaluation, journal
from pubswap_jax.run.pass_at_k import Evaluation


def test_base_first_then_rounds_on_validation_then_the_best_on_test():
    _, workdir = finished()
    rows = [(row["round"], row["split"], row["model"]) for row in journal.read(workdir, "evaluations")]
    each = [(r, "validation", model) for r in (1, 2) for model in ("global", "client 0", "client 1", "client 2")]
    assert rows == [(0, "validation", "global"), (0, "test", "global"), *each, *rows[10:]]
    scores = {
        row["round"]: row["figures"]["pass@1"]
        for row in journal.read(workdir, "evaluations")
        if row["model"] == "global" and row["split"] == "validation"
    }
    best = max(scores, key=lambda round: (scores[round], -round))
    assert rows[10:] == ([(best, "test", "global")] if best else [])


def test_evaluation_takes_its_own_settings_and_never_trainings_randomness(monkeypatch):
    run, _ = finished()
    seen = []
    monkeypatch.setattr(evaluation, "evaluate", lambda *args: seen.append(args) or [])
    examine = evaluation.make_examine(run, lambda: None)
    examine({}, run.data.validation)
    examine({}, run.data.test, greedy=True)
    assert [args[1:] for args in seen] == [
        (run.policy.base, {}, run.data.validation, False),
        (run.policy.base, {}, run.data.test, True),
    ]
    for examiner in (args[0] for args in seen):
        assert examiner._replace(grade=None) == run.examiner._replace(grade=None)
    assert run.examiner.batch == run.settings["evaluation.batch"] and run.examiner.samples == 2
    assert (
        jax.random.key_data(run.examiner.key).tolist()
        == jax.random.key_data(jax.random.key(run.settings["evaluation.seed"])).tolist()
    )


def test_the_final_table_by_hand():
    problems = [Problem(str(i), "?", "1", "ab"[i]) for i in range(2)]
    make = lambda bits: Evaluation(problems, np.array(bits, bool), np.full((2, 2), "", object), np.zeros((2, 2)))  # noqa: E731
    found = {
        (0, "test", "global"): make([[0, 0], [1, 0]]),
        (3, "test", "client 0"): make([[1, 1], [1, 0]]),
        (3, "test", "client 1"): make([[0, 0], [1, 1]]),
        (3, "validation", "global"): make([[0, 0], [0, 0]]),
    }
    lines = evaluation.final_table(found, 3).splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["a", "1", "0.000", "0.500"],
        ["b", "1", "0.500", "0.750"],
        ["all", "2", "0.250", "0.625"],
    ]
