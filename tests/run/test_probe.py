"""What a base can do before it is trained: figures by topic, and what to change."""

import numpy as np
from small_world import config_of, finished

from pubswap_jax.questions.problem import Problem
from pubswap_jax.run import export, probe

SETTINGS = {"training.max_new_tokens": 10}


def found(correct, cut=False):
    correct = np.array(correct, bool)
    problems = [Problem(str(i), f"question {i}", "1", topic="ab"[i % 2]) for i in range(len(correct))]
    lengths, texts = np.full(correct.shape, 4), np.full(correct.shape, "1", object)
    return probe.Answers(problems, correct, lengths, np.full(correct.shape, cut), texts)


def test_figures_by_hand():
    lines = probe.described(found([[1, 0], [0, 0], [1, 1], [0, 0]]), SETTINGS).splitlines()
    assert lines[0].split()[2:4] == ["pass@1", "pass@2"]
    assert lines[1].split() == ["a", "2", "0.750", "1.000", "0.00", "0.50", "4.0", "0.00"]
    assert lines[2].split() == ["b", "2", "0.000", "0.000", "1.00", "0.00", "4.0", "0.00"]
    assert lines[3].split() == ["all", "4", "0.375", "0.500", "0.50", "0.25", "4.0", "0.00"]
    assert [line for line in lines if line.startswith("question")][:2] == ["question 0: question 0", "question 1: question 1"]
    assert "answer   '1' (right)" in lines and "answer   '1' (wrong)" in lines


def test_advice_tells_a_base_as_it_comes_from_one_after_a_warm_up():
    """A first look's rows: 2 % right, long prose, 85 % of groups all wrong; after a warm-up pass@8 far above pass@1."""
    prose = np.zeros((20, 8), bool)
    prose[:3, 0] = True
    first = probe.advice(found(prose, cut=True), SETTINGS)
    assert "100% of the answers are cut off at training.max_new_tokens=10" in first[0]
    assert "85% of the groups are all wrong" in first[1] and "warm-up (model.warmup)" in first[1]
    warm = np.zeros((20, 8), bool)
    warm[:12, :3] = True
    (line,) = probe.advice(found(warm), SETTINGS)
    assert line == "there is something to elicit: pass@8 is 0.38 above pass@1, and 40% of the groups fail"
    assert probe.advice(found(np.ones((4, 8))), SETTINGS)[0].startswith("almost every answer is right")


def test_a_run_is_asked_training_questions_with_its_own_samples():
    run, _ = finished()
    seen = probe.answers(run, run.policy.adapter, 20)
    assert seen.correct.shape == seen.lengths.shape == (20, run.settings["training.group"])
    assert {problem.id for problem in seen.problems} < {problem.id for problem in run.data.train.problems}
    assert len({problem.id for problem in seen.problems}) == 20
    assert seen.lengths.max() <= 3 and 0 < seen.correct.mean() < 1
    assert (
        seen.correct
        <= np.array([[one.answer in text for text in row] for one, row in zip(seen.problems, seen.texts, strict=True)])
    ).all()


def test_a_plain_file_is_graded_with_an_exported_adapter(tmp_path):
    run, workdir = finished()
    config = config_of(run, verifier__accept="evaluated", evaluation__samples=2, evaluation__batch=4)
    file = tmp_path / "plain.jsonl"
    file.write_text("".join(f'{{"question": "{a}+{b}=", "answer": {(a + b) % 3}}}\n' for a in (0, 1, 2) for b in (0, 1, 2)))
    best = export.best(workdir)
    export.export_adapter(tmp_path / "adapter", best.adapter, best.config, str(best.base))
    text = export.evaluate_file(config, tmp_path, str(tmp_path / "adapter"), str(file))
    assert text.startswith(f"9 questions of {file}, 2 samples each") and "pass@1 " in text and "evaluated@1" in text
    assert text == export.evaluate_file(config, workdir, "", str(file))
