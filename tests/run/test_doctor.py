"""The alarms: each one on rows that must raise it and on rows that must not, and on rows that real runs wrote."""

import json
import pathlib

import pytest
from test_main import smoke

from pubswap_jax import fields, main, settings
from pubswap_jax.fields import default_config
from pubswap_jax.run import doctor, journal
from pubswap_jax.run.symptoms import needed

ROOT = pathlib.Path(__file__).parents[2]
HEALTHY = {"reward": 0.5, "correct": 0.5, "entropy": 0.3, "truncated": 0.0, "zero_variance": 0.3, "timeout": 0.0}


def rows_of(rounds=2, steps=20, public=2, ended=None, **changes):
    """Rows of two clients. `changes`: a number, or a function of the step's number; `ended`: more of a round's row."""
    rows = [{"round": 0, "eval/pass@1": 0.3}]
    for number in range(rounds * steps):
        phase = "public" if public and number % public == public - 1 else "private"
        values = {name: call(changes.get(name, value), number) for name, value in HEALTHY.items()}
        row = {"round": number // steps, "step": number % steps} | {f"{phase}/{k}": [v, v] for k, v in values.items()}
        if phase == "public":
            row["public/donors"] = changes.get("donors", [[0, 2, 2], [2, 0, 2], [2, 2, 0]])
        rows.append(row)
        if row["step"] == steps - 1:
            moved = {"round/drift_by_module": [[0.4, 0.5, 0.7], None], "round/excluded": [0, 0]}
            score = {"eval/pass@1": 0.4 + 0.1 * row["round"]}
            rows.append({"round": row["round"] + 1, **score, **moved, **(ended(row["round"] + 1) if ended else {})})
    return rows


def call(value, number):
    return value(number) if callable(value) else value


def only_public(value):
    return lambda number: value if number % 2 else 0.5


def late(first, then, after=20):
    return lambda number: first if number < after else then


def still():
    return {"round/drift_by_module": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]}


def evaluated(round):
    return {"eval/pass@1": 0.85}


def resting():
    return {"round/experts_asked": [0.0, 0.0]}


def falling(round, half):
    score = 0.5 - 0.04 * round
    return {"eval/pass@1": score, "eval/pass@1_low": score - half, "eval/pass@1_high": score + half}


# {alarm: (rows that raise it, rows just on the other side)}
CASES = {
    "flat_groups": (
        [rows_of(zero_variance=0.85), rows_of(zero_variance=0.9, correct=0.1, reward=0.1)],
        [
            rows_of(zero_variance=0.75),
            rows_of(zero_variance=0.99, correct=0.95),
            rows_of(1, 8, zero_variance=1.0),
            rows_of(zero_variance=0.9, ended=evaluated),
        ],
    ),
    "truncated": ([rows_of(truncated=0.35), rows_of(truncated=late(0, 0.9))], [rows_of(truncated=late(0.9, 0.2))]),
    "still_adapter": (
        [rows_of(ended=lambda r: {"round/drift_by_module": [[1e-3, 2e-3, 0.9]]}), rows_of(ended=lambda r: still())],
        [
            rows_of(ended=lambda r: {"round/drift_by_module": [[1e-3, 3e-3, 0.9]]}),
            rows_of(1, 8, ended=lambda r: still()),
            rows_of(ended=lambda r: still() | resting()),
        ],
    ),
    "reward_without_validation": (
        [
            rows_of(ended=lambda r: {"eval/pass@1": 0.5 - 0.04 * r}, reward=late(0.5, 0.6)),
            rows_of(ended=lambda r: falling(r, 0.01), reward=late(0.5, 0.6)),
        ],
        [
            rows_of(reward=late(0.5, 0.6)),
            rows_of(ended=lambda r: {"eval/pass@1": 0.5 - 0.04 * r}, reward=0.5),
            rows_of(ended=lambda r: falling(r, 0.05), reward=late(0.5, 0.6)),
        ],
    ),
    "entropy_collapse": (
        [rows_of(entropy=late(0.3, 0.02))],
        [rows_of(entropy=late(0.3, 0.05)), rows_of(entropy=late(0.3, 0.02), correct=0.9), rows_of(entropy=0.01)],
    ),
    "unsolved_public_set": (
        [rows_of(correct=only_public(0))],
        [rows_of(correct=only_public(0.01)), rows_of(1, 8, correct=only_public(0)), rows_of(public=0)],
    ),
    "nothing_right": (
        [rows_of(correct=0.0, reward=0.0), rows_of(correct=late(0.1, 0.0))],
        [rows_of(correct=0.001), rows_of(1, 8, correct=0.0)],
    ),
    "verifier_timeouts": ([rows_of(timeout=0.03)], [rows_of(timeout=0.01)]),
    "dominant_donor": (
        [rows_of(donors=[[0, 0, 0], [9, 0, 0], [9, 1, 0]])],
        [
            rows_of(donors=[[0, 2, 1], [9, 0, 0], [9, 1, 0]]),
            rows_of(donors=[[0, 0], [9, 0]]),
            rows_of(1, 8, donors=[[0, 0, 0], [1, 0, 0], [9, 0, 0]]),
        ],
    ),
    "falling_reward": ([rows_of(reward=late(0.5, 0.2))], [rows_of(reward=late(0.5, 0.4)), rows_of(reward=late(0.2, 0.5))]),
    "excluded_clients": ([rows_of(ended=lambda r: {"round/excluded": [0, 1]})], [rows_of()]),
}


@pytest.mark.parametrize("alarm", doctor.ALARMS, ids=lambda alarm: alarm.check.__name__)
def test_each_alarm_is_raised_and_is_silent_just_below(alarm):
    wrong, right = CASES[alarm.check.__name__]
    known = [field.name for field in fields.FIELDS]
    assert all(name in known for name in alarm.fields.split())
    for rows in wrong:
        line = alarm.check(rows)
        assert line and "\n" not in line and len(line) < 260 and all(name in line for name in alarm.fields.split())
        assert f"{alarm.check.__name__.replace('_', ' ')}: {line}" in doctor.alarms(rows)
    for rows in right:
        assert alarm.check(rows) is None


def test_flat_groups_suggest_what_the_way_of_federating_takes():
    ways = {
        "pubswap": (rows_of(zero_variance=0.9), "resample"),
        "fedgrpo": (rows_of(zero_variance=0.9, ended=lambda r: resting()), "exclude"),
        "fedbuff": ([row | {"simulated/time": 1.0} for row in rows_of(zero_variance=0.9, public=0)], "exclude"),
        "pubswap, all steps public": (rows_of(zero_variance=0.9, public=1), "exclude"),
    }
    for way, (rows, choice) in ways.items():
        for kept in (rows, list(map(needed, rows))):  # as the doctor reads them, and as a run that goes on does
            assert f"training.zero_variance={choice}" in doctor.flat_groups(kept)
        config = default_config()
        config.federation.method, config.training.zero_variance = way.split(",")[0], choice
        config.federation.swap_period = 0 if way == "fedbuff" else 1 if "all" in way else 2
        settings.check(config)


def test_no_rows_and_a_healthy_run_raise_nothing():
    assert set(CASES) == {alarm.check.__name__ for alarm in doctor.ALARMS}
    for rows in ([], [{"round": 0, "eval/pass@1": 0.3}], rows_of(), rows_of(public=0), rows_of(public=1)):
        assert doctor.alarms(rows) == []


def test_the_page_has_the_table_of_the_code():
    text = (ROOT / "docs" / "doctor.md").read_text()
    assert doctor.table() in text, "python -m pubswap_jax.run.doctor prints the table that belongs into docs/doctor.md"


RECORDED = json.loads((ROOT / "tests" / "golden" / "doctor_rows.json").read_text())


@pytest.mark.parametrize("name", RECORDED)
def test_rows_that_real_runs_wrote(name):
    """Each entry says how the run was broken, and which alarms it raised when it was recorded."""
    raised = [line.partition(":")[0] for line in doctor.alarms(RECORDED[name]["rows"])]
    assert raised == RECORDED[name]["alarms"]
    assert (raised == []) is ("broken" not in RECORDED[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, alarm",
    [
        (["--config.training.max_new_tokens=1"], "truncated: "),
        (["--config.training.lr=1e-9"], "still adapter: "),
    ],
)
def test_a_run_broken_on_purpose(flags, alarm, tmp_path, capsys):
    assert main.main(smoke(tmp_path, "--config.federation.steps=12", "--config.data.test=4", *flags)) == 0
    assert f"ALARM: {alarm}" in capsys.readouterr().out
    assert main.main(["--mode=doctor", f"--workdir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().out
    assert any(line.startswith(alarm) for line in said.splitlines()), said
    assert journal.read(tmp_path / "run", "metrics")


def test_a_folder_without_a_run_and_a_flag_are_mistakes(tmp_path, capsys):
    assert main.main(["--mode=doctor", f"--workdir={tmp_path}"]) == 2
    assert "no run.json in it" in capsys.readouterr().err
    assert main.main(["--mode=doctor", f"--workdir={tmp_path}", "--config.seed=1"]) == 2
    assert "--mode=doctor shows the run as it was" in capsys.readouterr().err
