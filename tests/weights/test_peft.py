"""LoRA adapters as PEFT's files: out and in again, merged into the base, and refused where they are more than plain LoRA."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hf_files import FAMILIES, edit, write_model

from pubswap_jax import Transformer, export_adapter, init_adapter, load_pretrained
from pubswap_jax.weights.peft import load_adapter, merge_adapter

TOKENS = jnp.arange(12).reshape(2, 6)


def adapted(folder, family="qwen2", scan_layers=False, **changes):
    """A base in a folder, its config with a small adapter, the base and a random adapter with B != 0."""
    write_model(folder, family)
    config, base = load_pretrained(folder, scan_layers=scan_layers)
    config = config.replace(**{"lora_rank": 3, "lora_alpha": 5.0} | changes)
    shapes = jax.eval_shape(lambda: init_adapter(jax.random.key(0), Transformer(config), base))
    rng = np.random.default_rng(0)
    return config, base, jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


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
        (config.replace(lora_rank=4), "has shape"),
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
    config = config.replace(lora_rank=2, lora_alpha=1.0, lora_targets=("up_proj",))
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


# --- in ---------------------------------------------------------------------------------------------------------------


def test_rslora_is_plain_lora_under_another_alpha(tmp_path):
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "base")
    edit(tmp_path / "adapter" / "adapter_config.json", use_rslora=True)
    again, _ = load_adapter(tmp_path / "adapter", config)
    assert again.lora_alpha / again.lora_rank == pytest.approx(5.0 / np.sqrt(3))


def fields_of(**changes):
    return lambda folder: edit(folder / "adapter_config.json", **changes)


def tensors_of(change, **fields):
    def apply(folder):
        edit(folder / "adapter_config.json", **fields)
        file = folder / "adapter_model.safetensors"
        safetensors.numpy.save_file(change(dict(safetensors.numpy.load_file(file))), file)

    return apply


def without_layer_1(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.1.self_attn.q_proj" not in name}


def as_pickle(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


WHY = "only linear layers inside the blocks are adapted here"
STRANGER = "base_model.model.lm_head.lora_A.weight"
REFUSALS = {
    "pickle": (as_pickle, "adapter_model.safetensors expected"),
    "other method": (fields_of(peft_type="IA3"), "peft_type is 'IA3'"),
    "dora": (fields_of(use_dora=True), "use_dora"),
    "biases": (fields_of(bias="lora_only"), "bias is 'lora_only'"),
    "biases of its own": (fields_of(lora_bias=True), "lora_bias"),
    "whole modules": (fields_of(modules_to_save=["lm_head"]), f"modules_to_save has 'lm_head'; {WHY}"),
    "ranks by layer": (fields_of(rank_pattern={"q_proj": 8}), "rank_pattern"),
    "alphas by layer": (fields_of(alpha_pattern={"q_proj": 8}), "alpha_pattern"),
    "some layers": (fields_of(layers_to_transform=[0]), "layers_to_transform"),
    "a feature of the future": (fields_of(use_novel_thing={"a": 1}), "use_novel_thing"),
    "a changed base": (fields_of(init_lora_weights="pissa"), "changes the base"),
    "rank of a wrong type": (fields_of(r="3"), "r is '3'"),
    "no alpha": (fields_of(lora_alpha=None), "lora_alpha is None"),
    "targets that are not there": (fields_of(target_modules=["q_proj", "lm_head"]), f"target_modules has 'lm_head'; {WHY}"),
    "an adapted embedding": (fields_of(target_modules=["model.embed_tokens"]), f"target_modules has 'embed_tokens'; {WHY}"),
    "another rank": (fields_of(r=4), "has shape"),
    "a layer missing": (tensors_of(without_layer_1), "is missing"),
    "a stranger": (tensors_of(lambda tensors: tensors | {STRANGER: np.ones((3, 16), np.float32)}), "is not part of the base"),
    "a head by a pattern": (
        tensors_of(lambda tensors: tensors | {STRANGER: np.ones((3, 16), np.float32)}, target_modules=".*"),
        WHY,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_one_line(tmp_path, name):
    spoil, line = REFUSALS[name]
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "base")
    load_adapter(tmp_path / "adapter", config)
    spoil(tmp_path / "adapter")
    with pytest.raises((ValueError, FileNotFoundError), match=line) as caught:
        load_adapter(tmp_path / "adapter", config)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "base")
    with pytest.raises(ValueError, match="the base asks for"):
        load_adapter(tmp_path / "adapter", config.replace(intermediate_size=32))
    with pytest.raises(ValueError, match="is missing"):
        load_adapter(tmp_path / "adapter", config.replace(num_layers=3))


def refuse_to_say(line):
    raise AssertionError(line)


def test_an_adapter_of_another_base_with_equal_shapes_is_refused(tmp_path):
    """By the base's digest, which the adapter's tensors carry beside them; a copy of the base is the same base."""
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(tmp_path / "adapter", adapter, config, "somebody/base")
    load_adapter(tmp_path / "adapter", config, say=refuse_to_say)
    shutil.copytree(tmp_path / "base", tmp_path / "copy")
    load_adapter(tmp_path / "adapter", load_pretrained(tmp_path / "copy")[0], say=refuse_to_say)
    tensors = write_model(tmp_path / "other", "qwen2")
    tensors["model.norm.weight"][0] += 1e-3
    safetensors.numpy.save_file(tensors, tmp_path / "other" / "model.safetensors")
    other, _ = load_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="trained on the base 'somebody/base' .SHA-256 .*is another one") as caught:
        load_adapter(tmp_path / "adapter", other)
    assert "\n" not in str(caught.value) and "any_base=True" in str(caught.value)
    _, back = load_adapter(tmp_path / "adapter", other, any_base=True, say=refuse_to_say)
    jax.tree.map(np.testing.assert_array_equal, back, adapter)


def test_an_adapter_made_by_peft_is_compared_by_name_and_the_rest_is_said(tmp_path):
    """PEFT knows the name alone. Folders are named as one likes, so that names decide only between models of the hub."""
    config, _, adapter = adapted(tmp_path / "base")
    export_adapter(
        tmp_path / "adapter", adapter, config.replace(folder=""), "Qwen/Qwen2-Tiny"
    )  # no folder, no digest: as PEFT writes
    said = []
    load_adapter(tmp_path / "adapter", config, say=said.append)
    assert len(said) == 1 and "'Qwen/Qwen2-Tiny'" in said[0] and "could not be checked: it holds no digest" in said[0]
    cache = "/cache/hub/models--{}/snapshots/0a1b"
    load_adapter(tmp_path / "adapter", config.replace(folder=cache.format("mirror--qwen2-tiny")), say=said.append)
    assert "those of mirror/qwen2-tiny could not be checked" in said[1]
    with pytest.raises(
        ValueError, match="base_model_name_or_path is 'Qwen/Qwen2-Tiny', and the base is 'Qwen/Qwen2-Tiny-Chat'"
    ):
        load_adapter(tmp_path / "adapter", config.replace(folder=cache.format("Qwen--Qwen2-Tiny-Chat")), say=said.append)
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    load_adapter(tmp_path / "adapter", config, say=said.append)
    assert "a base that it does not name" in said[2] and len(said) == 3
    export_adapter(tmp_path / "adapter", adapter, config, "base")
    load_adapter(tmp_path / "adapter", config.replace(folder=""), say=said.append)
    assert "could not be checked: the config has no folder" in said[3]
