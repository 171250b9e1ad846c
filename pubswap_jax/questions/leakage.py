"""Near-duplicate detection. Copies of questions across the training, public and test sets would inflate results.

Detected: the same wording with other case, punctuation, LaTeX or number words ("three apples", "3 apples"); an added or
removed lead or sentence; a changed word; and a new wording that shares numbers, answer and a fifth of its 4-grams.
Not detected: a paraphrase ("Compute the sum of the two numbers 51 and 99." against "What is 51 + 99?"); a translation; and a
fraction, multiple or ordinal in words ("half", "twice", "third") against figures.

Overlap is measured on character 13-grams of the normalised text. Overlap alone cannot separate a copy from a different
question of the same kind ("the greatest common factor of 32 and 48"), because competition questions share phrases. So the
numbers in both questions are compared too.
"""

import collections
import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from pubswap_jax.questions.problem import Problem

GRAM = 13
SHORT_GRAM = 4  # n-gram length for questions whose numbers and answer agree

_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\,|\\!)+(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# LaTeX that changes the look of a formula and not its meaning.
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
# The lookahead does not change what matches. It is for speed: the first letter rules out most words.
_WORDS = re.compile(
    rf"\b(?=[adefhmnostz\d])(?:{_LARGE}(?:(?:and[\s-]+)?{_LARGE})*(?:(?:and[\s-]+)?{_SMALL})?|{_SMALL})", re.IGNORECASE
)


def in_figures(text: str) -> str:
    """Replaces number words by figures: 'Twenty-three eggs and 2 dozen more' becomes '23 eggs and 24 more'."""
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
    """Removes case, white space, punctuation and LaTeX formatting from a question."""
    text = unicodedata.normalize("NFKC", _THOUSANDS.sub("", text)).casefold()
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _KEPT.sub("", _LOOKS.sub("", text))


def numbers(text: str) -> collections.Counter:
    """Multiset of the numbers in a question."""
    return collections.Counter(_NUMBER.findall(_THOUSANDS.sub("", text)))


def grams(text: str, n: int) -> set[str]:
    """All character n-grams. A text shorter than n is its own only n-gram."""
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}


class _Reduced:
    """What near-copy detection compares of a question: its normalised text, numbers, answer and n-grams.

    The text of a multiple-choice question includes its options.
    """

    def __init__(self, problem: Problem):
        options = problem.options or {}
        raw = " ".join([problem.prompt, *options.values()])
        text = in_figures(raw)
        self.text = normalise(text)
        self.numbers = numbers(text)
        self.figures = self.numbers if text == raw else numbers(raw)  # numbers written in figures, without number words
        self.grams = grams(self.text, GRAM)
        self.answer = normalise(options.get(problem.answer, problem.answer))
        self.key = (frozenset(self.numbers.items()), self.answer)


def near_copies(problems: Sequence[Problem], against: Sequence[Problem]) -> np.ndarray:
    """int[n]: for each question, the index of a question in `against` that it nearly copies, or -1.

    overlap(a, b) = w(A and B) / min(w(A), w(B)) of the sets of 13-grams. A gram found in k questions of `against` weighs
    1 / max(1, k). Number words count as numbers. Two questions are near copies if any of these holds:
      overlap >= 0.6, and the same numbers, or the same figures and answer (a number word was misspelt);
      overlap >= 0.9, and the same answer, or the numbers of one contained in the other's (text was added, cut off or misspelt);
      the same numbers and answer, and a fifth of the longer text's 4-grams in common (the question was reworded).
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
