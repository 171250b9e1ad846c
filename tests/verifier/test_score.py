"""Verdicts on a batch of completions."""

import json
import os
import pathlib
import random
import threading

import numpy as np
import pytest

from pubswap_jax.verifier import choice, pool
from pubswap_jax.verifier import score as library
from pubswap_jax.verifier.worker import MEMORY
from pubswap_jax.verify import main, readable, score, verify

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


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

    monkeypatch.setattr(f"pubswap_jax.verifier.{broken}" if kind == "choice" else f"pubswap_jax.verifier.score.{broken}", judge)
    with pytest.warns(UserWarning, match="the verifier failed on .*odd.* counts as not right: IndexError"):
        found = verify([r"\boxed{B odd}", r"\boxed{B}"], ["B", "B"], kind=kind)
    assert found.correct.tolist() == [False, True]


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


def test_an_unreadable_gold_is_reported():
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


def test_hostile_answers_are_false_and_do_nothing(tmp_path):
    score(["1"], ["x"])  # warm
    for text in BOMBS:
        assert not score([text.replace("MARKER", str(tmp_path / "made"))], ["7"])[0]
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


def attack_text(row: dict, marker: pathlib.Path) -> str:
    text = row["answer"] if "answer" in row else "".join(part * times for part, times in row["answer_parts"])
    return text.replace("MARKER", str(marker))


def run_attacks(rows: list[dict], folder: pathlib.Path) -> list[str]:
    """The ids of attacks that were accepted."""
    asked = ((row, score([attack_text(row, folder / "made")], [row["gold"]], kind=row["kind"])[0]) for row in rows)
    return [row["id"] for row, accepted in asked if accepted]


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
