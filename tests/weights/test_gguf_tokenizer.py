"""The tokenizer of a GGUF file: merges, special tokens, end tokens, chat template."""

import json

import pytest
import tokenizers
from tiny_gguf import CHAT, TOKENS, write_gguf

from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.tokens import load_tokenizer
from pubswap_jax.weights import gguf, gguf_tokenizer


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request, tmp_path_factory):
    made = tmp_path_factory.mktemp("gguf") / "out"
    write_gguf(made.with_suffix(".gguf"), request.param)
    gguf.convert(made.with_suffix(".gguf"), made)
    return made


def test_merges_and_special_tokens_by_hand(folder):
    tokenizer = load_tokenizer(folder, instructions={"math": ""})
    ids = [TOKENS[i] for i in tokenizer.encode(Problem("1", "abc a", "1"))]
    assert ids == ["<|im_start|>", "abc", "Ġa", "<|im_end|>", "<|im_start|>"]
    assert tokenizer.hf.chat_template == CHAT
    plain = [TOKENS[i] for i in tokenizer.encode(Problem("1", "a 12", "1"))]
    assert plain[1:-2] == ["a", "Ġ", "1", "2"]


def test_the_ends_of_the_chat_stop_a_response(folder):
    assert load_tokenizer(folder).stop_ids == (TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>"))


def test_a_beginning_is_added_where_the_file_says_so(tmp_path):
    write_gguf(tmp_path / "x.gguf", "llama", changes={"tokenizer.ggml.add_bos_token": True}.items())
    gguf.convert(tmp_path / "x.gguf", tmp_path / "out")
    found = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert found.encode("ab").tokens == ["<|im_start|>", "ab"]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["bos_token_id"] == TOKENS.index("<|im_start|>")


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("qwen2", "I've 1234 x!\n\n a", ["I", "'ve", " ", "1", "2", "3", "4", " x", "!\n\n", " a"]),
        ("llama-bpe", "I've 1234 x!\n\n a", ["I", "'ve", " ", "123", "4", " x", "!\n\n", " a"]),
    ],
)
def test_the_expressions_split_these_texts(pre, text, pieces):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(gguf_tokenizer.SPLITS[pre]), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces
