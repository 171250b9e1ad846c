"""Exported adapters are what the run had: evaluated, they give its own figure."""

import shutil

import jax
import numpy as np
import pytest
from small_world import config_of, finished, small_config

import pubswap_jax as ps
from pubswap_jax import loop
from pubswap_jax.policy.model import Transformer
from pubswap_jax.run import assembly, checkpoint, export, journal
from pubswap_jax.weights.pretrained import load_adapter


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
    folders = export.export(config_of(run), workdir)
    assert [folder.name for folder in folders] == ["global", "client_0", "client_1", "client_2"]
    at = export.best_state(run, workdir)
    _, adapter = load_adapter(folders[0], run.policy.config)
    for one, other in zip(jax.tree.leaves(adapter), jax.tree.leaves(at.federation.server.adapter), strict=True):
        assert np.array_equal(one, other)
    text = export.evaluate_adapter(config_of(run), workdir, str(folders[0]))
    tested = [row for row in journal.read(workdir, "evaluations") if row["split"] == "test" and row["round"] == at.best.round]
    assert f"pass@1                  {tested[0]['figures']['pass@1']:>8.4f}" in text
    assert text == export.evaluate_adapter(config_of(run), workdir, "")
    card = (folders[1] / "README.md").read_text()
    assert "client 0's own adapter" in card and "rank 2" in card and "| nought |" in card
    assert "by `dirichlet`" in card and "--config.federation.num_clients=3" in card and "questions.jsonl" in card
    assert "95 % intervals over questions: base 0." in (folders[0] / "README.md").read_text()
    assert export.export(config_of(run), workdir) == folders, "a second export takes the place of the first"


def test_the_merged_model_is_the_base_with_the_adapter(trained, assembled_once):
    run, workdir = trained
    *_, merged = export.export(config_of(run), workdir, "float32")
    assert merged == workdir / "export" / "merged" and export.export(config_of(run), workdir, "float32")[-1] == merged
    config, base = ps.load_pretrained(merged)
    adapter, batch = export.best_of_run(run, workdir).adapter, run.data.test.prompts
    prompts = jax.tree.map(lambda x: x[:2], batch)
    tokens = np.full((2, 1, 3), 4, np.int32)
    plain = ps.response_logps(Transformer(config), base, None, prompts, tokens)
    adapted = ps.response_logps(run.policy.model, run.policy.base, adapter, prompts, tokens)
    np.testing.assert_allclose(plain, adapted, atol=1e-5)
    card = (merged / "README.md").read_text()
    assert (
        "library_name: transformers" in card and "The base model, merged with a LoRA adapter, trained as lora (rank 2" in card
    )


def test_an_exported_adapter_is_evaluated_on_its_own_base_alone(trained, assembled_once, tmp_path, monkeypatch):
    run, workdir = trained
    folder, *_ = export.export(config_of(run), workdir)
    other = shutil.copytree(run.policy.folder, tmp_path / "other")
    file = other / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    theirs = run._replace(
        policy=run.policy._replace(folder=other, model=Transformer(run.policy.config.replace(folder=str(other))))
    )
    monkeypatch.setattr(export, "assemble", lambda config: theirs)
    with pytest.raises(ValueError, match="trained on the base .* is another one"):
        export.evaluate_adapter(config_of(run), workdir, str(folder))


def test_an_empty_workdir_is_named(assembled_once, trained, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint in it; give the --workdir of a run"):
        export.export(config_of(trained[0]), tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_the_best_round_without_any_question(trained, monkeypatch, tmp_path):
    run, workdir = trained
    monkeypatch.setattr(assembly, "load_questions", lambda *_: pytest.fail("questions were loaded"))
    found = ps.best(str(workdir))
    monkeypatch.undo()
    at = export.best_state(run, workdir)
    assert (found.round, found.score) == tuple(at.best) and same(found.adapter, at.federation.server.adapter)
    assert found.config == run.policy.config and found.base == run.policy.folder and found.settings["training.lr"] == 0.02
    ps.export_adapter(tmp_path / "adapter", found.adapter, found.config, str(found.base))
    _, adapter = load_adapter(tmp_path / "adapter", found.config)
    assert same(adapter, at.federation.server.adapter)


def test_the_best_round_of_clients_that_train_alone_is_theirs(tmp_path):
    config = small_config(tmp_path, federation__average=False, federation__swap_period=0, federation__steps=1)
    loop.train_and_evaluate(config, tmp_path / "run")
    found = ps.best(tmp_path / "run")
    stored = checkpoint.arrays(
        next(c for c in checkpoint.listed(tmp_path / "run" / "checkpoints") if (c.round, c.step) == (found.round, 0))
    )
    assert same(found.adapter, stored["clients"]["adapter"])
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(found.adapter))


def test_what_is_not_the_runs_best_is_named(trained, tmp_path):
    _, workdir = trained
    with pytest.raises(ValueError, match="no run.json in it"):
        ps.best(tmp_path)
    (workdir / "checkpoints").rename(workdir / "elsewhere")
    with pytest.raises(ValueError, match="no checkpoint in it"):
        ps.best(workdir)


def test_other_questions_under_the_same_name_are_refused(trained):
    run, workdir = trained
    with pytest.raises(ValueError, match="the validation and test questions: the files hold others than before"):
        export.best_state(run._replace(data=run.data._replace(test=run.data.validation)), workdir)
