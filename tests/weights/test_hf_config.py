"""config.json as transformers reads it, in both of its spellings, with the stop tokens of generation_config.json."""

import json

import numpy as np
import pytest
from hf_files import LLAMA3, edit, write_model

from pubswap_jax import ModelConfig
from pubswap_jax.types import Llama3Rope
from pubswap_jax.weights.hf_config import check_vocabulary, largest_token_id, read_config


def test_both_spellings_of_rope(tmp_path):
    write_model(tmp_path, "llama")
    old = read_config(tmp_path)
    edit(tmp_path / "config.json", rope_scaling=None, rope_theta=None, rope_parameters=LLAMA3 | {"rope_theta": 500000.0})
    assert read_config(tmp_path) == old
    assert old.rope_theta == 500000.0 and old.rope_scaling == Llama3Rope(32.0, 1.0, 4.0, 64)


def test_stop_tokens_are_all_of_the_generation_config_else_the_configs(tmp_path):
    write_model(tmp_path)
    assert read_config(tmp_path).eos_ids == (3,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 3], "pad_token_id": 7}))
    config = read_config(tmp_path)
    assert config.eos_ids == (5, 3) and config.pad_id == 7


def test_configs_read_as_transformers_reads_them(shared_data, tmp_path):
    from transformers import AutoConfig

    files = sorted((shared_data / "hf_configs").glob("*.config.json"))
    assert len(files) == 12
    for file in files:
        (tmp_path / "config.json").write_text(file.read_text())
        ours, theirs = read_config(tmp_path), AutoConfig.from_pretrained(tmp_path)
        heads = theirs.num_attention_heads
        assert ours.num_layers == theirs.num_hidden_layers and ours.num_heads == heads
        assert ours.num_kv_heads == theirs.num_key_value_heads and ours.vocab_size == theirs.vocab_size
        assert ours.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // heads)
        assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
        assert (ours.rope_scaling is not None) == (theirs.rope_parameters["rope_type"] == "llama3")
        assert ours.rms_norm_eps == theirs.rms_norm_eps and ours.tie_embeddings == theirs.tie_word_embeddings
        assert ours.eos_ids == tuple(np.atleast_1d(theirs.eos_token_id))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_attention_biases_are_refused_where_the_model_has_none(tmp_path, family):
    write_model(tmp_path, family, attention_bias=True)
    with pytest.raises(ValueError, match="attention_bias"):
        read_config(tmp_path)


def test_a_vocabulary_fits_its_embedding():
    config = ModelConfig(40, 16, 24, 2, 4, 2, 4)
    check_vocabulary(config, 39)
    with pytest.raises(ValueError, match="ids up to 40, the embedding has 40 rows"):
        check_vocabulary(config, 40)


def test_the_largest_id_is_that_of_any_tokenizer_file(tmp_path):
    assert largest_token_id(tmp_path) == -1
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 7}))
    assert largest_token_id(tmp_path) == 7
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", 0.0]] * 9}, "added_tokens": [{"id": 5}]}))
    assert largest_token_id(tmp_path) == 8
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"12": {"content": "<x>"}}}))
    assert largest_token_id(tmp_path) == 12
