"""Copies and near copies are found, honest siblings are left alone."""

import dataclasses
import random
import re

import numpy as np
import pytest

from pubswap_jax.questions.leakage import grams, in_figures, near_copies, normalise, numbers
from pubswap_jax.questions.problem import Problem
from pubswap_jax.questions.sources import local


def a_word(change):
    """An edit of one ordinary word, the same at every call."""

    def edit(text):
        words = text.split(" ")
        plain = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 3]
        if not plain:
            return text.lower()
        at = random.Random(len(text)).choice(plain)
        return " ".join([*words[:at], *change(words[at]), *words[at + 1 :]])

    return edit


def sentences(text):
    return re.split(r"(?<=[.?])\s+(?=[A-Z])", text)


def reworded(text):
    swaps = {"Find": "Determine", "Compute": "Evaluate", "What is": "Find", "How many": "Count how many", "Simplify": "Reduce"}
    first = next((old for old in swaps if old in text), None)
    return text.replace(first, swaps[first], 1) if first else f"Please answer: {text}"


# What a copy may look like: each edit keeps the question and its answer.
EDITS = {
    "exact": lambda text: text,
    "lower case": str.lower,
    "white space": lambda text: text.replace(" ", "  ").replace(". ", ".\n\n"),
    "no punctuation": lambda text: re.sub(r"[,;?!'\"](?!\d)", "", text),
    "other LaTeX": lambda text: text.replace("\\frac", "\\dfrac").replace("$", "").replace("\\left", "").replace("\\right", ""),
    "other delimiters": lambda text: re.sub(r"\$([^$]*)\$", r"\\(\1\\)", text),
    "spaced formulae": lambda text: re.sub(r"([+=*/-])", r" \1 ", text),
    "a lead": lambda text: f"Solve the following problem carefully. {text}",
    "a numbered lead": lambda text: f"Problem {len(text)}. {text}",
    "a trailer": lambda text: f"{text} Show your work and give the final answer.",
    "a typo": a_word(lambda word: [word[:2] + word[3:]]),
    "another word": a_word(lambda word: ["given"]),
    "a word less": a_word(lambda word: []),
    "reworded": reworded,
    "first sentence cut": lambda text: " ".join(sentences(text)[1:]) if len(sentences(text)) > 2 else text,
    "last sentence cut": lambda text: " ".join(sentences(text)[:-1]) if len(sentences(text)) > 2 else text,
    "sentences swapped": lambda text: " ".join(sentences(text)[::-1]),
}

HONEST = [
    ("What is the greatest common factor of 32 and 48?", "16"),
    ("What is the greatest common factor of 40 and 60?", "20"),
    ("Compute $\\sin 60^\\circ$.", "\\frac{\\sqrt{3}}{2}"),
    ("Compute $\\tan 60^\\circ$.", "\\sqrt{3}"),
    ("How many positive divisors does 24 have? Express your answer as a whole number in base ten.", "8"),
    ("What is the sum of the divisors of 24? Express your answer as a whole number in base ten.", "60"),
    ("A bag holds 3 red and 5 blue balls. Two are drawn without replacement. Find the probability that both are red.", "3/28"),
    ("A bag holds 4 red and 6 blue balls. Two are drawn without replacement. Find the probability that both are red.", "2/15"),
]


def problems_of(pairs, prefix="q"):
    return [Problem(f"{prefix}{i}", prompt, answer) for i, (prompt, answer) in enumerate(pairs)]


def test_normalise_and_numbers():
    assert normalise("What is  $\\left(\\dfrac{1}{2}\\right)$, exactly?") == "whatis\\frac12exactly"
    assert normalise("\\text{Add } 1,000 + x.") == normalise("add 1000+x")
    assert numbers("3 boxes of 1,250 and 3.5, twice 3") == {"3": 2, "1250": 1, "3.5": 1}
    assert grams("abcd", 3) == {"abc", "bcd"} and grams("ab", 3) == {"ab"}


def test_honest_siblings_stay_and_their_copies_go():
    honest = problems_of(HONEST)
    for i, problem in enumerate(honest):
        assert near_copies([problem], honest[:i] + honest[i + 1 :]) == [-1]
    for name, edit in EDITS.items():
        copies = [dataclasses.replace(problem, prompt=edit(problem.prompt)) for problem in honest]
        assert (near_copies(copies, honest) >= 0).all(), name


def test_options_are_part_of_a_choice():
    def choice(prompt, *texts):
        return Problem(prompt, prompt, "A", kind="choice", options=dict(zip("ABCD", texts, strict=False)))

    stem = "Which of the following statements is true?"
    known = [choice(stem, "Blood is red because of iron", "Bones are hollow", "Nails are alive")]
    assert near_copies([choice(stem, "Sodium is a metal", "Neon burns", "Gold rusts")], known) == [-1]
    assert near_copies([choice(stem.upper(), "Blood is red because of iron", "Bones are hollow", "Nails live")], known) == [0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Three apples, twenty-three pears", "3 apples, 23 pears"),
        ("one thousand two hundred thirty four people", "1234 people"),
        ("two hundred and five thousand", "205000"),
        ("a dozen eggs or 2 dozen", "12 eggs or 24"),
        ("a hundred and more", "100 and more"),
        ("two three, two and three", "2 3, 2 and 3"),
        ("someone often weighs tons at the hundreds digit", "someone often weighs tons at the hundreds digit"),
        ("a zero-sum game of 3 and 1,000", "a 0-sum game of 3 and 1,000"),
    ],
)
def test_number_words_in_figures(text, expected):
    assert in_figures(text) == expected


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def in_words(text):
    """The small numbers of a text's prose as words."""
    return re.sub(r"(?<![\d.,\\{^_$a-z])\b(\d|1[0-2])\b(?![.,]?\d)(?=[ ,?])", lambda number: WORDS[int(number[1])], text)


def test_copies_with_number_words_go(shared_data):
    """At least 99 % of the real test questions whose figures can be written as words, both ways round."""
    test = [
        problem
        for name in ("math_test", "gsm8k_test")
        for problem in local(str(shared_data / "math" / f"{name}.jsonl"))
        if in_words(problem.prompt) != problem.prompt
    ]
    worded = [dataclasses.replace(problem, prompt=in_words(problem.prompt)) for problem in test]
    assert len(test) > 700
    for copies, known in ((worded, test), (test, worded)):
        assert np.mean(near_copies(copies, known) >= 0) >= 0.99


def test_siblings_that_differ_in_a_number_word_stay():
    texts = [
        "How many positive two-digit integers are multiples of 7?",
        "How many positive nine-digit integers are multiples of 7?",
    ]
    one, other = problems_of(zip(texts, ("13", "128571428"), strict=True))
    assert near_copies([one], [other]) == [-1]


def test_what_is_not_seen():
    """The limit that leakage.py states. If this fails, the docstring, the README and the run's note are out of date."""
    known = problems_of([("What is 51 + 99?", "150")])
    assert near_copies(problems_of([("Compute the sum of the two numbers 51 and 99.", "150")]), known) == [-1]


def test_empty_sets():
    assert near_copies([], problems_of(HONEST)).shape == (0,)
    assert near_copies(problems_of(HONEST), []).tolist() == [-1] * len(HONEST)


def test_planted_copies_among_real_questions(shared_data):
    """100 % of 200 planted copies found; at most 0.5 % of the honest training questions removed."""
    train = local(str(shared_data / "math" / "math_train.jsonl"))
    test = local([str(shared_data / "math" / f"{name}.jsonl") for name in ("math_test", "math500_test")])
    edits = list(EDITS.values())
    chosen = random.Random(5).sample(range(len(test)), 200)
    copies = [edits[n % len(edits)](test[i].prompt) for n, i in enumerate(chosen)]
    planted = [dataclasses.replace(test[i], prompt=copy) for i, copy in zip(chosen, copies, strict=True)]
    found = near_copies(planted + train, test)
    assert (found[:200] >= 0).all()
    assert np.mean(found[200:] >= 0) <= 0.005


def test_honest_questions_of_the_same_topic(shared_data):
    train = local(str(shared_data / "math" / "math_train.jsonl"))
    test = local([str(shared_data / "math" / f"{name}.jsonl") for name in ("math_test", "math500_test")])
    removed = 0
    for topic in {problem.topic for problem in train}:
        same = [[problem for problem in problems if problem.topic == topic] for problems in (train, test)]
        removed += int(np.sum(near_copies(*same) >= 0))
    assert len(train) >= 1000 and removed <= 0.005 * len(train)
