"""Questions that are copies of other questions: between training, public and test sets they would fake the result.

What is seen: the same wording with other case, punctuation, LaTeX or number words ("three apples", "3 apples"); a lead or a
sentence added or cut; a word changed; and a new wording that shares numbers, answer and a fifth of its 4-grams. What is not
seen: a question asked in other words ("Compute the sum of the two numbers 51 and 99." against "What is 51 + 99?"), a
translation, and a fraction, a multiple or an ordinal in words ("half", "twice", "third") against figures.

Overlap is that of character 13-grams of the normalised text. It alone does not tell a copy from an honest sibling ("the
greatest common factor of 32 and 48"), for competition questions share phrases and figures; the numbers of a question do.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from pubswap_jax.questions.problem import Problem

GRAM = 13
SHORT_GRAM = 4  # where numbers and answer agree as well

_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|\\!)+(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# How a formula looks, not what it says.
_LOOKS = re.compile(
    r"\\(?:left|right|displaystyle|text(?:bf|it|rm)?|math(?:rm|bf|it)|operatorname|quad|qquad|[,;:!()\[\]\s])|[${}\s]"
)
_KEPT = re.compile(r"[^\w+\-*/^=<>\\]+")

_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {
    "zero": 0,
    **dict(zip(_ONES + _TEENS, range(1, 20), strict=True)),
    **dict(zip(_TENS, range(20, 100, 10), strict=True)),
}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6}
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]+(?:{'|'.join(_ONES)}))?|zero|{'|'.join(_TEENS + _ONES)})\b"
_LARGE = rf"(?:(?:{_SMALL}|an?|(?<![\d.,])\d{{1,6}})[\s-]+)?(?:(?:{'|'.join(_SCALES)})\b[\s-]*)+"
# The lookahead is for speed alone: the first letter rules out most words.
_WORDS = re.compile(
    rf"\b(?=[adefhmnostz\d])(?:{_LARGE}(?:(?:and[\s-]+)?{_LARGE})*(?:(?:and[\s-]+)?{_SMALL})?|{_SMALL})", re.IGNORECASE
)


def in_figures(text: str) -> str:
    """A text whose number words are figures: 'Twenty-three eggs and 2 dozen more' is '23 eggs and 24 more'."""
    return _WORDS.sub(_figures, text)


def _figures(match: re.Match) -> str:
    total = part = 0
    for word in re.findall(r"[a-z]+|\d+", match[0].lower()):
        if word.isdecimal():
            part += int(word)
        elif word in _VALUES:
            part += _VALUES[word]
        elif word in _SCALES:
            part = max(part, 1) * _SCALES[word]
            if part >= 1000:
                total, part = total + part, 0
    return f"{total + part}{' ' if match[0][-1].isspace() else ''}"


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
        raw = " ".join([problem.prompt, *options.values()])
        text = in_figures(raw)
        self.text = normalise(text)
        self.numbers = numbers(text)
        self.figures = self.numbers if text == raw else numbers(raw)  # without number words
        self.grams = grams(self.text, GRAM)
        self.answer = normalise(options.get(problem.answer, problem.answer))
        self.key = (frozenset(self.numbers.items()), self.answer)


def near_copies(problems: Sequence[Problem], against: Sequence[Problem]) -> np.ndarray:
    """int[n]: for each question the index of one in `against` that it nearly copies, or -1. Number words count as numbers.

    overlap(a, b) = w(A and B) / min(w(A), w(B)) of the sets of 13-grams, where a gram that k questions share weighs 1 / k.
    A copy is a question with
      the same numbers, or the same figures and answer (a number word was misspelt), and overlap >= 0.6;
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
    if overlap < 0.6:
        return False
    if a.numbers == b.numbers or (a.figures == b.figures and a.answer == b.answer):
        return True
    return overlap >= 0.9 and (a.answer == b.answer or a.numbers <= b.numbers or b.numbers <= a.numbers)


def _reworded(a: _Reduced, b: _Reduced) -> bool:
    first, second = grams(a.text, SHORT_GRAM), grams(b.text, SHORT_GRAM)
    return len(first & second) >= 0.2 * max(len(first), len(second))
