"""Answers in words: distinguishes prose from mathematics, and normalises prose for comparison."""

import re

_WRAPPED = re.compile(r"\\text\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z]{2,}")
_FIGURES = re.compile(r"[0-9+^=\\]")
# Words that are too short to be distinguished from products of letters by their length.
_SMALL_WORDS = frozenset("is of to no it we if so as at by on be in not and the all any are".split())  # noqa: SIM905  a list would be ten times as long
_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]*\}|\\[A-Za-z]+")


def is_prose(text: str) -> bool:
    r"""Whether a text is words, not mathematics: it has \text, or a word that is neither a command nor a product of letters."""
    if r"\text" in text:
        return True
    words = _WORD.findall(_COMMAND.sub(" ", text))
    letters = 3 if _FIGURES.search(text) else 2  # `abc+1` contains a product, `abc` alone is a word
    return any(len(word) > letters or word.lower() in _SMALL_WORDS for word in words)


def plain(text: str) -> str:
    """Text for comparison: without fonts, spaces, punctuation and case. A single letter keeps its case."""
    text = re.sub(r"^\s*(?:an?|the)\s", "", _WRAPPED.sub(r"\1", text), flags=re.IGNORECASE)
    text = re.sub(r"(?<![0-9}])'|[\s.,;:!?\"`*{}$\\]|^\(|\)$", "", text)
    return text if len(text) == 1 else text.lower()
