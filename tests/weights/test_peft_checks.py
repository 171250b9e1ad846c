"""What is refused because it is more than plain LoRA, or of another base."""

import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from hf_files import adapted, edit, write_model

from pubswap_jax import export_adapter, load_pretrained
from pubswap_jax.weights.peft import load_adapter


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
