"""The writer: rows without duplicates or holes, and the clock."""

import sys
import types

import numpy as np
import pytest

from pubswap_jax.run import journal


def test_rows_after_the_checkpoint_are_cut_and_written_once(tmp_path):
    written = journal.Journal(tmp_path, ["metrics", "rollouts"])
    written.write("metrics", {"round": 0, "step": 0})
    position = written.position()
    written.write("metrics", {"round": 0, "step": 1})
    assert [row["step"] for row in journal.read(tmp_path, "metrics")] == [0, 1], "a row is on disk before the next checkpoint"
    written.write("rollouts", {"text": "é"})
    written.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round": 0, "st')  # killed amid a row
    assert [row["step"] for row in journal.read(tmp_path, "metrics")] == [0, 1]
    written = journal.Journal(tmp_path, ["metrics", "rollouts"], position)
    written.write("metrics", {"round": 0, "step": 1})
    assert written.position() == {"metrics": 2 * position["metrics"], "rollouts": 0}
    assert [row["step"] for row in journal.read(tmp_path, "metrics")] == [0, 1]
    assert journal.read(tmp_path, "rollouts") == [] == journal.read(tmp_path, "nothing")
    written.close()


def test_a_file_shorter_than_the_checkpoint_says_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metrics.jsonl: 9 bytes expected by the checkpoint, 0 found"):
        journal.Journal(tmp_path, ["metrics"], {"metrics": 9})


def test_floats_come_back_to_the_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    written = journal.Journal(tmp_path, ["metrics"])
    written.write("metrics", journal.row(1, 2, "private", {"loss": values, "count": np.int32(3)}))
    written.position()
    (row,) = journal.read(tmp_path, "metrics")
    assert np.array(row["private/loss"], np.float32).tobytes() == values.tobytes()
    assert (row["round"], row["step"], row["private/count"]) == (1, 2, 3)
    written.close()


def test_scalars_are_means_over_those_who_took_part():
    row = journal.row(3, None, "public", {"reward": np.array([1.0, 0.0, 9.0]), "n": 2}, present=np.array([True, True, False]))
    assert row == {"round": 3, "public/reward": [1.0, 0.0, None], "public/n": 2}
    assert journal.scalars(row | {"eval/by_topic": {"a": 1}, "eval/names": ["x"]}) == {"public/reward": 0.5, "public/n": 2.0}


def test_tensorboard_takes_back_what_is_written_again(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step, flush_secs):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    sink = journal.tensorboard(tmp_path, 7)
    sink.write(8, {"private/loss": 0.5})
    sink.close()
    assert calls == [(str(tmp_path), 7), ("private/loss", 0.5, 8), "closed"]


def test_wandb_goes_on_under_the_same_id(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finished"))
    fake = types.SimpleNamespace(init=lambda **settings: calls.append(settings) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = journal.wandb("swaps", tmp_path, {"seed": 1})
    sink.write(8, {"private/loss": 0.5})
    sink.close()
    assert calls[0]["resume"] == "allow" and calls[0]["id"] == tmp_path.name and calls[0]["config"] == {"seed": 1}
    assert calls[1:] == [(8, {"private/loss": 0.5}), "finished"]


def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"config.log.wandb needs wandb: pip install 'pubswap_jax\[wandb\]'"):
        journal.wandb("swaps", tmp_path, {})


def test_the_clock_books_each_phase_and_the_rest(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(journal.time, "perf_counter", lambda: now[0])
    clock = journal.Clock()

    def work(seconds):
        now[0] += seconds
        return seconds

    assert clock.timed("rollout", work)(2.0) == 2.0
    assert clock.split() == {"rollout": 2.0}
    clock.timed("rollout", work, wait=work)(1.0)
    now[0] += 0.5
    assert clock.split() == {"rollout": 2.0} and clock.split() == {}
    assert clock.lap() == {"rollout": 4.0, "other": 0.5, "total": 4.5}
    with pytest.raises(ZeroDivisionError):
        clock.timed("update", lambda: 1 / 0)()
    assert clock.lap() == {"update": 0.0, "other": 0.0, "total": 0.0}
