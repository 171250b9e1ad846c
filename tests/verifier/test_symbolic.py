"""The verdict of the slow oracle, which never evaluates a string."""

import json
import pathlib

import pytest
import sympy
from sympy.parsing import sympy_parser

from pubswap_jax.verifier.notation import canonical
from pubswap_jax.verifier.parser import Sealed, seal
from pubswap_jax.verifier.symbolic import judge

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
