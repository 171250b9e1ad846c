"""The Python API: one call trains, an interrupt saves, the same call goes on; and what the returned run can do."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from notebooks import code_cells
from small_world import finished, small_config, write_base, write_questions

import pubswap_jax as ps
from pubswap_jax import fields, notebook
from pubswap_jax.run import journal
from pubswap_jax.run.signals import Stopped
from pubswap_jax.weights.pretrained import load_adapter


def close(completions, answer):
    return [float(a in one[0]["content"]) for one, a in zip(completions, answer, strict=True)]


def nobody(key, correct, present=None):
    return ps.no_swap(key, correct, present)


@pytest.fixture(scope="module")
def trained():
    return notebook.Trained(*finished())


def test_metrics_are_rows_and_a_frame(trained):
    rows = trained.metrics
    assert rows == journal.read(trained.workdir, "metrics") and len(rows) == 2 * 4 + 3
    frame = rows.to_pandas()
    assert len(frame) == len(rows) and frame["private/reward"].notna().sum() == 4
    assert frame["step"].isna().sum() == 3 and frame["round"].iloc[-1] == 2
    np.testing.assert_allclose(frame["private/reward"].iloc[1], np.mean(rows[1]["private/reward"]))


def test_the_best_round_is_that_of_the_folder(trained):
    mine, theirs = trained.best, ps.best(trained.workdir)
    assert (mine.round, mine.score, mine.shared) == (theirs.round, theirs.score, True)
    jax.tree.map(np.testing.assert_array_equal, mine.adapter, theirs.adapter)
    assert repr(trained) == f"<run in {trained.workdir}: round 2 of 2>"


def test_a_run_without_a_checkpoint_can_be_shown(trained, tmp_path):
    assert repr(notebook.Trained(trained.run, tmp_path)) == f"<run in {tmp_path}: interrupted before its first checkpoint>"


def test_questions_of_ones_own_before_and_after(trained):
    found = trained.compare("0+1=", samples=3, seed=4)
    assert found.question == "0+1=" and len(found.before) == len(found.after) == 3
    assert trained.ask("0+1=", 3, seed=4) == found.after
    assert set("".join(found.before + found.after)) <= set("012+=")
    assert "<th>after</th>" in found._repr_html_() and str(found).startswith("0+1=\nbefore: ")
    assert isinstance(trained.ask("0+1="), str)


def test_export_and_report(trained, tmp_path):
    trained.export(tmp_path)
    folders = trained.export(tmp_path)
    assert tmp_path / "global" in folders
    (tmp_path / "global" / "mine.txt").write_text("stays")
    with pytest.raises(FileExistsError, match="holds mine.txt, which would be lost"):
        trained.export(tmp_path)
    (tmp_path / "global" / "mine.txt").unlink()
    _, adapter = load_adapter(tmp_path / "global", trained.run.policy.config)
    jax.tree.map(np.testing.assert_allclose, adapter, jax.device_get(trained.best.adapter))
    shown = trained.report
    assert shown.path.exists() and shown._repr_html_().startswith("<iframe srcdoc=") and "&lt;" in shown._repr_html_()


@pytest.fixture
def _keyboard():
    """Python's own handler of SIGINT: a process that a shell began in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_keyboard")
def test_an_interrupt_stops_at_the_next_check_and_a_second_one_at_once(capsys):
    before = signal.getsignal(signal.SIGINT)
    with notebook._interruptible(lambda: None) as check:
        check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is before and "saving" in capsys.readouterr().out


def test_arguments_are_fields_of_the_config_and_equal_ones_have_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(notebook, "assemble", lambda config, given: seen.append((config, given)) or "run")
    monkeypatch.setattr(notebook.loop, "train", lambda run, folder, **_: seen.append(folder))
    rows = [{"question": "1=", "answer": "1"}]
    same = {"reward": [close, "format"], "planner": "rescue", "aggregator": ps.median(), "questions": rows}
    ps.train("math", rounds=5, fields={"reward.weights": "1,2"}, **same)
    config, given = seen[0]
    assert (config.federation.rounds, config.federation.swap, config.reward.weights) == (5, "rescue", "1,2")
    assert [one.name for one in given.rewards] == ["close", "format"] and given.planner is None
    assert given.aggregator is not None and given.questions == rows
    ps.train("math", rounds=7, fields={"reward.weights": "1,2"}, **same)
    ps.train("math", rounds=7, fields={"reward.weights": "1,2"}, **same | {"reward": [nobody, "format"]})
    assert seen[1] == seen[3] != seen[5] and seen[1].parent == pathlib.Path("runs")
    ps.train("math", questions="q.jsonl", model="folder")
    assert (seen[6][0].data.path, seen[6][0].model.path) == ("q.jsonl", "folder")
    ps.train("math", questions="gsm8k+math")
    assert (seen[8][0].data.path, seen[8][0].data.name) == ("", "gsm8k+math")
    ps.train(fields.default_config(), tmp_path / "here", planner=nobody)
    assert seen[10][1].planner is nobody and seen[11] == tmp_path / "here"


MISTAKES = {
    "a planner that is no function": ({"planner": 3}, "planner=3: a function or a name of federation.swap expected"),
    "a misspelt planner": ({"planner": "balance"}, "federation.swap=balance: did you mean balanced?"),
    "an aggregator that is a function": ({"aggregator": nobody}, "aggregator=nobody: an Aggregator expected, such as"),
    "a reward that is a number": ({"reward": 1.0}, "reward: a function expected, got 1.0"),
    "a misspelt reward": ({"reward": "verifer"}, "reward.functions=verifer: no such function; did you mean verifier?"),
    "a misspelt field": ({"fields": {"training.learning": 1}}, "--config.training.learning: no such field"),
    "all splits": ({"questions": {"train": [], "test": []}}, "rows expected, not a mapping of train, test; give one of its"),
    "texts as rows": ({"questions": ["1 + 1?"]}, "questions[0] is a str; a row such as"),
    "a number of rows": ({"questions": 5}, "questions=5: a list of rows, a datasets.Dataset or a DataFrame expected"),
}


@pytest.mark.parametrize("beside", [{}, {"workdir": "w", "rounds": 2}, {"workdir": "w", "planner": "rescue"}])
def test_an_assembled_run_takes_a_folder_and_nothing_that_it_has_already(beside, monkeypatch):
    monkeypatch.setattr(notebook.loop, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match="an assembled Run has its model"):
        ps.train(finished()[0], **beside)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "assemble", lambda config, given: pytest.fail("assembled"))
    arguments, message = MISTAKES[mistake]
    with pytest.raises(ValueError) as error:
        ps.train("math:tiny", tmp_path / "run", **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


# What the test sets after the notebook's cell of parameters: a random model of eight characters, sums, and fewer of everything.
SMALL = """
MODEL, QUESTIONS, QUESTION, ROUNDS = {base!r}, {questions!r}, "0+1=", 1
FIELDS |= {{"model.instruction": "", "data.validation": 12, "data.test": 12, "data.public": 0.2, "training.group": 2}}
FIELDS |= {{"training.prompts": 2, "training.max_new_tokens": 3, "federation.num_clients": 2, "federation.steps": 2}}
FIELDS |= {{"federation.swap_period": 2, "compilation_cache": ""}}
"""


@pytest.mark.filterwarnings("default")
@pytest.mark.slow
def test_the_notebook_for_a_real_model_runs_with_a_random_one(tmp_path):
    cells = code_cells("real_model_t4.ipynb")
    (at,) = (i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", ()))
    base, questions = write_base(tmp_path / "base"), write_questions(tmp_path / "questions.jsonl")
    sources = ["".join(cell["source"]) for cell in cells]
    sources.insert(at + 1, SMALL.format(base=str(base), questions=str(questions)))
    (tmp_path / "cells.py").write_text("\n".join(sources))
    done = subprocess.run([sys.executable, "cells.py"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "validation pass@1: " in done.stdout and f"vllm serve {base} --enable-lora" in done.stdout
    assert (tmp_path / "adapters" / "global" / "adapter_config.json").exists()
    described = json.loads((tmp_path / "runs" / "real_model" / "run.json").read_text())
    assert described["config"]["model.dtype"] == "float32" and described["config"]["training.microbatch"] == 1
    assert [one["name"] for one in described["rewards"]] == ["verifier", "format"]


@pytest.mark.slow
def test_what_is_passed_in_is_used_on_all_steps_and_a_resume_needs_it(tmp_path, capsys):
    calls, told = [], []

    def rewarded(completions, answer, topic):
        calls.append(len(completions))
        return close(completions, answer)

    rows = [json.loads(line) for line in write_questions(tmp_path / "rows.jsonl").read_text().splitlines()]
    config = small_config(tmp_path, federation__rounds=2, data__path="", log__distortion="off")
    how = {"questions": rows, "reward": rewarded, "planner": nobody, "aggregator": ps.median()}

    def stop_after_the_first(round):
        told.append(round)
        os.kill(os.getpid(), signal.SIGINT)

    run = ps.train(config, tmp_path / "run", on_round=stop_after_the_first, **how)
    assert "interrupted and saved" in capsys.readouterr().out and [one.round for one in told] == [1]
    assert repr(run).endswith("round 1 of 2>") and len([row for row in run.metrics if "step" in row]) == 4
    run = ps.train(config, tmp_path / "run", on_round=told.append, **how)
    whole = ps.train(config, tmp_path / "whole", **how)
    timeless = [[{k: v for k, v in row.items() if not k.startswith("time/")} for row in one.metrics] for one in (run, whole)]
    assert timeless[0] == timeless[1] and [one.round for one in told] == [1, 2]
    steps = [row for row in run.metrics if "step" in row]
    assert len(steps) == 8 and all("reward/rewarded" in row for row in steps) and set(calls) == {3 * 4 * 4}
    assert not any(any(row["public/swapped"]) for row in steps if "public/swapped" in row)
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["given"]["planner"]["name"] == "nobody" and manifest["given"]["questions"]["name"] == "120 rows"
    assert manifest["rewards"][0]["name"] == "rewarded" and len(manifest["given"]["aggregator"]["sha256"]) == 64
    for left_out, message in (
        ("planner", r"begun with planner= from Python \(nobody\); pass it to pubswap_jax.train again"),
        ("aggregator", "begun with aggregator= from Python"),
        ("reward", "the run's rewards were 1 rewarded, not none"),
    ):
        with pytest.raises(ValueError, match=message):
            ps.train(config, tmp_path / "run", **{name: value for name, value in how.items() if name != left_out})
    with pytest.raises(ValueError, match="aggregator= is not what it was when the run began"):
        ps.train(config, tmp_path / "run", **how | {"aggregator": ps.trimmed_mean(1)})
    with pytest.raises(ValueError, match="begun with aggregator= from Python"):
        ps.best(tmp_path / "run")
    assert run.best.round in (0, 1, 2)
