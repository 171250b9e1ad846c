"""run.json: what the run was made of, and which later starts may go on."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from small_world import config_of, finished

from pubswap_jax import settings
from pubswap_jax.run import manifest
from pubswap_jax.weights.hf_folder import base_digest


def test_another_base_is_refused_by_its_digest(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["base_sha256"] == base_digest(run.policy.folder) and described["base_bytes"] > 0
    assert np.sum(described["held"]) == len(run.data.split.public) + sum(map(len, run.data.split.clients))
    (tmp_path / "run" / "run.json").write_text(json.dumps(described | {"base_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="the base model: 000000000000 before, "):
        manifest.agree(tmp_path / "run", run, fork=False)
    manifest.record(tmp_path / "run", manifest.agree(tmp_path / "run", run, fork=True))
    manifest.agree(tmp_path / "run", run, fork=False)
    (tmp_path / "run" / "run.json").write_text(json.dumps(described | {"asked_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="the validation and test questions: the files hold others than before"):
        manifest.agree(tmp_path / "run", run, fork=False)
    with pytest.raises(ValueError, match="--fork goes on with the same validation and test questions"):
        manifest.agree(tmp_path / "run", run, fork=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json: not what a run wrote there"):
        manifest.agree(tmp_path / "run", run, fork=False)


def test_another_file_with_the_user_s_rule_is_refused(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "rules.py"
    file.write_text("from pubswap_jax import mean as rule\n")
    run = run._replace(settings=run.settings | {"federation.aggregate": f"{file}:rule"})
    before = manifest.describe(run)
    assert before["own_sha256"] == {"federation.aggregate": hashlib.sha256(file.read_bytes()).hexdigest()}
    manifest.record(tmp_path / "run", before)
    manifest.agree(tmp_path / "run", run, fork=False)
    file.write_text("from pubswap_jax import median as rule\n")
    with pytest.raises(ValueError, match=r"aggregate=.*rules.py:rule: the file is another one than before; name") as caught:
        manifest.agree(tmp_path / "run", run, fork=False)
    assert "\n" not in str(caught.value)
    manifest.agree(tmp_path / "run", run, fork=True)


def test_how_long_and_how_loud_may_change(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    longer = config_of(run, federation__rounds=9, log__transcripts=0, checkpoint__keep=5, compilation_cache="cache")
    manifest.agree(tmp_path / "run", run._replace(settings=settings.flatten(longer)), fork=False)


def test_a_field_that_is_newer_than_the_run_has_its_default(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    described = json.loads(file.read_text())
    del described["config"]["training.kl_in"]
    file.write_text(json.dumps(described))
    manifest.agree(tmp_path / "run", run, fork=False)
    other = settings.flatten(config_of(run, training__kl="k1", training__kl_in="reward"))
    with pytest.raises(ValueError, match="training.kl"):
        manifest.agree(tmp_path / "run", run._replace(settings=other), fork=False)


def test_the_manifest_is_of_this_run(tmp_path):
    run, workdir = finished()
    described = manifest.describe(run)
    assert described["config"] == json.loads(json.dumps(run.settings)) and described["base"] == str(run.policy.folder)
    assert described["questions"] == {"train": len(run.data.train.problems), "validation": 12, "test": 12}
    assert len(described["topics_of"]["test"]) == 12 and described == json.loads((workdir / "run.json").read_text())


def test_one_process_writes_to_a_folder_at_a_time(tmp_path):
    with manifest.alone(tmp_path), pytest.raises(ValueError, match="another process writes to it"), manifest.alone(tmp_path):
        pytest.fail("two locks")
    with manifest.alone(tmp_path):
        assert (tmp_path / manifest.LOCK).exists()
