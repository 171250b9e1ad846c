"""Mistakes of somebody who installed the package and works in a folder of their own: each ends in two lines at most.

The list of tests/test_main.py has none of these. Each message names the fix.
"""

import importlib.util
import json

import pytest

from pubswap_jax import command

REWARDS = """
def close(completions, answer, **others):
    return [0.0 for _ in completions]
def by_solution(completions, solution):
    return [0.0 for _ in completions]
"""
ROWS = [{"question": f"What is {i} plus {7 * i % 11}?", "answer": str(i + 7 * i % 11), "topic": "sums"} for i in range(2, 42)]
SIZES = "--config.data.test=4 --config.data.validation=4 --config.federation.num_clients=2 --config.data.partition=iid"
MINE = f"math --config.data.path=mine.jsonl {SIZES}"
OPTIONS = [{"question": "Which?", "options": {"A": "one", "B": "two"}, "answer": "two"}]

# name: (words after `pubswap`, a part of the message)
MISTAKES = {
    "a set on the hub as other tools name it": ("data math --config.data.name=me/mine", "write hf:me/mine@REVISION"),
    "a set without a revision": ("data math --config.data.name=hf:me/mine", "write hf:OWNER/NAME@REVISION"),
    "a set without a network": ("data math --config.data.name=hf:me/mine@main", "--repo-type dataset me/mine"),
    "a generator without its package": (
        "data math --config.data.name=reasoning_gym:chain_sum",
        "pip install 'pubswap_jax[reasoning-gym]'",
    ),
    "a revision of the embedded model": ("data math --config.model.revision=main", "it belongs to a name on the hub"),
    "a folder of questions": ("data math --config.data.path=.", "name the files in it, as in ./*.jsonl"),
    "the questions as a config": ("data mine.jsonl", "--config=mine.jsonl: not a Python file"),
    "a test set of another kind": (f"data {MINE} --config.data.test_name=math500", "name files with test questions"),
    "more test questions than rows": (f"data {MINE} --config.data.test=512", "config.data.test=512: there are only 40"),
    "a question asked twice": (
        "data math --config.data.path=mine.jsonl --config.data.fields.id=topic",
        "set data.fields.id to another column",
    ),
    "answers still to be written": ("data math --config.data.path=open.jsonl", "the verifier cannot read their answers"),
    "an option's text as the answer": (
        "data math --config.data.path=options.jsonl --config.data.fields.options=options",
        "it is the text of 'B', and the key is expected",
    ),
    "a reward file without a function": (
        "data math --config.reward.functions=rewards.py",
        "write rewards.py:FUNCTION",
    ),
    "a misspelt reward file": ("data math --config.reward.functions=reward.py:close", "did you mean rewards.py?"),
    "a misspelt reward function": ("data math --config.reward.functions=rewards.py:clos", "did you mean close?"),
    "a reward file that needs another package": (
        "data math --config.reward.functions=needs.py:close",
        "No module named 'nowhere'",
    ),
    "weights for another number of functions": (
        "data math --config.reward.functions=rewards.py:close --config.reward.weights=1,2",
        "give one for each",
    ),
    "weights without a reward": ("data math --config.reward.weights=1", "set reward.functions"),
    "a threshold that is no number": (
        "data math --config.reward.functions=rewards.py:close --config.reward.correct_at=yes",
        "verifier or a number expected",
    ),
    "a column that the questions lack": (
        f"data {MINE} --config.reward.functions=rewards.py:by_solution",
        "the questions have no column 'solution'",
    ),
    "a form of prompts as other tools name it": ("data math --config.reward.form=chat", "auto, messages, text"),
    "the singular of a field": ("data math --config.reward.function=x", "did you mean reward.functions?"),
}
WITHOUT = {"a generator without its package": "reasoning_gym"}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder of the user's, with their files and without a network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "rewards.py").write_text(REWARDS)
    (tmp_path / "needs.py").write_text("import nowhere")
    unanswered = [row | {"answer": ""} for row in ROWS]
    for name, rows in (("mine", ROWS), ("open", unanswered), ("options", OPTIONS)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_two_lines_that_name_the_fix(mistake, elsewhere, capsys):
    if mistake in WITHOUT and importlib.util.find_spec(WITHOUT[mistake]):
        pytest.skip(f"{WITHOUT[mistake]} is installed")
    words, message = MISTAKES[mistake]
    assert command.main(words.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") <= 2 and "Traceback" not in said, said
    assert not (elsewhere / "runs").exists()


def test_without_a_mistake_the_same_command_shows_the_questions(elsewhere, capsys):
    assert command.main(f"data {MINE} --config.reward.functions=rewards.py:close".split()) == 0
    assert "client 1" in capsys.readouterr().out
