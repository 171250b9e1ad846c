"""Finds the answer in a completion: the last box, else the last "answer is" statement, else the last formula or number.

Uses only string operations, in time linear in the length of the text.
"""

import re

from pubswap_jax.verifier.boxes import last_box
from pubswap_jax.verifier.characters import folded
from pubswap_jax.verifier.formulas import whole_formulas
from pubswap_jax.verifier.last_value import last_value
from pubswap_jax.verifier.pattern import Pattern
from pubswap_jax.verifier.statement import value_of_statement
from pubswap_jax.verifier.units import unglued

TAIL = 16384  # characters at the end of a completion that are searched for an answer without a box

_CHAT_TURN = Pattern(
    r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end|assistant|user)\|>|</s>|\[/?INST\]",
    matches=["<|im_end|>", "</s>", "[INST]", "[/INST]", "<|user|>"],
    not_=["<|x|>", "im_end", "<s>"],
)
_ANSWER_IS = Pattern(
    r"(?:(?i:\b(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|solution|result)\s*(?:is|are|:|=)\s*:?)"
    r"|(?:答案|结果)\s*(?:应该|应)?(?:是|为|:|=)\s*:?|####|^[ \t]*A:)[*_]*\s*",
    re.MULTILINE,
    matches=["The final answer is 5", "#### 5", "A: 5", "答案是5", "result = 5", "**Answer:** 5"],
    not_=["It is 5", "so A: 5", "answers 5"],
)


def extract(text: str) -> str:
    """Finds the answer in a completion and returns its text as written; empty if there is none."""
    text = folded(text.rpartition("</think>")[2])
    box = last_box(text)
    if box is not None:
        return box
    tail = text[-TAIL:]
    tail = _first_reply(tail)
    statement = _statement(tail)
    found = last_value(tail) if statement is None else statement
    return unglued(found)  # `5m` in a sentence is a length; in a box it may be a product


def gold_answer(gold: str) -> str:
    """Finds the answer in a gold text, which is a bare expression, formulas in dollars, or a whole solution with a box."""
    box = last_box(gold)
    if box is not None:
        return box
    joined = whole_formulas(gold.strip())
    return joined if joined is not None else gold.strip()


def _first_reply(text: str) -> str:
    """The first non-empty turn: drops chat turns that a model invents after its own."""
    parts = [part for part in _CHAT_TURN.split(text) if part.strip()]
    return parts[0] if parts else ""


def _statement(tail: str) -> str | None:
    """The value stated after the last "answer is", `####` or `A:`; None if there is no such mark."""
    marks = list(_ANSWER_IS.finditer(tail))
    for mark in reversed(marks[-8:]):
        rest = tail[mark.end() :].lstrip("* \t\n:")
        if not rest.strip():
            continue
        return value_of_statement(rest)
    return None
