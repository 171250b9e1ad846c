"""Values to 50 digits, and no road from a string to sympy's evaluator."""

import json
import pathlib

import pytest
import sympy
from sympy.parsing import sympy_parser

from pubswap_jax.verifier.notation import canonical
from pubswap_jax.verifier.symbolic import Sealed, _Parser, judge, parse, rational, seal

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("gold", "answer", "status"),
    [
        (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", "correct"),
        (r"e^{\pi\sqrt{163}}", "262537412640768744", "wrong"),  # equal to 30 digits
        ("2^{1000}", "2^{1000}+1", "wrong"),
        (r"2^{1000}+\sqrt{2}", r"2^{1000}+\sqrt{3}", "wrong"),
        (r"\sqrt{10^{60}+1}", "10^{30}", "wrong"),
        ("x^2-1", "(x-1)(x+1)", "correct"),
        (r"\sqrt{x^2}", "x", "wrong"),
        ("2x+4y=6", "x+2y=3", "correct"),
        ("x<1", "-x>-1", "correct"),
        ("x<1", "-x<-1", "wrong"),
        ("x^2=1", "x^3=1", "wrong"),
        (r"\frac{1}{0}", r"\frac{2}{0}", "wrong"),
        ("1", r"\frac{", "unparsed"),
        ("", r"\frac{1}{2}x", "correct"),
        ("", r"\frac{", "unparsed"),
    ],
)
def test_judge(gold, answer, status):
    assert judge(canonical(gold), canonical(answer)) == status


@pytest.mark.parametrize(
    "text",
    [
        "x^2",
        r"3\pi^{2}-1",
        "x^23",
        "a^2b^3",
        r"\frac{x^2}{4}",
        "e^{x^2}",
        "x^2(x+1)",
        "f^2(3)",
        "x^2_a",
        "3x^{10}_{a}",
        "d^2",
        "dx^2",
    ],
)
def test_the_short_way_reads_powers_as_the_whole_grammar_does(text):
    assert parse(text) == _Parser().parse(text)


def test_a_power_of_a_letter_takes_the_short_way():
    assert _Parser().parse_expression(r"3x^2-\pi^{10}") == _Parser().parse(r"3x^2-\pi^{10}")


def test_rational_is_exact_and_bounded():
    assert rational(parse("2^{10}+1/3")) == sympy.Rational(3073, 3)
    assert rational(parse("10^{6000} 10^{6000}")) is None
    assert rational(parse("x+1")) is None


def test_strings_cannot_reach_the_evaluator():
    seal()
    for road in (sympy.sympify, sympy.parse_expr, sympy_parser.parse_expr, sympy.S):
        with pytest.raises(Sealed):
            road("1+1")


def test_no_string_ever_tries_to(monkeypatch):
    seen = []

    def record(text, *rest, **more):
        seen.append(text)
        raise Sealed

    seal()
    for module in (sympy, sympy_parser):
        monkeypatch.setattr(module, "parse_expr", record)
    rows = [json.loads(line) for line in (GOLDEN / "verify_pairs.jsonl").read_text().splitlines()]
    for row in rows[::3]:
        judge(canonical(row["gold"]), canonical(row["answer"]))
    assert seen == []
