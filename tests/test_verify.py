"""The verifier's front door: what a batch of completions scores."""

import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pubswap_jax import choice, pool
from pubswap_jax import score as library
from pubswap_jax import verify as verify_module
from pubswap_jax.verify import main, readable, score, verify
from pubswap_jax.worker import MEMORY

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(autouse=True, scope="module")
def closed_pool():
    yield
    pool.close()


def test_scores_are_numpy_bools_of_the_rows():
    found = score([r"so \boxed{\frac{1}{2}}", r"\boxed{3}"], ["0.5", "4"])
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False]


@pytest.mark.parametrize("kind, broken", [("math", "extract"), ("math", "_fast"), ("choice", "choice.judge")])
def test_a_fault_on_one_answer_ends_no_run(monkeypatch, kind, broken):
    whole = choice.judge if kind == "choice" else getattr(library, broken)

    def judge(*arguments):
        if any("odd" in str(argument) for argument in arguments):
            raise IndexError("of ours")
        return whole(*arguments)

    monkeypatch.setattr(f"pubswap_jax.{broken}" if kind == "choice" else f"pubswap_jax.score.{broken}", judge)
    with pytest.warns(UserWarning, match="the verifier failed on .*odd.* counts as not right: IndexError"):
        found = verify([r"\boxed{B odd}", r"\boxed{B}"], ["B", "B"], kind=kind)
    assert found.correct.tolist() == [False, True]


def test_importing_it_loads_no_jax():
    code = "import sys, pubswap_jax.verify, pubswap_jax.symbolic; print([m for m in ('jax', 'flax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="kind must be"):
        score(["1"], ["1"], kind="maths")
    with pytest.raises(ValueError, match="same length"):
        score(["1"], [])
    with pytest.raises(ValueError, match="options must"):
        verify(["A"], ["A"], kind="choice", options=[])
    with pytest.raises(ValueError, match="options: a dict"):
        verify(["A"], ["A"], kind="choice", options=[["one", "two"]])
    with pytest.raises(ValueError, match="timeout must"):
        score(["1"], ["1"], timeout=0)


def test_an_unreadable_gold_is_told():
    assert readable([r"\frac{1}{2}", r"\frac{", ""]).tolist() == [True, False, False]


BOMBS = [
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{\left(x+y+z+w\right)^{400}}",
    r"\boxed{\sin(\sin(\sin(x^x^x)))}",
    r"\boxed{__import__('os').mkdir('MARKER')}",
    r"\boxed{" + "(" * 5000,
    r"\boxed{" + "9" * 4000 + "}",
    "\\boxed" * 9000,
    "\ud800",
]


def test_hostile_answers_are_false_and_quick(tmp_path):
    score(["1"], ["x"])  # warm
    for text in BOMBS:
        start = time.monotonic()
        assert not score([text.replace("MARKER", str(tmp_path / "made"))], ["7"])[0]
        assert time.monotonic() - start < 2.0
    assert not list(tmp_path.iterdir())


def test_a_time_bomb_costs_a_timeout_and_no_other_answer():
    bomb = r"\boxed{%s}" % ("(" * 30 + "x+1" + ")^{2}" * 30)
    found = verify([bomb, r"\boxed{2x}", r"\boxed{3x}"] * 3, ["x+y", "x+x", "2x"] * 3, timeout=0.5)
    assert found.correct.tolist() == [False, True, False] * 3
    assert found.status[0] == "timeout"


def test_it_works_off_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.extend(score([r"\boxed{\sqrt{12}}"] * 2, [r"2\sqrt{3}", "3"])))
    thread.start()
    thread.join()
    assert found == [True, False]


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


def test_a_seeded_share_of_the_fuzz_raises_nothing():
    rng = random.Random(0)
    rows = [json.loads(line) for line in (GOLDEN / "verify_pairs.jsonl").read_text().splitlines()]
    pieces = [
        "\\frac",
        "{",
        "}",
        "^",
        "(",
        ")",
        "\\sqrt",
        "9",
        ",",
        "\\text{or}",
        "\\pm",
        "=",
        "<",
        "%",
        "\x00",
        "𝟙",
        "x",
        "!",
        "|",
    ]
    texts, golds = [], []
    for _ in range(1500):
        answer = list(rng.choice(rows)["answer"])
        for _ in range(rng.randrange(1, 4)):
            answer.insert(rng.randrange(len(answer) + 1), rng.choice(pieces))
        texts.append(r"\boxed{" + "".join(answer) + "}")
        golds.append(rng.choice(rows)["gold"])
    found = verify(texts, golds)
    assert len(found.status) == 1500
    assert found.status.count("timeout") <= 5


# The rest reads real data.


def attack_text(row: dict, marker: pathlib.Path) -> str:
    text = row["answer"] if "answer" in row else "".join(part * times for part, times in row["answer_parts"])
    return text.replace("MARKER", str(marker))


def run_attacks(rows: list[dict], folder: pathlib.Path) -> list[str]:
    """The ids of attacks that were accepted or slow."""
    failed = []
    for row in rows:
        start = time.monotonic()
        accepted = score([attack_text(row, folder / "made")], [row["gold"]], kind=row["kind"])[0]
        if accepted or time.monotonic() - start > min(row["max_seconds"], 2.0):
            failed.append(row["id"])
    return failed


def resident(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_every_attack_fails_in_any_thread_and_order(shared_data, tmp_path):
    rows = [json.loads(line) for line in (shared_data / "verifier/attacks.jsonl").read_text().splitlines()]
    score([r"\boxed{x+1}"], ["1+x"])
    assert run_attacks(rows, tmp_path) == []
    failed: list[str] = ["not run"]
    thread = threading.Thread(target=lambda: failed.__setitem__(slice(None), run_attacks(rows, tmp_path)))
    thread.start()
    thread.join()
    assert failed == []
    size = len(pool.shared().pids())
    assert run_attacks(random.Random(0).choices(rows, k=1000), tmp_path) == []
    assert len(set(pool.shared().pids())) == size == pool.shared().size
    assert all(resident(pid) < MEMORY for pid in pool.shared().pids())
    assert not list(tmp_path.iterdir())


def test_the_open_pairs_are_judged_within_the_figures(shared_data, tmp_path):
    rows = [json.loads(line) for line in (shared_data / "verifier/open.jsonl").read_text().splitlines()]
    out = tmp_path / "out.jsonl"
    main([str(shared_data / "verifier/open.jsonl"), "--out", str(out), "--timeout", "5"])
    status = [json.loads(line)["status"] for line in out.read_text().splitlines()]
    for kind, missed, accepted in (("math", 0.02, 0.003), ("choice", 0.01, 0.01)):
        for label, share in ((True, missed), (False, accepted)):
            chosen = [word for word, row in zip(status, rows, strict=True) if row["kind"] == kind and row["label"] is label]
            assert sum((word == "correct") is not label for word in chosen) <= share * len(chosen)


def test_every_gold_of_math_answers_itself(shared_data):
    golds = [json.loads(line)["answer"] for line in (shared_data / "math/math_test.jsonl").read_text().splitlines()]
    assert score([rf"\boxed{{{gold}}}" for gold in golds], golds).all()
    assert readable(golds[:300]).all()


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


KEYS = [
    (["a", "b"], "a"),
    (["1", "2"], "2"),
    (["yes", "no", "maybe"], "maybe"),
    (list("ABCDEFGHIJKL"), "K"),
    (["True", "False"], "False"),
    (["i", "ii", "iii"], "ii"),
    ([str(i) for i in range(26)], "25"),
]


@pytest.mark.parametrize(("names", "gold"), KEYS)
def test_options_may_have_any_keys(names, gold):
    options = {name: f"the text number {place}" for place, name in enumerate(names, 100)}
    other = next(name for name in names if name != gold)
    texts = [rf"\boxed{{{gold}}}", f"The answer is {gold}.", f"({gold})", options[gold], rf"\boxed{{{other}}}"]
    texts += [f"The answer is {gold} or {other}.", f"It is not {gold}.", "There is no answer to a question as hard as I saw."]
    found = score(texts, [gold] * len(texts), kind="choice", options=[options] * len(texts))
    assert found.tolist() == [True] * 4 + [False] * 4


def test_the_letter_that_the_prompt_shows_answers_too():
    options = {"yes": "it does", "no": "it does not"}
    assert score([r"\boxed{A}", r"\boxed{B}"], ["yes"] * 2, kind="choice", options=[options] * 2).tolist() == [True, False]
    # `2` is the name of one option and the text of the other: it commits to neither, a letter does
    twice = {"1": "2", "2": "4"}
    assert score([r"\boxed{2}", r"\boxed{B}"], ["2"] * 2, kind="choice", options=[twice] * 2).tolist() == [False, True]


def test_more_than_26_options_are_refused_in_a_line():
    options = {str(i): "x" for i in range(27)}
    with pytest.raises(ValueError, match=r"options\[0\]: 27 options; there are letters for at most 26"):
        verify(["1"], ["1"], kind="choice", options=[options])


def test_a_choice_is_readable_where_one_of_its_options_is_named():
    assert readable(["a", "yes", "B"], kind="choice").tolist() == [True, False, True]
    options = [{"a": "x"}, {"yes": "x"}, {"A": "x"}]
    assert readable(["a", "yes", "B"], kind="choice", options=options).tolist() == [True, True, False]


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
