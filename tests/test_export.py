"""Exported adapters are what the run had: evaluated, they give its own figure."""

import jax
import numpy as np
import pytest
from small_world import small_config

from pubswap_jax import export, metrics, train
from pubswap_jax.assembly import assemble
from pubswap_jax.pretrained import load_adapter


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = small_config(tmp_path_factory.mktemp("world"), federation__rounds=1, federation__steps=2, seed=3)
    run, workdir = assemble(config), tmp_path_factory.mktemp("run")
    train.train(run, workdir)
    return run, workdir


@pytest.fixture
def assembled_once(finished, monkeypatch):
    """Without compiling everything again."""
    monkeypatch.setattr(export, "assemble", lambda config: finished[0])


def test_the_exported_adapter_gives_the_runs_own_figure(finished, assembled_once):
    run, workdir = finished
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


def test_an_empty_workdir_is_named(finished, assembled_once, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint in it; give the --workdir of a run"):
        export.export(finished[0].config, tmp_path)
    assert not list(tmp_path.iterdir())
