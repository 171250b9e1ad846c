"""Where a model's folder lies, and what it must hold."""

import jax
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from hf_files import FAMILIES, write_model

from pubswap_jax import ModelConfig, Transformer, load_pretrained
from pubswap_jax.weights import hf_folder
from pubswap_jax.weights.hf_config import read_config


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_name_is_found_in_the_cache_without_a_network(hub_cache):
    commit = "0123456789" * 4
    repository = hub_cache / "models--somebody--tiny"
    write_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    config, _ = load_pretrained("somebody/tiny")
    assert config.hidden_size == 16


def test_a_name_out_of_reach_says_which_files_to_put_where(hub_cache):
    with pytest.raises(FileNotFoundError, match=r"nobody/tiny: .*put config.json and model.safetensors .* into a folder"):
        load_pretrained("nobody/tiny")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_pretrained("./not/here")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_slots_are_the_parameters_of_the_model(tmp_path, family, scan_layers):
    write_model(tmp_path, family)
    config = read_config(tmp_path).replace(scan_layers=scan_layers)
    tokens = jax.numpy.zeros((1, 4), int)
    made = flatten_dict(jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"])
    assert {hf_folder.leaf_path(config, slot) for slot in hf_folder.tensor_slots(config).values()} == set(made)


def test_linear_layers_by_hand():
    config = ModelConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8
    )
    assert hf_folder.linear_layers(config) == {
        "q_proj": ("self_attn", 16, 32),
        "k_proj": ("self_attn", 16, 16),
        "v_proj": ("self_attn", 16, 16),
        "o_proj": ("self_attn", 32, 16),
        "gate_proj": ("mlp", 16, 24),
        "up_proj": ("mlp", 16, 24),
        "down_proj": ("mlp", 24, 16),
    }


def test_a_tied_head_that_repeats_the_embedding_is_no_extra_tensor(tmp_path):
    tensors = write_model(tmp_path)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    safetensors.numpy.save_file(tensors | head, tmp_path / "model.safetensors")
    assert "lm_head" not in load_pretrained(tmp_path)[1]["params"]


def test_the_digest_sees_every_file(tmp_path):
    write_model(tmp_path)
    before = hf_folder.base_digest(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    named = hf_folder.base_digest(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{} ")
    assert len({before, named, hf_folder.base_digest(tmp_path)}) == 3
