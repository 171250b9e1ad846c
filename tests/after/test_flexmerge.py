"""The mode flexmerge on a run's folder: the PEFT folders hold the merged adapters, and mistakes end in one line."""

import json
import shutil

import jax
import numpy as np
import pytest
from small_world import finished

from pubswap_jax import main
from pubswap_jax.after import flexmerge, merging
from pubswap_jax.after.adapters import own_adapters
from pubswap_jax.policy.adapter import each_layer
from pubswap_jax.weights.pretrained import load_adapter


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A run's folder; the run itself is assembled once for all tests."""
    run, folder = finished()
    monkeypatch.setattr(flexmerge, "assemble", lambda config: run)
    return shutil.copytree(folder, tmp_path / "run")


@pytest.fixture
def unevaluated(monkeypatch):
    """Without an evaluation, which compiles a program."""

    def evaluated(run, config, found, grouped, shared, weights):
        return [flexmerge.Row(merging.size_of(groups, weights), groups, [0.5] * 3, 0.0) for groups in grouped]

    monkeypatch.setattr(flexmerge, "evaluated", evaluated)


def products(run, folder):
    """ΔW of each linear layer of a PEFT folder."""
    config, adapter = load_adapter(folder, run.policy.config)
    return jax.tree.leaves(each_layer(lambda trained: {"w": config.adapter.delta({}, trained)}, adapter))


def own_products(run, workdir):
    family, adapters = run.policy.config.adapter, own_adapters(run, workdir).adapters
    return [
        jax.tree.leaves(each_layer(lambda x, i=i: {"w": family.delta({}, jax.tree.map(lambda y: y[i], x))}, adapters))
        for i in range(3)
    ]


def test_the_mode_needs_the_workdir_alone(workdir, capsys):
    run, _ = finished()
    assert main.main(["--mode=flexmerge", f"--workdir={workdir}"]) == 0
    said = capsys.readouterr().out.splitlines()
    folders = [workdir / "flexmerge" / f"client_{i}" for i in range(3)]
    assert said[-3:] == [str(folder) for folder in folders]
    assert "merged by average; pass@1 on each client's topics, 12 test questions, 2 samples each" in said[0]
    sizes = [line.split()[0] for line in said if "x " in line and line.strip()[0].isdigit()]
    assert sizes == ["1.00x", "1.50x", "2.00x", "3.00x"]
    figures = json.loads((workdir / "flexmerge" / "figures.json").read_text())
    assert [row["size"] for row in figures["rows"]] == [1, 1.5, 2, 3]
    assert figures["rows"][0]["groups"] == [["0+1+2"]] * 2 and figures["rows"][-1]["groups"] == [["0", "1", "2"]] * 2
    accuracies = np.array([row["accuracies"] for row in figures["rows"]])
    assert accuracies.shape == (4, 3) and (accuracies >= 0).all() and (accuracies <= 1).all() and np.ptp(accuracies) > 0
    assert all(row["error"] == 0 for row in figures["rows"])
    page = (workdir / "flexmerge" / "flexmerge.html").read_text()
    assert "<svg" in page and "mean of clients, size in models 1.5: " in page and "client 2" in page
    assert "at 1.50x" in (folders[0] / "README.md").read_text() and "federated" in (folders[0] / "README.md").read_text()
    assert len(products(run, folders[0])) == 14


def test_one_model_is_the_mean_and_all_are_everybodys_own(workdir, unevaluated):
    run, _ = finished()
    flags = ["--mode=flexmerge", f"--workdir={workdir}", "--config.merge.curve=False"]
    own = own_products(run, workdir)
    for size in (1, 3):
        assert main.main([*flags, f"--config.merge.size={size}"]) == 0
        for i in range(3):
            expected = [sum(x) / 3 for x in zip(*own, strict=True)] if size == 1 else own[i]
            for ours, theirs in zip(products(run, workdir / "flexmerge" / f"client_{i}"), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_fields_reach_the_merge(workdir, unevaluated, capsys):
    run, _ = finished()
    flags = ["--mode=flexmerge", f"--workdir={workdir}", "--config.merge.curve=False", "--config.merge.size=1"]
    own = own_products(run, workdir)
    assert main.main([*flags, "--config.merge.how=task_arithmetic", "--config.merge.scale=3.0"]) == 0
    for ours, theirs in zip(products(run, workdir / "flexmerge" / "client_1"), map(sum, zip(*own, strict=True)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert main.main([*flags, "--config.merge.how=ties", "--config.merge.density=0.5", "--config.merge.rank=2"]) == 0
    config, _ = load_adapter(workdir / "flexmerge" / "client_0", run.policy.config)
    assert dict(config.adapter.settings)["rank"] == 2
    blocks = own_adapters(run, workdir).blocks
    expected = merging.ties(0.5, 2)(blocks[0], (0, 1, 2)).block["model.layers.0.mlp.down_proj"]
    found = load_adapter(workdir / "flexmerge" / "client_0", run.policy.config)[1]["layers_0"]["mlp"]["down_proj"]
    np.testing.assert_allclose(found["a"] @ found["b"], expected.p @ expected.q, atol=1e-5)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.merge.size=9"], "config.merge.size=9: 1 to 3 expected, since there are 3 adapters"),
        (["--config.merge.size=0.5"], "config.merge.size=0.5: 1 or more expected"),
        (["--config.merge.size=half"], "--config.merge.size=half: a number expected"),
        (["--config.merge.how=mean"], "config.merge.how=mean: there are average"),
        (["--config.training.lr=1"], "--config.training.lr: --mode=flexmerge takes it from"),
        (["--fork"], "--fork counts only with --mode=train"),
    ],
)
def test_a_mistake_is_one_line(workdir, capsys, flags, message):
    assert main.main(["--mode=flexmerge", f"--workdir={workdir}", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (workdir / "flexmerge").exists()


def test_no_run_folder_is_one_line(tmp_path, capsys):
    assert main.main(["--mode=flexmerge", f"--workdir={tmp_path}"]) == 2
    assert "no run.json in it; give the --workdir of a run" in capsys.readouterr().err


def test_the_picture_has_eight_sizes_at_most():
    assert flexmerge.curve_of(2) == [1, 2] and flexmerge.curve_of(4) == [1, 2, 3, 4]
    assert len(flexmerge.curve_of(30)) == 8 and flexmerge.curve_of(30)[-1] == 30
