"""A run with ravan, partial heads and weights by gain: killed and resumed, exported, and refused under other frozen arrays."""

import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from small_world import assemble, config_of, small_config, write_base

import pubswap_jax as ps
from experiments.kill_and_resume.combinations import outcome
from pubswap_jax import loop, settings
from pubswap_jax.policy.families import ravan
from pubswap_jax.run import checkpoint, estimate, export, journal, policy
from pubswap_jax.run.policy import load_policy
from pubswap_jax.weights import peft_checks, tensorfile
from pubswap_jax.weights.basis import basis_digest
from pubswap_jax.weights.peft import load_adapter

CHANGES = {
    "model__adapter": "ravan",
    "model__heads": 2,
    "federation__heads": "2,1,1",
    "federation__weights": "gain",
    "federation__participants": 2,
    "federation__rounds": 3,
    "federation__steps": 2,
    "checkpoint__steps": 1,
    "log__distortion": "off",
    "data__test": 4,
    "data__validation": 6,
    "training__prompts": 2,
    "training__weight_decay": 0.1,
    "training__lr": 0.1,
    "seed": 3,
    "evaluation__batch": 6,
}


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="pubswap") as name:
        yield pathlib.Path(name)


@pytest.fixture(scope="module")
def run(folder):
    config = small_config(folder, **CHANGES)
    write_base(pathlib.Path(config.model.path), num_hidden_layers=1)  # half the compilation
    return assemble(config)


def end(run, workdir):
    workdir.mkdir(exist_ok=True)
    loop.train(run, workdir)
    export.export_run(run, workdir)
    return outcome(workdir) | {"evaluated": export.evaluate_run(run, workdir)}


@pytest.fixture(scope="module")
def whole(run, folder):
    """(the folder of a whole run, what it comes to)."""
    found = end(run, folder / "whole")
    assert checkpoint.notes(checkpoint.newest(folder / "whole" / "checkpoints", print))["best"][0] > 0, "another seed"
    return folder / "whole", found


@pytest.fixture
def flipped(run):
    """The run with one sign of one frozen matrix flipped."""
    leaves, structure = jax.tree.flatten(run.policy.base["basis"])
    leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].multiply(-1)
    basis = jax.tree.unflatten(structure, leaves)
    return run._replace(policy=run.policy._replace(base=run.policy.base | {"basis": basis}))


class Killed(BaseException):
    """As kill -9: nothing of ours catches it."""


@pytest.mark.parametrize(("saves", "place"), [(1, (0, 1)), (2, (1, 0)), (5, (2, 1))])
def test_killed_in_a_round_and_resumed_equal_to_the_bit(run, whole, tmp_path, monkeypatch, saves, place):
    real, calls = checkpoint.save, iter(range(100))

    def killed(*arguments):
        real(*arguments)
        if next(calls) == saves:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Killed):
        end(run, tmp_path / "killed")
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path / "killed" / "checkpoints", print)[:2] == place
    assert end(run, tmp_path / "killed") == whole[1]


def test_frozen_arrays_are_in_no_checkpoint_and_not_on_the_channel(run, whole):
    family, layers = run.policy.config.adapter, run.policy.adapter["layers_0"]
    assert family == ravan(2, 2)
    stored = checkpoint.arrays(checkpoint.newest(whole[0] / "checkpoints", print))
    assert {path[-1] for path in flatten_dict(stored["inner"]["clients"]["adapter"])} == {"h", "s"}
    assert {path[-1] for path in flatten_dict(stored["inner"]["server"]["adapter"])} == {"h"}
    assert np.isfinite(stored["baseline"]).any()
    count = sum(len(block) for block in layers.values())
    core = 2 * 2 * 2 * 4  # heads x rank x rank float32
    rows = [row for row in journal.read(whole[0], "metrics") if "ledger/up/adapters" in row]
    assert len(rows) == 3 and count == 7
    for row in rows:
        assert sorted(row["ledger/up/adapters"]) == [0, count * core, count * core]
        assert sorted(row["ledger/down/adapters"]) == [0, count * core + 2, count * core + 2]  # and a bit a head


def test_another_sign_is_refused_on_resume_and_on_load(run, whole, flipped, tmp_path):
    noted = json.loads((whole[0] / "run.json").read_text())["basis_sha256"]
    assert noted == basis_digest(run.policy.base["basis"]) and len(noted) == 64
    for refused in (loop.train, export.export_run, export.evaluate_run):
        with pytest.raises(ValueError, match=f"run.json: the adapter's frozen arrays are others: SHA-256 {noted[:12]} before"):
            refused(flipped, whole[0])
    with pytest.raises(ValueError, match="frozen arrays are others"):
        loop.train(flipped, whole[0], fork=True)
    exported = whole[0] / "export" / "global"
    load_adapter(exported, run.policy.config, basis=run.policy.base["basis"])
    with pytest.raises(ValueError, match="frozen arrays are others"):
        load_adapter(exported, run.policy.config, basis=flipped.policy.base["basis"])


def test_one_flipped_sign_in_an_exported_file_is_noticed(run, whole, tmp_path):
    source, there = whole[0] / "export" / "global", tmp_path / "changed"
    there.mkdir()
    (there / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    file = source / peft_checks.WEIGHTS
    entries = tensorfile.read_header(file)
    tensors = {name: np.array(tensorfile.read(entry)) for name, entry in entries.items()}
    frozen = next(name for name in tensors if ".lora_A." in name)
    for sign in (1, -1):
        tensors[frozen][0, 0] *= sign
        specs = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        tensorfile.write(there / peft_checks.WEIGHTS, specs, iter(tensors.values()), tensorfile.read_metadata(file))
        if sign > 0:
            load_adapter(there, run.policy.config)
    with pytest.raises(ValueError, match="a tensor was changed after the export"):
        load_adapter(there, run.policy.config)


def test_the_export_is_a_lora_of_all_heads_ranks_with_the_same_logits(run, whole):
    folder, tokens = whole[0] / "export" / "global", jnp.arange(6)[None]
    fields = json.loads((folder / "adapter_config.json").read_text())
    assert (fields["r"], fields["lora_alpha"]) == (4, 4)
    assert "trained as ravan (heads 2, rank 2)" in (folder / "README.md").read_text()
    found = ps.best(whole[0])
    base = {"params": run.policy.base["params"], "basis": found.basis}
    want = ps.Transformer(found.config).apply(base | {"adapter": found.adapter}, tokens)
    assert np.abs(want - ps.Transformer(found.config).apply(base, tokens)).max() > 1e-3
    config, adapter = load_adapter(folder, run.policy.config)
    ours = ps.Transformer(config).apply({"params": base["params"], "adapter": adapter}, tokens)
    np.testing.assert_allclose(ours, want, atol=1e-5)


def test_the_exported_folder_is_evaluated_as_the_run_is(run, whole, monkeypatch):
    assembled = []
    monkeypatch.setattr(
        export, "assemble", lambda config: assembled.append(config) or (assemble(config) if assembled[1:] else run)
    )
    text = export.evaluate_adapter(config_of(run), whole[0], str(whole[0] / "export" / "global"))
    assert (assembled[1].model.adapter, assembled[1].model.lora_rank) == ("lora", 4)
    assert text == whole[1]["evaluated"]


def test_the_best_round_and_its_export_answer_the_questions_of_a_file_alike(run, whole, tmp_path):
    file = tmp_path / "sums.jsonl"
    file.write_text('{"question": "1+2", "answer": "3"}\n{"question": "2+2", "answer": "4"}\n')
    exported = export.evaluate_file(config_of(run), whole[0], str(whole[0] / "export" / "global"), str(file))
    assert exported == export.evaluate_file(config_of(run), whole[0], "", str(file))


@pytest.mark.parametrize("more", [{"model.adapter": "lora"}, {"model.adapter": "ffa_lora"}])
def test_every_family_is_loaded_and_begins_as_the_base(run, more):
    config = config_of(run, federation__heads="", federation__weights="uniform", model__heads=4)
    for name, value in more.items():
        settings.override(config, name, str(value))
    settings.check(config)
    loaded = load_policy(config)
    family = loaded.config.adapter
    assert family.name == more["model.adapter"] and family.exact == (family.name != "lora")
    sampled = ps.Transformer(loaded.config).apply(loaded.base | {"adapter": loaded.adapter}, jnp.arange(6)[None])
    np.testing.assert_array_equal(sampled, ps.Transformer(loaded.config).apply(loaded.base, jnp.arange(6)[None]))


@pytest.mark.slow
def test_the_plan_counts_the_frozen_arrays_and_not_s_on_the_server(run):
    config = config_of(run, federation__heads="", federation__weights="uniform", model__bases="random")
    loaded = load_policy(config)
    assert loaded.config.adapter.settings == (("heads", 2), ("rank", 2), ("bases", "random"))
    frozen, trained = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (loaded.base["basis"], loaded.adapter))
    planned = estimate.needed(config, loaded.config)
    params = sum(x.nbytes for x in jax.tree.leaves(loaded.base["params"]))
    assert planned["base"] == params + frozen
    assert planned["adapters of the server and 3 clients"] == 4 * trained - 4 * 2 * 7  # s stays with a client


def test_heads_that_do_not_fit_are_one_line_with_the_layer_before_weights_are_read(run, monkeypatch):
    monkeypatch.setattr(policy, "load_pretrained", lambda *_, **how: pytest.fail("weights were read"))
    config = config_of(run, model__heads=40, federation__heads="")
    message = r"^config.model.heads=40 and config.model.lora_rank=2: layers_0/mlp/down_proj: ravan: 40 heads of rank 2 need 80"
    for refused in (load_policy, estimate.plan):
        with pytest.raises(ValueError, match=message) as error:
            refused(config)
        assert "\n" not in str(error.value)
