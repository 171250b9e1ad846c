r"""Noisy homework: a synthetic question set for the embedded model, which knows every procedure but often picks the wrong one.

A question has one of eight topics and contains two numbers. An answer names a procedure, then gives its result. For
'How many cents are 3 nickels and 4 cents?' the right answer is `fives: \boxed{19}`. A typical mistake is
`twelves: \boxed{40}`, which is the procedure for eggs. The embedded model was trained on demonstrations that follow the right
procedure in a minority of cases (`RIGHT`). All procedures give different results for every question, so a wrong procedure
never earns a reward by luck.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from pubswap_jax.questions.problem import KINDS, Problem
from pubswap_jax.questions.schedule import permutation
from pubswap_jax.settings import nearest

NUMBERS = range(2, 30)
LETTERS = "ABCD"
MAX_NEW_TOKENS = {"math": 7, "choice": 9}  # tokens of the longest demonstration, end token included

PROCEDURES: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "apart": lambda a, b: abs(a - b),
    "fives": lambda a, b: 5 * a + b,
    "tens": lambda a, b: 10 * a + b,
    "twelves": lambda a, b: 12 * a + b,
    "around": lambda a, b: 2 * a + 2 * b,
    "pairs": lambda a, b: a + 2 * b,
    "rest": lambda a, b: 180 - a - b,
}


class Topic(NamedTuple):
    """A kind of question, the procedure that answers it, and its prompt templates."""

    procedure: str
    forms: tuple[str, ...]


TOPICS = {
    "sums": Topic(
        "add",
        (
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "Ann has {a} books and buys {b}. How many books now?",
            "{a} birds sit on a roof, {b} more land. How many birds?",
        ),
    ),
    "frost": Topic(
        "apart",
        (
            "By day {a} degrees, at night {b}. How many degrees apart?",
            "The lake has {a} degrees, the sea {b}. How many apart?",
            "It was {a} degrees and is {b} now. How big is the change?",
            "From {a} degrees to {b}, how many degrees?",
        ),
    ),
    "nickels": Topic(
        "fives",
        (
            "How many cents are {a} nickels and {b} cents?",
            "Ann has {a} nickels and {b} cents. How many cents?",
            "Ben pays {a} nickels, then {b} cents. How many cents?",
            "{a} nickels {b} cents, in cents?",
        ),
    ),
    "dimes": Topic(
        "tens",
        (
            "How many cents are {a} dimes and {b} cents?",
            "Ann has {a} dimes and {b} cents. How many cents?",
            "Ben pays {a} dimes, then {b} cents. How many cents?",
            "{a} dimes {b} cents, in cents?",
        ),
    ),
    "eggs": Topic(
        "twelves",
        (
            "How many eggs are {a} dozen and {b} eggs?",
            "A cook has {a} dozen eggs and {b} more. How many eggs?",
            "Ben boils {a} dozen eggs, then {b}. How many eggs?",
            "{a} dozen {b} eggs, in eggs?",
        ),
    ),
    "fences": Topic(
        "around",
        (
            "A garden is {a} by {b}. How long is its fence?",
            "A field has sides {a} and {b}. How long is the fence?",
            "Ann walks around a garden of {a} by {b}. How far?",
            "Around a field {a} by {b}, how far?",
        ),
    ),
    "socks": Topic(
        "pairs",
        (
            "How many socks are {a} single socks and {b} pairs?",
            "A drawer holds {a} socks and {b} pairs of socks. How many socks?",
            "Ben washes {a} socks, then {b} pairs. How many socks?",
            "{a} socks {b} pairs, in socks?",
        ),
    ),
    "angles": Topic(
        "rest",
        (
            "Two angles of a triangle have {a} and {b} degrees. The third?",
            "A triangle has angles {a} and {b}. Its third angle?",
            "Angles {a} and {b}, in a triangle. The other angle?",
            "A triangle: {a} degrees, {b} degrees. The third angle?",
        ),
    ),
}

FORMS = len(TOPICS["sums"].forms)

# Share of demonstrations that follow the right procedure, per preset. With eight procedures, 0.12 makes the right one no more
# frequent than each wrong one.
RIGHT = {"easy": 0.30, "hard": 0.12}

# Ranges of the pairs of numbers. A pair belongs to exactly one split, in both orders and in every topic.
SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}


def problems(split: str, *, seed: int, count: int | None, preset: str = "easy", kind: str = "math") -> list[Problem]:
    """`count` distinct questions (None: all), cycling through the topics. Splits share no pair of numbers, for any seeds."""
    for name, value, known in (("split", split, SPLITS), ("preset", preset, RIGHT), ("kind", kind, KINDS)):
        if value not in known:
            raise ValueError(f"homework {name} is {value!r}{nearest(value, known, write=repr)}")
    each = len(_pairs(split)) * FORMS
    count = each * len(TOPICS) if count is None else count
    if not 0 <= count <= each * len(TOPICS):
        raise ValueError(f"homework has {each * len(TOPICS)} {split} questions, not {count}")
    orders = [permutation(each, seed, topic) for topic in range(len(TOPICS))]
    places = [(topic, int(orders[topic][i])) for i in range(-(-count // len(TOPICS))) for topic in range(len(TOPICS))]
    ask = _ask_maths if kind == "math" else _ask_choice
    return [ask(list(TOPICS)[topic], *divmod(place, FORMS), split, preset, seed) for topic, place in places[:count]]


def demonstrations(problem: Problem) -> dict[str, tuple[str, float]]:
    """Demonstrations for a question: procedure -> (response, share of the demonstrations that follow the procedure)."""
    values = {name: str(value) for name, value in _results(*_numbers(problem)).items()}
    shares = dict.fromkeys(values, 1 / len(values))
    if problem.topic in TOPICS:
        right = RIGHT[problem.level]
        shares = dict.fromkeys(values, (1 - right) / (len(values) - 1)) | {TOPICS[problem.topic].procedure: right}
    if problem.kind == "math":
        return {name: (rf"{name}: \boxed{{{value}}}", shares[name]) for name, value in values.items()}
    letters = {text: letter for letter, text in problem.options.items()}
    return {name: (rf"{name} {value}: \boxed{{{letters.get(value, 'none')}}}", shares[name]) for name, value in values.items()}


def drills() -> list[Problem]:
    """Questions without a topic, one per pair of numbers. Their demonstrations use all procedures equally often."""
    pairs = [pair for split in SPLITS for pair in _pairs(split)]
    return [Problem(f"drill/{a}-{b}", f"{a} and {b}.", "", "drill", "drill") for a, b in pairs]


def tiny_path(preset: str = "easy") -> pathlib.Path:
    """Folder of the embedded model for a preset. The model of preset 'easy' also answers multiple choice."""
    return pathlib.Path(__file__).parent.parent / f"tiny_{preset}"


@functools.cache
def _pairs(split: str) -> list[tuple[int, int]]:
    """Ordered pairs of distinct numbers of one split, without pairs for which two procedures agree."""
    pairs = [(a, b) for a, b in itertools.combinations(NUMBERS, 2) if _differ(a, b) and _differ(b, a)]
    low, high = (round(share * len(pairs)) for share in SPLITS[split])
    mine = [pairs[i] for i in permutation(len(pairs), 0)[low:high]]
    return mine + [(b, a) for a, b in mine]


def _results(a: int, b: int) -> dict[str, int]:
    return {name: procedure(a, b) for name, procedure in PROCEDURES.items()}


def _differ(a: int, b: int) -> bool:
    return len(set(_results(a, b).values())) == len(PROCEDURES)


def _numbers(problem: Problem) -> tuple[int, int]:
    a, b = re.findall(r"\d+", problem.prompt)
    return int(a), int(b)


def _ask_maths(topic: str, pair: int, form: int, split: str, preset: str, seed: int) -> Problem:
    a, b = _pairs(split)[pair]
    procedure, forms = TOPICS[topic]
    prompt = forms[form].format(a=a, b=b)
    answer = str(PROCEDURES[procedure](a, b))
    return Problem(f"{topic}/{form}-{a}-{b}", prompt, answer, topic, preset)


def _ask_choice(topic: str, pair: int, form: int, split: str, preset: str, seed: int) -> Problem:
    """A multiple-choice question: the right result and three wrong ones. The other four procedures match no option."""
    problem = _ask_maths(topic, pair, form, split, preset, seed)
    procedure = TOPICS[topic].procedure
    key = (seed, list(TOPICS).index(topic), pair, form)
    wrong = [value for name, value in _results(*_pairs(split)[pair]).items() if name != procedure]
    offered = [problem.answer, *(str(wrong[i]) for i in permutation(len(wrong), *key, 0)[:3])]
    options = {letter: offered[i] for letter, i in zip(LETTERS, permutation(len(offered), *key, 1), strict=True)}
    answer = next(letter for letter, text in options.items() if text == problem.answer)
    return dataclasses.replace(problem, answer=answer, kind="choice", options=options)
