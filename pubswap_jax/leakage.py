"""Questions that are copies of other questions: between training, public and test sets they would fake the result.

Overlap is that of character 13-grams of the normalised text. It alone does not tell a copy from an honest sibling ("the
greatest common factor of 32 and 48"), for competition questions share phrases and figures; the numbers of a question do.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from pubswap_jax.data import Problem

GRAM = 13
SHORT_GRAM = 4  # where numbers and answer agree as well

_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|\\!)+(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# How a formula looks, not what it says.
_LOOKS = re.compile(
    r"\\(?:left|right|displaystyle|text(?:bf|it|rm)?|math(?:rm|bf|it)|operatorname|quad|qquad|[,;:!()\[\]\s])|[${}\s]"
)
_KEPT = re.compile(r"[^\w+\-*/^=<>\\]+")


def normalise(text: str) -> str:
    """A question without case, white space, punctuation and the looks of its formulae."""
    text = unicodedata.normalize("NFKC", _THOUSANDS.sub("", text)).casefold()
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _KEPT.sub("", _LOOKS.sub("", text))


def numbers(text: str) -> collections.Counter:
    """The numbers of a question, each as often as it stands there."""
    return collections.Counter(_NUMBER.findall(_THOUSANDS.sub("", text)))


def grams(text: str, n: int) -> set[str]:
    """All n-grams of characters; a shorter text is its own."""
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}


class _Reduced:
    """What of a question is compared. Options are part of a choice's text, and its answer is the right option's."""

    def __init__(self, problem: Problem):
        options = problem.options or {}
        text = " ".join([problem.prompt, *options.values()])
        self.text = normalise(text)
        self.numbers = numbers(text)
        self.grams = grams(self.text, GRAM)
        self.answer = normalise(options.get(problem.answer, problem.answer))
        self.key = (frozenset(self.numbers.items()), self.answer)


def near_copies(problems: Sequence[Problem], against: Sequence[Problem]) -> np.ndarray:
    """int[n]: for each question the index of one in `against` that it nearly copies, or -1.

    overlap(a, b) = w(A and B) / min(w(A), w(B)) of the sets of 13-grams, where a gram that k questions share weighs 1 / k.
    A copy is a question with
      the same numbers, and overlap >= 0.6;
      the same answer, or the numbers of one among the other's, and overlap >= 0.9: something was added, cut off or misspelt;
      the same numbers and answer, and a fifth of the longer text's 4-grams in common: it was reworded.
    """
    targets = [_Reduced(problem) for problem in against]
    holders, keys = collections.defaultdict(list), collections.defaultdict(list)
    for j, target in enumerate(targets):
        keys[target.key].append(j)
        for gram in target.grams:
            holders[gram].append(j)
    weights = [_weight(target, holders) for target in targets]
    found = np.full(len(problems), -1)
    for i, problem in enumerate(problems):
        question = _Reduced(problem)
        shared = collections.Counter()
        for gram in question.grams:
            for j in holders.get(gram, ()):
                shared[j] += 1 / len(holders[gram])
        weight = _weight(question, holders)
        copied = (j for j, common in shared.items() if _copies(question, targets[j], common / min(weight, weights[j])))
        reworded = (j for j in keys.get(question.key, ()) if _reworded(question, targets[j]))
        found[i] = next(itertools.chain(copied, reworded), -1)
    return found


def _weight(question: _Reduced, holders: Mapping[str, Sequence[int]]) -> float:
    return sum(1 / max(1, len(holders.get(gram, ()))) for gram in question.grams)


def _copies(a: _Reduced, b: _Reduced, overlap: float) -> bool:
    if a.numbers == b.numbers:
        return overlap >= 0.6
    return overlap >= 0.9 and (a.answer == b.answer or a.numbers <= b.numbers or b.numbers <= a.numbers)


def _reworded(a: _Reduced, b: _Reduced) -> bool:
    first, second = grams(a.text, SHORT_GRAM), grams(b.text, SHORT_GRAM)
    return len(first & second) >= 0.2 * max(len(first), len(second))
