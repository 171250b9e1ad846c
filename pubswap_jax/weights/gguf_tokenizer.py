"""Builds a Hugging Face tokenizer from the metadata of a GGUF file. Only byte-level BPE is read, as Llama 3 and Qwen use it."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from pubswap_jax.weights import tensorfile

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = (f"{_LETTERS}|{digits}|{_OTHERS}" for digits in (r"\p{N}{1,3}", r"\p{N}"))
# tokenizer.ggml.pre -> the regular expression that splits a text before merging; empty: GPT-2's. SmolLM was trained with one
# digit a piece. Its merges join no digits, so GPT-2's expression gives the same tokens but for signs such as ½.
SPLITS = {
    "gpt-2": "",
    "smollm": "",
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}
_CONTROL, _USER_DEFINED = 3, 4
# Control tokens that end a turn in the chat templates of these models, beside the file's own end token.
_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def write_tokenizer(folder: pathlib.Path, file: pathlib.Path, fields: Mapping[str, object]) -> dict[str, object]:
    """Writes tokenizer.json, tokenizer_config.json and generation_config.json; returns bos and eos for config.json."""
    tokens, kinds = _vocabulary(file, fields)
    named = {name: tokens[_id(file, fields, key, len(tokens))] for name, key in _NAMES.items() if _given(fields, key)}
    if "eos_token" not in named:
        raise ValueError(f"{file}: tokenizer.ggml.eos_token_id is missing; take another file of the model")
    template = fields.get("tokenizer.chat_template")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    backend = _backend(file, fields, tokens, kinds)
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template if isinstance(template, str) else None,
        clean_up_tokenization_spaces=False,
        **named,
    )
    hf.save_pretrained(folder)
    controls = {token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL}
    numbers = {token: number for number, token in enumerate(tokens)}
    ends = [named["eos_token"], *(token for token in _ENDS if token in controls)]
    special = {"eos_token_id": list(dict.fromkeys(numbers[token] for token in ends))}
    for key, name in (("bos_token_id", "bos_token"), ("pad_token_id", "pad_token")):
        special |= {key: numbers[named[name]]} if name in named else {}
    tensorfile.write_json(folder / "generation_config.json", special)
    return special


def _vocabulary(file: pathlib.Path, fields: Mapping[str, object]) -> tuple[list[str], list[int]]:
    """The tokens of a GGUF file's vocabulary and their kinds (normal, control, ...), from its metadata."""
    model, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if model != "gpt2" or not isinstance(pre, str) or pre not in SPLITS:
        raise ValueError(
            f"{file}: the tokenizer {model!r:.40} with splits {pre!r:.40} is not read; 'gpt2' with {', '.join(SPLITS)} is"
        )
    tokens, kinds = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.token_type")
    merges = fields.get("tokenizer.ggml.merges")
    if not all(isinstance(texts, list) and texts and isinstance(texts[0], str) for texts in (tokens, merges)):
        raise ValueError(f"{file}: tokenizer.ggml.tokens or tokenizer.ggml.merges is missing; take another file of the model")
    kinds = [1] * len(tokens) if kinds is None else [int(kind) for kind in np.atleast_1d(kinds)]
    if len(kinds) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ValueError(f"{file}: a token occurs twice, or token_type has another length than tokens; download the file again")
    wrong = next((merge for merge in merges if merge.count(" ") != 1), None)
    if wrong is not None:
        raise ValueError(f"{file}: the merge {wrong!r:.80} is not two tokens; download the file again")
    return tokens, kinds


def _given(fields: Mapping[str, object], key: str) -> bool:
    return f"tokenizer.ggml.{key}_token_id" in fields


def _id(file: pathlib.Path, fields: Mapping[str, object], key: str, count: int) -> int:
    value = fields[f"tokenizer.ggml.{key}_token_id"]
    if type(value) is not int or not 0 <= value < count:
        raise ValueError(f"{file}: tokenizer.ggml.{key}_token_id is {value!r:.40}, and there are {count:,} tokens")
    return value


def _backend(file: pathlib.Path, fields: Mapping[str, object], tokens: list[str], kinds: list[int]):
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # the library raises a bare Exception for a merge of unknown tokens
        raise ValueError(f"{file}: its tokenizer cannot be built ({error}); download the file again") from None
    split = SPLITS[fields["tokenizer.ggml.pre"]]
    parts = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)]
    if split:
        parts = [pre_tokenizers.Split(tokenizers.Regex(split), "isolated"), *parts]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if fields.get("tokenizer.ggml.add_bos_token") is True and _given(fields, "bos"):
        number = _id(file, fields, "bos", len(tokens))
        backend.post_processor = processors.TemplateProcessing(
            single=[tokens[number], "$A"], special_tokens=[(tokens[number], number)]
        )
    special = [tokenizers.AddedToken(token, normalized=False, special=True) for token in _of(tokens, kinds, _CONTROL)]
    plain = [tokenizers.AddedToken(token, normalized=False, special=False) for token in _of(tokens, kinds, _USER_DEFINED)]
    backend.add_special_tokens(special)
    backend.add_tokens(plain)
    return backend


def _of(tokens: list[str], kinds: list[int], kind: int) -> list[str]:
    return [token for token, found in zip(tokens, kinds, strict=True) if found == kind]
