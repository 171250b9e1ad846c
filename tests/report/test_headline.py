"""The report's first lines: which round was the best, what it came to, and what is not known yet."""

import dataclasses
import re

import numpy as np
import pytest

from pubswap_jax.questions.problem import Problem
from pubswap_jax.report.headline import best_round, headline
from pubswap_jax.run.evaluation import final_table
from pubswap_jax.run.pass_at_k import Evaluation, interval

SHAPE = ("num_clients", "rounds", "steps", "swap", "swap_period")
TOPICS = ["sums", "sums", "primes", "sums"]
RUN = {"topics_of": {"test": TOPICS}, "config": {f"federation.{name}": name for name in SHAPE}, "questions": {"test": 4}}


def row(round, split, model, *correct):
    share = float(np.mean([bits.count("1") / len(bits) for bits in correct]))
    return {
        "round": round,
        "split": split,
        "model": model,
        "figures": {"pass@1": share},
        "by_topic": {"sums": share},
        "correct": list(correct),
    }


BASE = [row(0, "validation", "global", "00", "01"), row(0, "test", "global", "00", "01", "00", "01")]


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([], 0),
        ([("global", 1, "11"), ("global", 2, "11")], 1),  # the earlier of two
        ([("global", 1, "01"), ("client 0", 1, "11"), ("global", 2, "11")], 2),  # a client's own is not the average
        ([("client 0", 1, "00"), ("client 1", 1, "11"), ("client 0", 2, "11"), ("client 1", 2, "01")], 2),  # their mean
        ([("global", 1, "00")], 0),
    ],
)
def test_the_best_round_is_the_validation_questions(rows, expected):
    assert best_round(BASE + [row(round, "validation", model, bits) for model, round, bits in rows]) == expected


def test_without_averaging_the_interval_is_of_the_change_of_the_clients_mean():
    clients = [("11", "11", "00", "01"), ("11", "01", "00", "01")]
    rows = BASE + [row(1, "validation", f"client {i}", "11") for i in range(2)]
    rows += [row(1, "test", f"client {i}", *correct) for i, correct in enumerate(clients)]
    low, high = interval(np.array([1.0, 0.25, 0.0, 0.0]), lowest=-1.0)
    text = headline(RUN, rows)
    change = f"+0.312 [{low:+.3f}, {high:+.3f}]"
    sentence = (
        f"Best round by the validation questions: 1. pass@1 on 4 test questions: 0.250 → 0.562, change {change} (95 % interval)"
    )
    assert sentence in text and f"<td>all</td><td>4</td><td>0.250</td><td>0.562</td><td>{change}</td>" in text
    assert "<td>primes</td><td>1</td>" in text and "<td>sums</td><td>3</td>" in text


def test_the_report_says_what_the_terminal_says():
    rows = [*BASE, row(1, "validation", "global", "11"), row(1, "test", "global", "11", "01", "00", "11")]
    problems = [Problem("", "", "", topic) for topic in TOPICS]
    found = {
        (one["round"], one["split"], one["model"]): Evaluation(
            problems, np.array([list(b) for b in one["correct"]]) == "1", [], []
        )
        for one in rows
        if one["split"] == "test"
    }
    found = {key: dataclasses.replace(e, answers=e.correct, lengths=e.correct) for key, e in found.items()}
    text = headline(RUN, rows)
    for line in final_table(found, 1).splitlines()[1:]:
        assert line.split("   ")[-1] in text


def test_what_is_not_known_yet_stays_blank():
    text = headline(RUN, [*BASE, row(3, "validation", "global", "11")])
    assert "Best round so far by the validation questions: 3; its test figures come at the end of the run." in text
    assert "0.250" in text and "→" not in text and not re.search(r"[+-]\d\.\d{3}", text)
    assert "not been evaluated yet" in headline(RUN, [])
