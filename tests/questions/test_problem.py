"""What a question is, and which questions are left out."""

import subprocess
import sys

import numpy as np
import pytest

from pubswap_jax.questions.problem import Problem, drop_unreadable, dropped_line
from pubswap_jax.verifier.score import readable


def test_problem_refuses_what_no_verifier_knows():
    with pytest.raises(ValueError, match="question q: kind is 'maths', not one of math, choice"):
        Problem("q", "1 + 1", "2", kind="maths")
    with pytest.raises(ValueError, match="question q: the answer 'E' is none of its options A, B"):
        Problem("q", "Which?", "E", kind="choice", options={"A": "this", "B": "that"})
    assert len({Problem("q", "Which?", "A", kind="choice", options={"A": "this"})}) == 1  # hashable
    Problem("q", "Which?", "25", kind="choice", options={str(i): "x" for i in range(26)})
    with pytest.raises(ValueError, match="question q: 27 options; there are letters for at most 26"):
        Problem("q", "Which?", "1", kind="choice", options={str(i): "x" for i in range(27)})
    with pytest.raises(ValueError, match="question q: .* not empty"):
        Problem("q", "Which?", "A", kind="choice", options={"A": "x", " ": "y"})


def test_a_choice_that_cannot_be_judged_is_dropped():
    problems = [
        Problem("letter", "?", "a", kind="choice"),
        Problem("word", "?", "yes", kind="choice"),
        Problem("word of two", "?", "yes", kind="choice", options={"yes": "it does", "no": "it does not"}),
    ]
    kept, dropped = drop_unreadable(problems, readable)
    assert [problem.id for problem in kept] == ["letter", "word of two"] and [problem.id for problem in dropped] == ["word"]


def test_unreadable_golds_are_dropped_and_listed():
    problems = [
        Problem("a", "?", "7"),
        Problem("b", "?", "no idea"),
        Problem("c", "?", ""),
        Problem("d", "?", "A", kind="choice"),
    ]
    seen = []

    def decimal(answers, kind):
        seen.append((answers, kind))
        return np.array([answer.isdecimal() for answer in answers])

    kept, dropped = drop_unreadable(problems, decimal)
    assert [problem.id for problem in kept] == ["a", "d"] and seen == [(["7", "no idea"], "math")]
    assert dropped_line(dropped, 4, "unreadable answers") == "2 of 4 questions left out, unreadable answers: b, c"
    assert dropped_line(problems, 9, "why", shown=2) == "4 of 9 questions left out, why: a, b, …"


def test_the_verifier_says_which_golds_it_reads():
    problems = [Problem("half", "?", "\\frac{1}{2}"), Problem("seven", "?", "7"), Problem("huge", "?", "2^{99999999}")]
    kept, dropped = drop_unreadable(problems, readable)
    assert [problem.id for problem in kept] == ["half", "seven"] and [problem.id for problem in dropped] == ["huge"]


def test_importing_data_loads_no_heavy_library():
    code = (
        "import sys; import pubswap_jax.questions.problem, pubswap_jax.questions.schedule, pubswap_jax.questions.sources;"
        "import pubswap_jax.questions.hub, pubswap_jax.questions.partition;"
        "print([name for name in ('jax', 'datasets', 'transformers', 'matplotlib', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
