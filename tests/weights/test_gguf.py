"""Conversion of tiny GGUF files, against the Hugging Face model of the same weights."""

import json
import os
import pathlib

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hf_files import expected_leaves
from tiny_gguf import TOKENS, interleaved, write_gguf

from pubswap_jax import load_pretrained
from pubswap_jax.weights import gguf
from pubswap_jax.weights.hf_folder import find_folder

FAMILIES = ("llama", "qwen2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_are_those_of_the_hugging_face_model(tmp_path, family, tied):
    fields, tensors = write_gguf(tmp_path / "x.gguf", family, tied)
    assert gguf.main([str(tmp_path / "x.gguf"), str(tmp_path / "out")]) == 0
    config, base = load_pretrained(tmp_path / "out")
    found, wanted = flatten_dict(base["params"]), expected_leaves(tensors)
    assert set(found) == set(wanted)
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, wanted[path])
    assert (config.rope_theta, config.rms_norm_eps, config.num_kv_heads) == (fields["rope_theta"], 1e-5, 2)
    assert config.tie_embeddings == tied and config.eos_ids == (TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>"))


def test_half_precision_stays_half_precision(tmp_path):
    _, tensors = write_gguf(tmp_path / "x.gguf", "llama", kind="F16")
    gguf.convert(tmp_path / "x.gguf", tmp_path / "out")
    config, base = load_pretrained(tmp_path / "out")
    found = base["params"]["layers_1"]["self_attn"]["q_proj"]["kernel"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, tensors["model.layers.1.self_attn.q_proj.weight"].T.astype(np.float16))


def test_unpermuting_undoes_the_interleaving():
    rows = np.arange(24.0).reshape(12, 2)  # 2 heads of 6 rows
    assert interleaved(rows, 2)[:6, 0].tolist() == [0, 6, 2, 8, 4, 10]
    np.testing.assert_array_equal(gguf.unpermuted(interleaved(rows, 2), 2), rows)


def test_a_path_to_a_file_or_its_folder_is_converted_once(tmp_path):
    write_gguf(tmp_path / "a" / "x.gguf", "qwen2")
    folder = find_folder(tmp_path / "a" / "x.gguf")
    made = (folder / "model.safetensors").stat().st_ino
    assert folder == find_folder(tmp_path / "a") == tmp_path / "a" / "x-hf"
    assert (folder / "model.safetensors").stat().st_ino == made
    write_gguf(tmp_path / "a" / "x.gguf", "qwen2", tied=False)  # another file of the same name
    assert "lm_head" in load_pretrained(tmp_path / "a" / "x.gguf")[1]["params"]
    write_gguf(tmp_path / "a" / "y.gguf", "llama")
    with pytest.raises(ValueError, match=r"2 GGUF files, x.gguf, y.gguf; name one of them"):
        find_folder(tmp_path / "a")


REFUSED = {
    "another architecture": ({"general.architecture": "gemma"}, "architecture 'gemma' is not read"),
    "experts": ({"llama.expert_count": 8}, "llama.expert_count is 8"),
    "scaled positions": ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
    "no layers": ({"llama.block_count": None}, "llama.block_count is None"),
    "no end": ({"tokenizer.ggml.eos_token_id": None}, "eos_token_id is missing"),
    "an end outside": ({"tokenizer.ggml.eos_token_id": 40}, "eos_token_id is 40, and there are 40 tokens"),
    "another tokenizer": ({"tokenizer.ggml.model": "llama"}, "the tokenizer 'llama'"),
    "unknown splits": ({"tokenizer.ggml.pre": "tekken"}, "splits 'tekken'"),
    "a token twice": ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "a"]}, "a token occurs twice"),
    "a merge of three": ({"tokenizer.ggml.merges": ["a b c"]}, "merge 'a b c'"),
    "a merge of unknown tokens": ({"tokenizer.ggml.merges": ["qq zz"]}, "cannot be built"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_in_one_line(tmp_path, name, capsys):
    changes, message = REFUSED[name]
    write_gguf(tmp_path / "x.gguf", "llama", changes=changes.items())
    assert gguf.main([str(tmp_path / "x.gguf"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    write_gguf(tmp_path / "x.gguf", "llama")
    content = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "x.gguf").write_bytes(content[:-4] + np.float32("nan").tobytes())
    with pytest.raises(ValueError, match="is not finite"):
        gguf.convert(tmp_path / "x.gguf", tmp_path / "out")


@pytest.mark.parity
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_file_equals_transformers(tmp_path, family):
    pytest.importorskip("gguf")
    write_gguf(tmp_path / "x.gguf", family, tied=False)
    _equals_transformers(tmp_path / "x.gguf", tmp_path / "out", [f"abc a{n} ab" for n in range(4)])


@pytest.mark.parity
@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct.gguf", "Qwen2.5-Coder-0.5B-Instruct.gguf"])
def test_a_real_file_equals_transformers(tmp_path, name):
    file = pathlib.Path(os.environ.get("PUBSWAP_MODELS", "/nowhere")) / name
    if not file.is_file():
        pytest.skip(f"PUBSWAP_MODELS names no folder with {name}")
    texts = ["Tom's 1,000 apples cost $3.50.\n\n  x = a_b**2", "naïve café 数学 🙂 \t tab", "<|im_start|>user\nI'LL<|im_end|>"]
    _equals_transformers(file, tmp_path / "out", texts)


def _equals_transformers(file, folder, texts):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    gguf.convert(file, folder)
    ours = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert [ours(text).input_ids for text in texts] == [theirs(text).input_ids for text in texts]
    chat = {"conversation": [{"role": "user", "content": "a"}], "tokenize": False, "add_generation_prompt": True}
    assert ours.apply_chat_template(**chat) == theirs.apply_chat_template(**chat)
    assert (ours.eos_token, ours.pad_token) == (theirs.eos_token, theirs.pad_token)
    ids = ours(texts[0], return_tensors="pt").input_ids
    load = transformers.AutoModelForCausalLM.from_pretrained
    with torch.no_grad():
        one, other = load(folder)(ids).logits, load(file.parent, gguf_file=file.name)(ids).logits
    np.testing.assert_allclose(one.float().numpy(), other.float().numpy(), rtol=0, atol=1e-4)
    logits = _ours(folder, ids.numpy())
    np.testing.assert_allclose(logits, one.float().numpy(), rtol=0, atol=2e-3 * float(one.abs().max()))
    assert json.loads((folder / "config.json").read_text())["model_type"] in FAMILIES


def _ours(folder, ids):
    import jax.numpy as jnp

    from pubswap_jax import Transformer

    config, base = load_pretrained(folder, dtype="float32")
    return np.asarray(Transformer(config).apply(base, jnp.asarray(ids)))
