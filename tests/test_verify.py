"""The verifier's command: files of rows, mistakes in them, and what it prints."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from pubswap_jax import verify as verify_module
from pubswap_jax.verifier import pool
from pubswap_jax.verify import main, score

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="module")
def closed_pool():
    yield
    pool.close()


def test_importing_it_loads_no_jax():
    code = (
        "import sys, pubswap_jax.verify, pubswap_jax.verifier.symbolic; print([m for m in ('jax', 'flax') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_command_grades_a_file(tmp_path, capsys):
    rows = [
        {"gold": "1", "answer": "1.0", "label": True, "form": "expr"},
        {"gold": "2", "answer": "The answer is 3.", "label": True},
        {"gold": "B", "answer": "Answer: B", "kind": "choice", "label": False, "options": None},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main([str(file), "--out", str(tmp_path / "out.jsonl")])
    printed = capsys.readouterr().out
    assert "math: 2 rows: 1 correct, 1 wrong" in printed
    assert "missed right: 1 of 2" in printed
    assert "accepted wrong: 1 of 1" in printed
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])["extracted"] == "3"


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "rows.jsonl:1: not a JSON object"),
        (
            '{"gold": "1", "answer": "1"}\n{"answer": "1"}',
            "rows.jsonl:2: an object with the texts 'gold' and 'answer' expected",
        ),
        ('{"gold": "1", "answer": "1", "kind": "maths"}', "kind is 'maths'; there are math, choice"),
        ("", "rows.jsonl: no rows in it"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_graded_is_told_in_a_line(tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "rows.jsonl")])
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


GUARD = """
import sys, sympy
import sympy.parsing.sympy_parser
real = sys.modules["sympy.core.sympify"].sympify
def guard(a, *rest, **more):
    if isinstance(a, str):
        print("a string was sympified:", a[:80], file=sys.stderr)
        raise RuntimeError("sealed")
    return real(a, *rest, **more)
def refuse(*rest, **more):
    print("parse_expr was called", file=sys.stderr)
    raise RuntimeError("sealed")
for module in list(sys.modules.values()):
    for name, new in (("sympify", guard), ("parse_expr", refuse)):
        if getattr(module, "__name__", "").startswith("sympy") and callable(getattr(module, name, None)):
            setattr(module, name, new)
"""


@pytest.mark.slow
def test_it_is_as_right_where_sympify_and_parse_expr_fail_on_strings(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pubswap_jax.verify", str(GOLDEN / "verify_pairs.jsonl"), "--timeout", "10"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "missed right: 0 of" in done.stdout
    assert "accepted wrong: 0 of" in done.stdout


@pytest.mark.parametrize("name", ["verify_hard.jsonl", "verify_fresh.jsonl"])
def test_the_hard_pairs_are_judged_within_the_figures(name):
    rows = [json.loads(line) for line in (GOLDEN / name).read_text().splitlines()]
    for kind in ("math", "choice"):
        chosen = [row for row in rows if row.get("kind", "math") == kind]
        texts = [verify_module._completion(row) for row in chosen]
        options = [row.get("options") for row in chosen]
        found = score(texts, [row["gold"] for row in chosen], kind=kind, options=options, timeout=5)
        assert [row for row, ok in zip(chosen, found, strict=True) if ok and not row["label"]] == []
        missed = [row for row, ok in zip(chosen, found, strict=True) if row["label"] and not ok]
        assert len(missed) <= 0.02 * sum(row["label"] for row in chosen), missed


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        ({}, ["--timeout", "0"], "--timeout must be positive seconds, got 0"),
        ({}, ["--timeout", "-1"], "--timeout must be positive seconds, got -1"),
        ({}, ["--workers", "0"], "workers must be at least 1, got 0"),
        ({}, ["--out", "nowhere/out.jsonl"], "nowhere/out.jsonl"),
        ({"kind": "choice", "options": ["x", "y"]}, [], "rows.jsonl:1: options must be an object of keys and texts, got"),
        ({"kind": "choice", "options": {"1": 2}}, [], "rows.jsonl:1: options must be an object of keys and texts, got"),
        ({"kind": "choice", "options": {str(i): "x" for i in range(27)}}, [], "rows.jsonl:1: 27 options"),
    ],
)
def test_a_mistake_in_the_command_is_a_line_before_any_grading(tmp_path, monkeypatch, capsys, row, flags, message):
    def grade(rows, timeout):
        raise AssertionError("graded")

    monkeypatch.setattr(verify_module, "_grade", grade)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"gold": "1", "answer": "1"} | row))
    flags = [str(tmp_path / flag) if flag.startswith("nowhere") else flag for flag in flags]
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "rows.jsonl"), *flags])
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
