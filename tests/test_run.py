"""A run that is killed and started again ends as if nothing had happened, to the bit."""

import hashlib
import json
import pathlib
import shutil
import threading

import jax
import numpy as np
import pytest
from small_world import config_of, federated_as, finished

from pubswap_jax import loop, settings
from pubswap_jax.run import assembly, checkpoint, journal, manifest


class Killed(BaseException):
    """As kill -9: nothing of ours catches it."""


@pytest.fixture(scope="module")
def run():
    return finished()[0]


@pytest.fixture(scope="module")
def reference_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


@pytest.fixture(scope="module")
def reference(run, reference_folder):
    return outcome(loop.train(run, reference_folder), reference_folder)


def outcome(last, workdir):
    """All that must be equal: the last adapter, the best round, and every row but the clocks."""
    adapter = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(last.server.adapter))).hexdigest()
    newest = checkpoint.newest(workdir / "checkpoints", pytest.fail)
    rows = {name: journal.read(workdir, name) for name in ("metrics", "evaluations", "rollouts")}
    rows["metrics"] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows["metrics"]]
    return {"adapter": adapter, "best": checkpoint.notes(newest)["best"], "round": int(last.round)} | rows


def test_the_run_learns_something_and_says_everything_once(run, reference):
    where = [(row["round"], row.get("step")) for row in reference["metrics"]]
    rounds = [[(r, s) for s in range(4)] + [(r + 1, None)] for r in range(2)]
    assert where == [(0, None), *rounds[0], *rounds[1]]
    private, public = ([row for row in reference["metrics"] if f"{phase}/reward" in row] for phase in ("private", "public"))
    assert len(private) == len(public) == 4
    assert any(np.sum(row["public/donors"]) > 0 for row in public), "no swap: this world shows nothing"
    assert any(max(row["private/grad_norm"]) > 0 for row in private)
    asked = [(row["round"], row["split"], row["model"]) for row in reference["evaluations"]]
    assert len(asked) == len(set(asked)) and asked[:2] == [(0, "validation", "global"), (0, "test", "global")]


PHASES = {
    "evaluating the base": ("pubswap_jax.run.evaluation.evaluate", 2),
    "the first rollout": ("pubswap_jax.run.judge.verify", 4),
    "verifying": ("pubswap_jax.run.judge.verify", 7),
    "crossing the gate in a swap": ("pubswap_jax.run.ledger.Gate.admit", 14),
    "averaging": ("pubswap_jax.loop.Book.closed", 1),
    "evaluating a round": ("pubswap_jax.run.evaluation.evaluate", 4),
    "saving inside a round": ("pubswap_jax.run.checkpoint._manifest", 4),
    "syncing": ("pubswap_jax.run.checkpoint._sync", 5),
    "pruning": ("pubswap_jax.run.checkpoint.prune", 3),
    "writing a row": ("pubswap_jax.run.journal.Journal.write", 21),
    "the last round": ("pubswap_jax.loop.Book.closed", 2),
    "the end": ("pubswap_jax.run.evaluation.final_table", 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_killed_and_resumed(run, reference, tmp_path, monkeypatch, phase):
    target, at_call = PHASES[phase]
    _kill(monkeypatch, target, at_call)
    with pytest.raises(Killed):
        loop.train(run, tmp_path)
    monkeypatch.undo()
    assert outcome(loop.train(run, tmp_path), tmp_path) == reference


def _kill(monkeypatch, target, at_call):
    owner, _, name = target.rpartition(".")
    monkeypatch.setattr(target, None)
    calls = iter(range(1, 1000))
    real = monkeypatch._setattr[-1][2]

    def killed(*args, **kwargs):
        if next(calls) == at_call:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(target, killed)


def test_a_damaged_newest_checkpoint_is_passed_over_with_the_same_end(run, reference, tmp_path, monkeypatch, capsys):
    _kill(monkeypatch, "pubswap_jax.loop.Book.closed", 2)
    with pytest.raises(Killed):
        loop.train(run, tmp_path)
    monkeypatch.undo()
    newest = checkpoint.newest(tmp_path / "checkpoints", pytest.fail)
    file = max((path for path in newest.path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert outcome(loop.train(run, tmp_path), tmp_path) == reference
    assert f"{newest.path.name} is damaged and was passed over" in capsys.readouterr().out


@pytest.mark.parametrize("calls", [7, 11, 12, 14, 18, 22])  # in steps, before an averaging, in an evaluation
def test_stopped_in_good_order_and_resumed(run, reference, tmp_path, calls):
    counter = iter(range(10_000))

    def check():
        if next(counter) == calls:
            raise loop.Stopped

    with pytest.raises(loop.Stopped):
        loop.train(run, tmp_path, check=check)
    assert checkpoint.listed(tmp_path / "checkpoints")
    assert outcome(loop.train(run, tmp_path), tmp_path) == reference


@pytest.mark.parametrize("calls", [7, 18, 22])
def test_saved_by_another_thread_and_resumed(run, reference, tmp_path, calls):
    """As a signal's thread does where the run cannot end by itself: what was last offered is saved, wherever the run stands."""
    offered, counter = [], iter(range(10_000))

    def check():
        if next(counter) == calls:
            thread = threading.Thread(target=offered[-1])
            thread.start()
            thread.join()
            raise Killed

    with pytest.raises(Killed):
        loop.train(run, tmp_path, check=check, offer=offered.append)
    assert outcome(loop.train(run, tmp_path), tmp_path) == reference


def test_a_finished_run_started_again_is_as_it_was(run, reference, tmp_path):
    loop.train(run, tmp_path)
    assert outcome(loop.train(run, tmp_path), tmp_path) == reference


def test_nothing_is_compiled_after_the_first_round(run, reference, tmp_path):
    loop.train(run, tmp_path)
    last = journal.read(tmp_path, "metrics")[-1]
    assert last["round"] == 2 and last["time/compiled"] == [] and last["time/compilations"] == 0


def test_questions_drawn_again_are_the_same_after_a_resume(run, tmp_path, monkeypatch):
    config = config_of(run, training__zero_variance="resample", training__resamples=3)
    batches = assembly.make_batches(config, run.data, run.place)
    again = run._replace(settings=settings.flatten(config), data=run.data._replace(batch=batches))
    whole = outcome(loop.train(again, tmp_path / "whole"), tmp_path / "whole")
    private = [row for row in whole["metrics"] if "private/resampled" in row]
    assert len(private) == 4 and any(share > 0 for row in private for share in row["private/resampled"])
    calls = 19  # of the verifier: the first call of the second round is a later one, and the first round has more than 8
    _kill(monkeypatch, "pubswap_jax.run.judge.verify", calls)
    with pytest.raises(Killed):
        loop.train(again, tmp_path / "killed")
    monkeypatch.undo()
    steps = sum("step" in row for row in journal.read(tmp_path / "killed", "metrics"))
    assert 0 < steps < 8
    assert outcome(loop.train(again, tmp_path / "killed"), tmp_path / "killed") == whole


def test_a_changed_config_is_refused_with_the_difference(run, reference, tmp_path):
    loop.train(run, tmp_path)
    other = changed(run, training__lr=0.5)
    with pytest.raises(ValueError, match=r"training.lr: 0.02 before, 0.5 now; name another --workdir, or go on with --fork"):
        loop.train(other, tmp_path)
    assert int(loop.train(other, tmp_path, fork=True).round) == 2
    description = json.loads((pathlib.Path(tmp_path) / "run.json").read_text())
    assert description["config"]["training.lr"] == 0.5


@pytest.fixture
def done(reference, reference_folder, tmp_path):
    shutil.copytree(reference_folder, tmp_path / "run")
    return tmp_path / "run"


def changed(run, **values):
    return federated_as(run, config_of(run, **values))


def test_the_command_of_a_finished_run_loses_nothing(run, reference, done, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in done.glob("*.jsonl")}
    monkeypatch.setattr("pubswap_jax.run.recorder._sinks", lambda *_: pytest.fail("nothing is left to write"))
    loop.train(run, done)
    assert {path.name: path.read_bytes() for path in done.glob("*.jsonl")} == before
    assert "on the test questions, pass@1:" in capsys.readouterr().out
    monkeypatch.undo()
    rows = (done / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    (done / "evaluations.jsonl").write_bytes(b"".join(rows[:-1]))  # killed before its last figures
    assert outcome(loop.train(run, done), done) == reference


def test_a_start_that_fails_before_it_begins_leaves_the_files_as_they_were(run, done, monkeypatch):
    before = {path.name: path.read_bytes() for path in done.glob("*.json*")}
    with pytest.raises(ValueError, match="config.federation.rounds=1: .* is in round 2 already"):
        loop.train(changed(run, federation__rounds=1), done)
    other = changed(run, federation__rounds=3)
    with pytest.raises(ValueError, match="holds other arrays than this config's"):
        loop.train(
            other._replace(policy=run.policy._replace(adapter=jax.tree.map(lambda x: x[..., :1], run.policy.adapter))),
            done,
            fork=True,
        )
    monkeypatch.setattr("pubswap_jax.run.recorder._sinks", lambda *_: (_ for _ in ()).throw(ValueError("no sink")))
    with pytest.raises(ValueError, match="no sink"):
        loop.train(changed(run, federation__rounds=2), done, fork=True)
    after = {path.name: path.read_bytes() for path in done.glob("*.json*")}
    assert after == before


def test_one_writes_at_a_time(run, done):
    with manifest.alone(done), pytest.raises(ValueError, match="another process writes to it"):
        loop.train(run, done)
    loop.train(run, done)


def test_files_of_somebody_else_are_left_alone(run, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("my precious")
    with pytest.raises(ValueError, match="no run of ours wrote it"):
        loop.train(run, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "my precious"


def test_where_no_checkpoint_is_sound_nothing_begins_anew(run, done):
    for path in (done / "checkpoints").glob("round-*/notes.json"):
        path.write_text("{}")
    with pytest.raises(ValueError, match="no checkpoint in it is sound"):
        loop.train(run, done)
