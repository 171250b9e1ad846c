"""LoRA adapters as PEFT's files: out and in again, merged into the base, and refused where they are more than plain LoRA."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hf_files import FAMILIES, adapted, edit, write_model
from small_models import projected

from pubswap_jax import Transformer, export_adapter, init_adapter, load_pretrained, lora
from pubswap_jax.policy.adapter import init_basis
from pubswap_jax.weights.peft import load_adapter, merge_adapter

TOKENS = jnp.arange(12).reshape(2, 6)


def logits(config, base, adapter=None):
    collections = base | ({} if adapter is None else {"adapter": adapter})
    return jax.jit(Transformer(config).apply)(collections, TOKENS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_an_adapter_comes_back_as_it_went(tmp_path, family, scan_layers):
    config, base, adapter = adapted(tmp_path / "base", family, scan_layers)
    export_adapter(tmp_path / "adapter", adapter, config, "somebody/base")
    plain, _ = load_pretrained(tmp_path / "base", scan_layers=scan_layers)
    again, back = load_adapter(tmp_path / "adapter", plain)
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, back, adapter)
    assert jax.tree.structure(back) == jax.tree.structure(adapter)


def test_the_files_are_those_of_peft(tmp_path):
    config, _, adapter = adapted(tmp_path / "base", lora_targets=("q_proj", "down_proj"))
    export_adapter(tmp_path / "adapter", adapter, config, "somebody/base")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == "somebody/base" and fields["peft_type"] == "LORA"
    assert (fields["r"], fields["lora_alpha"], fields["target_modules"]) == (3, 5, ["down_proj", "q_proj"])
    tensors = safetensors.numpy.load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items() if ".layers.0." in name} == {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (3, 16),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (16, 3),
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight": (3, 24),
        "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight": (16, 3),
    }
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    np.testing.assert_array_equal(tensors[name], adapter["layers_1"]["mlp"]["down_proj"]["a"].T)


def test_an_export_replaces_an_adapter_and_nothing_else(tmp_path):
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "first")
    export_adapter(tmp_path / "adapter", jax.tree.map(lambda leaf: -leaf, adapter), config, "second")
    _, back = load_adapter(tmp_path / "adapter", config)
    jax.tree.map(lambda ours, theirs: np.testing.assert_array_equal(ours, -theirs), back, adapter)
    with pytest.raises(FileExistsError, match="holds config.json"):
        export_adapter(tmp_path / "base", adapter, config, "third")
    load_pretrained(tmp_path / "base")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_failed_export_leaves_the_old_adapter(tmp_path, monkeypatch):
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "base")

    def full_disk(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("pubswap_jax.weights.peft.write", full_disk)
    with pytest.raises(OSError, match="No space"):
        export_adapter(tmp_path / "adapter", jax.tree.map(jnp.zeros_like, adapter), config, "base")
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path / "adapter", config)[1], adapter)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter", "base"]


def test_what_is_written_wrong_is_noticed(tmp_path, monkeypatch):
    config, _, adapter = adapted(tmp_path / "base")
    from pubswap_jax.weights import peft

    def flip(path, specs, tensors, metadata):
        sound(path, specs, (tensor + 1e-3 for tensor in tensors), metadata)

    sound = peft.write
    monkeypatch.setattr("pubswap_jax.weights.peft.write", flip)
    with pytest.raises(OSError, match="was not written as it is"):
        export_adapter(tmp_path / "adapter", adapter, config, "base")
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_that_the_config_does_not_describe_is_not_written(tmp_path):
    config, _, adapter = adapted(tmp_path / "base")
    for other, line in (
        (config.replace(adapter=lora(4, 5.0)), "has shape"),
        (config.replace(lora_targets=("q_proj",)), "disagree"),
        (config.replace(num_layers=3), "disagree"),
        (config.replace(hidden_size=8), "has shape"),
        (config.replace(lora_targets=("lm_head",)), "config.lora_targets"),
    ):
        with pytest.raises(ValueError, match=line):
            export_adapter(tmp_path / "adapter", adapter, other, "base")
    clients = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), adapter)
    with pytest.raises(ValueError, match="give one client's adapter"):
        export_adapter(tmp_path / "adapter", clients, config, "base")
    with pytest.raises(ValueError, match="is not finite"):
        export_adapter(tmp_path / "adapter", jax.tree.map(lambda leaf: leaf * jnp.nan, adapter), config, "base")
    assert not (tmp_path / "adapter").exists()


# --- merged -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_merged_model_computes_what_the_adapted_one_does(tmp_path, family, scan_layers):
    config, base, adapter = adapted(tmp_path / "base", family, scan_layers)
    merge_adapter(tmp_path / "merged", tmp_path / "base", adapter, config)
    merged, weights = load_pretrained(tmp_path / "merged", scan_layers=scan_layers)
    want = logits(config, base, adapter)
    np.testing.assert_allclose(logits(merged, weights), want, atol=2e-5 * float(jnp.abs(want).max()))
    assert float(jnp.abs(logits(config, base) - want).max()) > 0.1


def test_merging_rounds_once_to_the_stored_type(tmp_path):
    stored = write_model(tmp_path / "base", dtype=jnp.bfloat16)
    config, base = load_pretrained(tmp_path / "base")
    config = config.replace(adapter=lora(2, 1.0), lora_targets=("up_proj",))
    rng = np.random.default_rng(0)
    layer = {"up_proj": {"a": rng.normal(size=(16, 2)).astype(np.float32), "b": rng.normal(size=(2, 24)).astype(np.float32)}}
    adapter = {"layers_0": {"mlp": layer}, "layers_1": {"mlp": layer}}
    (tmp_path / "base" / "tokenizer_config.json").write_text("{}")
    merge_adapter(tmp_path / "merged", tmp_path / "base", adapter, config)
    name = "model.layers.0.mlp.up_proj.weight"
    a, b = (np.asarray(adapter["layers_0"]["mlp"]["up_proj"][half], np.float64) for half in "ab")
    exact = stored[name].astype(np.float64) + 0.5 * (a @ b).T
    _, merged = load_pretrained(tmp_path / "merged")
    got = merged["params"]["layers_0"]["mlp"]["up_proj"]["kernel"].T
    assert got.dtype == jnp.bfloat16
    assert np.mean(np.asarray(got) == exact.astype(jnp.bfloat16)) > 0.99  # f32 and f64 round apart once in thousands
    np.testing.assert_array_equal(
        merged["params"]["layers_0"]["mlp"]["down_proj"]["kernel"], base["params"]["layers_0"]["mlp"]["down_proj"]["kernel"]
    )
    assert (tmp_path / "merged" / "tokenizer_config.json").exists()
    merge_adapter(tmp_path / "wide", tmp_path / "base", adapter, config, dtype="float32")
    wide = load_pretrained(tmp_path / "wide")[1]["params"]["layers_0"]["mlp"]["up_proj"]["kernel"].T
    np.testing.assert_allclose(wide, exact, rtol=1e-6, atol=1e-7)
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


def test_merging_refuses_another_base_and_a_full_folder(tmp_path):
    config, _, adapter = adapted(tmp_path / "base", "qwen2")
    write_model(tmp_path / "other", "qwen3")
    with pytest.raises(ValueError, match="give the model that the adapter was trained on"):
        merge_adapter(tmp_path / "merged", tmp_path / "other", adapter, config)
    with pytest.raises(FileExistsError, match="name a new folder"):
        merge_adapter(tmp_path / "other", tmp_path / "base", adapter, config)
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        merge_adapter(tmp_path / "merged", tmp_path / "base", adapter, config, dtype="int8")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_family_with_frozen_arrays_is_exported_as_lora_and_merged(tmp_path, scan_layers):
    config, base, _ = adapted(tmp_path / "base", "qwen2", scan_layers, adapter=projected(3))
    model = Transformer(config)
    base = base | {"basis": init_basis(jax.random.key(1), model, base)}
    adapter = jax.tree.map(lambda x: x + 0.5, init_adapter(jax.random.key(2), model, base))
    want = logits(config, base, adapter)
    merge_adapter(tmp_path / "merged", tmp_path / "base", adapter, config, basis=base["basis"])
    merged, weights = load_pretrained(tmp_path / "merged", scan_layers=scan_layers)
    np.testing.assert_allclose(logits(merged, weights), want, atol=2e-5 * float(jnp.abs(want).max()))
    export_adapter(tmp_path / "adapter", adapter, config, "base", basis=base["basis"])
    found, as_lora = load_adapter(tmp_path / "adapter", config)
    assert found.adapter == lora(3, 3.0)
    np.testing.assert_allclose(logits(found, base | {"basis": {}}, as_lora), want, atol=2e-5 * float(jnp.abs(want).max()))
    with pytest.raises(ValueError, match="basis: leaf layers.*p and config.lora_targets .* disagree"):
        export_adapter(tmp_path / "again", adapter, config, "base")


# --- in ---------------------------------------------------------------------------------------------------------------


def test_rslora_is_plain_lora_under_another_alpha(tmp_path):
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "base")
    edit(tmp_path / "adapter" / "adapter_config.json", use_rslora=True)
    again, _ = load_adapter(tmp_path / "adapter", config)
    family = dict(again.adapter.settings)
    assert family["alpha"] / family["rank"] == pytest.approx(5.0 / np.sqrt(3))
