"""Exported adapters are what the run had: evaluated, they give its own figure."""

import shutil

import jax
import numpy as np
import pytest
from small_world import finished

from pubswap_jax import export, metrics
from pubswap_jax.pretrained import load_adapter


@pytest.fixture
def trained(tmp_path):
    run, workdir = finished()
    shutil.copytree(workdir, tmp_path / "run")
    return run, tmp_path / "run"


@pytest.fixture
def assembled_once(trained, monkeypatch):
    """Without compiling everything again."""
    monkeypatch.setattr(export, "assemble", lambda config: trained[0])


def test_the_exported_adapter_gives_the_runs_own_figure(trained, assembled_once):
    run, workdir = trained
    folders = export.export(run.config, workdir)
    assert [folder.name for folder in folders] == ["global", "client_0", "client_1", "client_2"]
    at = export.best_standing(run, workdir)
    _, lora = load_adapter(folders[0], run.model_config)
    for one, other in zip(jax.tree.leaves(lora), jax.tree.leaves(at.server.lora), strict=True):
        assert np.array_equal(one, other)
    text = export.evaluate_adapter(run.config, workdir, str(folders[0]))
    tested = [row for row in metrics.read(workdir, "evaluations") if row["split"] == "test" and row["round"] == at.round]
    assert f"pass@1                  {tested[0]['figures']['pass@1']:>8.4f}" in text
    assert text == export.evaluate_adapter(run.config, workdir, "")
    card = (folders[1] / "README.md").read_text()
    assert "client 0's own adapter" in card and "rank 2" in card and "| nought |" in card
    assert export.export(run.config, workdir) == folders, "a second export takes the place of the first"


def test_an_exported_adapter_is_evaluated_on_its_own_base_alone(trained, assembled_once, tmp_path, monkeypatch):
    run, workdir = trained
    folder, *_ = export.export(run.config, workdir)
    other = shutil.copytree(run.base, tmp_path / "other")
    file = other / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    theirs = run._replace(base=other, model_config=run.model_config.replace(folder=str(other)))
    monkeypatch.setattr(export, "assemble", lambda config: theirs)
    with pytest.raises(ValueError, match="trained on the base .* is another one"):
        export.evaluate_adapter(run.config, workdir, str(folder))


def test_an_empty_workdir_is_named(assembled_once, trained, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint in it; give the --workdir of a run"):
        export.export(trained[0].config, tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
