"""Tokenization: questions in the model's chat template, left-padded prompts, and decoding of responses.

All models use one tokenizer class. The embedded model's character tokenizer is also stored as a Hugging Face `tokenizer.json`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pubswap_jax.questions import chat
from pubswap_jax.questions.problem import Problem
from pubswap_jax.types import Prompts
from pubswap_jax.verifier.keys import labels

INSTRUCTIONS = {
    "math": r"Please reason step by step, and put your final answer within \boxed{}.",
    "choice": r"Please reason step by step, and put the letter of the one right option within \boxed{}.",
}
PLACE = "@@the-question-goes-here@@"
PAD, END, UNKNOWN = "<pad>", "<end>", "<unknown>"
CHAR_CHAT = "{{ messages[-1].content }}{{ '\n' }}"  # Jinja drops a literal newline at the end of a template


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer with the chat template, instructions and special tokens of its model."""

    hf: Any  # transformers' tokenizer
    before: tuple[int, ...]  # chat-template ids before the question
    after: tuple[int, ...]  # chat-template ids between the question and the response
    instructions: Mapping[str, str]  # kind of question -> how to format the answer
    stop_ids: tuple[int, ...]
    pad_id: int

    def encode(self, problem: Problem) -> np.ndarray:
        """int32[n]: the whole prompt. Special tokens in the question, such as <|im_end|>, are encoded as plain text."""
        text = content(problem, self.instructions[problem.kind])
        ids = self.hf(text, add_special_tokens=False, split_special_tokens=True).input_ids
        if self.hf.unk_token_id is not None and self.hf.unk_token_id in ids:
            raise ValueError(f"question {problem.id}: the tokenizer does not know some of its characters")
        return np.array([*self.before, *ids, *self.after], np.int32)

    def decode(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Decodes the masked ids [..., R] to strings [...], without special tokens and stop tokens."""
        tokens, mask = np.asarray(tokens), np.asarray(mask, bool)
        stops = np.isin(tokens, self.stop_ids)
        rows = [row[kept].tolist() for row, kept in zip(_flat(tokens), _flat(mask & ~stops), strict=True)]
        texts = self.hf.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return np.array(texts, object).reshape(tokens.shape[:-1])


def load_tokenizer(
    path: str | os.PathLike,
    *,
    vocab_size: int | None = None,
    system: str | None = None,
    examples: Sequence[tuple[str, str]] = (),
    instructions: Mapping[str, str] = INSTRUCTIONS,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Loads the tokenizer of a model, from a folder or a hub name, with the texts that go around each question.

    `system`: the system prompt; None: the chat template's own; empty: none at all. `examples`: (question, answer) of earlier
    turns, as they are. `chat_template_kwargs` go to the chat template, e.g. Qwen3's `enable_thinking`.
    """
    path = str(path)
    if path.startswith(("/", ".")) and not os.path.isdir(path):
        raise FileNotFoundError(f"model.path is {path}: there is no such folder")
    transformers = _transformers()
    try:
        hf = transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no tokenizer at {path} ({str(error).splitlines()[0]}): model.path must be a folder with tokenizer.json or the "
            f"vocabulary, and tokenizer_config.json, or a name on the hub"
        ) from None
    largest = max(hf.get_vocab().values())
    if vocab_size is not None and largest >= vocab_size:
        raise ValueError(
            f"the tokenizer at {path} has ids up to {largest}, but the model only {vocab_size} tokens: not its own"
        )
    stop_ids = _stop_ids(transformers, hf, path)
    before, after = chat.around(hf, PLACE, system, examples, chat_template_kwargs or {})
    pad_id = stop_ids[0] if hf.pad_token_id is None else hf.pad_token_id
    return Tokenizer(hf, before, after, dict(instructions), stop_ids, pad_id)


def content(problem: Problem, instruction: str) -> str:
    """The user message: the question, its options with labels, and the instruction."""
    names = labels(problem.options or {})
    options = [f"{names[key]}. {text}" for key, text in (problem.options or {}).items()]
    question = "\n".join([problem.prompt, *options]).strip()
    return f"{question}\n\n{instruction}" if instruction else question


def encode_all(
    tokenizer: Tokenizer, problems: Sequence[Problem], longest: int
) -> tuple[list[Problem], list[np.ndarray], list[Problem]]:
    """Encodes questions. Returns those of at most `longest` tokens, their token ids, and the questions that are too long."""
    encoded = [(problem, tokenizer.encode(problem)) for problem in problems]
    kept = [(problem, ids) for problem, ids in encoded if len(ids) <= longest]
    return (
        [problem for problem, _ in kept],
        [ids for _, ids in kept],
        [problem for problem, ids in encoded if len(ids) > longest],
    )


def left_pad(encoded: Sequence[np.ndarray], rows: np.ndarray, length: int, pad_id: int) -> Prompts:
    """Pads prompts on the left: Prompts [..., P] for the question indices `rows` [...].

    P = `length` must stay the same in a run.
    """
    rows = np.asarray(rows)
    tokens = np.full((rows.size, length), pad_id, np.int32)
    mask = np.zeros((rows.size, length), bool)
    for row, index in enumerate(rows.ravel()):
        ids = encoded[index]
        if not 0 < len(ids) <= length:
            raise ValueError(f"prompt {index} has {len(ids)} tokens, and data.max_prompt_tokens is {length}")
        tokens[row, -len(ids) :] = ids
        mask[row, -len(ids) :] = True
    return Prompts(tokens.reshape(*rows.shape, length), mask.reshape(*rows.shape, length))


def save_char_tokenizer(folder: str | os.PathLike, characters: str, chat_template: str = CHAR_CHAT) -> None:
    """Writes a character tokenizer in Hugging Face's layout. Ids 0, 1 and 2 are padding, end and unknown."""
    import tokenizers

    names = [PAD, END, UNKNOWN, *dict.fromkeys(characters)]
    model = tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNKNOWN)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    hf = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
    hf.save_pretrained(folder)


def _stop_ids(transformers, hf, path: str) -> tuple[int, ...]:
    """Stop token ids: the tokenizer's end token, then those of generation_config.json if that file exists."""
    found = [] if hf.eos_token_id is None else [hf.eos_token_id]
    try:
        more = transformers.GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        more = None
    found += more if isinstance(more, list) else [] if more is None else [more]
    if not found:
        raise ValueError(f"neither the tokenizer nor generation_config.json at {path} names an end token")
    return tuple(dict.fromkeys(found))


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def _transformers():
    # Silences transformers' warning that PyTorch is missing. PyTorch is not needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers
