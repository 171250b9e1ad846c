"""What is written when, and on which terms a later start goes on."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_world import finished

from pubswap_jax.run import checkpoint, state


def test_moments_are_written_only_where_they_are_used_again(tmp_path):
    run, _ = finished()
    at = state.beginning(run)
    for step, written in ((0, False), (2, True)):
        state.save(tmp_path, run, at._replace(step=step), {})
        found, _ = state.resume(tmp_path, run, pytest.fail)
        assert found.step == step and bool(jax.tree.leaves(found.clients.opt_state)) == written
    kept = run.config.copy_and_resolve_references()
    kept.federation.moments = "keep"
    assert state.carries_moments(kept) and not state.carries_moments(run.config)


def test_best_account_and_position_come_back(tmp_path):
    run, _ = finished()
    at = state.beginning(run)._replace(step=1, best=state.Best(0, 0.25), account={"up/adapters": [1, 2, 3]})
    state.save(tmp_path, run, at, {"metrics": 7})
    found, position = state.resume(tmp_path, run, pytest.fail)
    assert (found.best, found.account, found.round, position) == (at.best, at.account, 0, {"metrics": 7})


def test_a_damaged_best_round_is_named(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    last = state.load(checkpoint.newest(tmp_path / "checkpoints", pytest.fail), run)[0]
    best = last._replace(best=state.Best(1, 0.5))
    assert state.load_best(tmp_path / "checkpoints", best, run).round == 1
    (tmp_path / "checkpoints" / "round-000001" / checkpoint.NOTES).write_text("{}")
    with pytest.raises(ValueError, match=r"the best round, 1, cannot be read: notes.json was changed; the last one is round 2"):
        state.load_best(tmp_path / "checkpoints", best, run)
    shutil.rmtree(tmp_path / "checkpoints" / "round-000001")
    with pytest.raises(ValueError, match="it is not there"):
        state.load_best(tmp_path / "checkpoints", best, run)


def test_another_base_is_refused_by_its_digest(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["base_sha256"] == state.base_digest(run.base) and described["base_bytes"] > 0
    assert np.sum(described["held"]) == len(run.split.public) + sum(map(len, run.split.clients))
    (tmp_path / "run" / "run.json").write_text(json.dumps(described | {"base_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="the base model: 000000000000 before, "):
        state.agree(tmp_path / "run", run, fork=False)
    state.record(tmp_path / "run", state.agree(tmp_path / "run", run, fork=True))
    state.agree(tmp_path / "run", run, fork=False)
    (tmp_path / "run" / "run.json").write_text(json.dumps(described | {"asked_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="the validation and test questions: the files hold others than before"):
        state.agree(tmp_path / "run", run, fork=False)
    with pytest.raises(ValueError, match="--fork goes on with the same validation and test questions"):
        state.agree(tmp_path / "run", run, fork=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json: not what a run wrote there"):
        state.agree(tmp_path / "run", run, fork=False)


def test_how_long_and_how_loud_may_change(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    longer = run.config.copy_and_resolve_references()
    longer.federation.rounds, longer.log.transcripts, longer.checkpoint.keep = 9, 0, 5
    longer.compilation_cache = "cache"
    state.agree(tmp_path / "run", run._replace(config=longer), fork=False)


def test_a_field_that_is_newer_than_the_run_has_its_default(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    described = json.loads(file.read_text())
    del described["config"]["training.kl_in"]
    file.write_text(json.dumps(described))
    state.agree(tmp_path / "run", run, fork=False)
    config = run.config.copy_and_resolve_references()
    config.training.kl, config.training.kl_in = "k1", "reward"
    with pytest.raises(ValueError, match="training.kl"):
        state.agree(tmp_path / "run", run._replace(config=config), fork=False)
