"""What a run leaves behind: every row once, transcripts that say who gave what, evaluations that can be read again."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_world import config_of, event_at, federated_as, finished

from pubswap_jax import loop
from pubswap_jax.run import doctor, journal, recorder
from pubswap_jax.run.recorder import read_evaluations
from pubswap_jax.run.symptoms import needed
from pubswap_jax.types import STATUSES, TIMEOUT, Verdict


def test_rows_have_a_number_a_client():
    run, workdir = finished()
    steps = [row for row in journal.read(workdir, "metrics") if "step" in row]
    for row in steps:
        phase = event_at(run, row["round"], row["step"]).kind
        assert (
            len(row[f"{phase}/reward"]) == 3 and row[f"{phase}/tokens"] > 0 and ("public/donors" in row) == (phase == "public")
        )
        assert not [name for name in row if name.startswith({"public": "private/", "private": "public/"}[phase])]
    public = [row for row in steps if "public/donors" in row]
    slots = run.settings["training.prompts"] * run.settings["training.group"]
    for row in public:
        np.testing.assert_allclose(np.sum(row["public/donors"], axis=1) / slots, row["public/swapped"], rtol=1e-6)
        assert row["swap/replacements"] == np.sum(row["public/donors"], axis=1).tolist()
    assert ["swap/bound" in row for row in public] == [False, True] * 2, "M·β at a round's last public step"
    for row in (row for row in public if "swap/bound" in row):
        bound, distance, group = (np.array(row[f"swap/{name}"]) for name in ("bound", "distance", "group"))
        assert (bound >= distance * (1 - 1e-5)).all() and ((distance > 0) == (group > 0)).all()
        assert (group <= row["swap/replacements"]).all()


def test_transcripts_show_the_swap():
    run, workdir = finished()
    rows = journal.read(workdir, "rollouts")
    assert [(row["round"], row["step"]) for row in rows] == [(r, s) for r in range(2) for s in range(4)]
    for public in (True, False):
        assert [row["client"] for row in rows if row["public"] == public] == [0, 1, 2, 0], (
            "every client, in either kind of step"
        )
    for row in rows:
        assert len(row["responses"]) == run.settings["training.group"]
        assert all(response["verdict"] in STATUSES for response in row["responses"])
        swapped = [response for response in row["responses"] if "replaced_by" in response]
        assert row["public"] or not swapped
        assert all(r["from_client"] != row["client"] and r["verdict"] != "correct" for r in swapped)
        assert all(row["answer"] in r["replaced_by"] for r in swapped)


def test_evaluations_are_read_again():
    run, workdir = finished()
    problems = {"validation": run.data.validation.problems, "test": run.data.test.problems}
    found = read_evaluations(workdir, problems)
    rows = journal.read(workdir, "evaluations")
    assert len(found) == len(rows)
    for row in rows:
        evaluation = found[row["round"], row["split"], row["model"]]
        assert evaluation.correct.shape == (12, 2) and evaluation.correct.mean() == row["figures"]["pass@1"]


@pytest.mark.slow
def test_an_alarm_is_printed_once_and_its_name_stands_in_the_rounds_row(tmp_path, capsys):
    """Ten steps are the fewest that an alarm looks at: the third round of four steps is the first that can raise one."""
    run, _ = finished()
    longer = federated_as(run, config_of(run, federation__rounds=4))
    status = np.zeros((3, 4, 4), np.int8)
    status[1, :, :2] = TIMEOUT
    nothing = Verdict(np.zeros((3, 4, 4), np.float32), np.zeros((3, 4, 4), bool), status)
    wrong = longer._replace(judge=lambda rollouts, batch: jax.device_put(nothing))
    loop.train(wrong, tmp_path)
    said = capsys.readouterr().out
    assert said.count("ALARM: nothing right: not one response") == 1
    rows = journal.read(tmp_path, "metrics")
    shares = [row[name] for row in rows for name in row if name.endswith("/timeout")]
    assert shares == [[0.0, 0.5, 0.0]] * 16
    rounds = [row for row in rows if "step" not in row]
    assert ["nothing right" in row.get("round/alarms", []) for row in rounds] == [False, False, False, True, False]
    assert doctor.alarms(rounds[:1]) == []


def test_a_resumed_recorder_knows_the_rows_and_alarms_of_the_start_before(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    rows = journal.read(tmp_path / "run", "metrics")
    rows[-1]["round/alarms"] = ["truncated"]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    position = {name: (tmp_path / "run" / f"{name}.jsonl").stat().st_size for name in recorder.FILES}
    resumed = recorder.Recorder(run, tmp_path / "run", position, 8)
    resumed.close()
    assert resumed.rows == [needed(row) for row in rows] and resumed.rows[-1]["round/alarms"] == ["truncated"]
