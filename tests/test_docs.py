"""The pages in docs/: snippets of the swap, the verifier and a judge run, and every field that a page names exists."""

import pathlib
import re

import pytest
from small_world import config_of, finished

from pubswap_jax import checks, settings
from pubswap_jax.field_table import FIELDS
from pubswap_jax.run import journal
from pubswap_jax.types import Federation

DOCS = pathlib.Path(__file__).parent.parent / "docs"
NAMES = {field.name for field in FIELDS}
SECTIONS = {name.rpartition(".")[0] for name in NAMES} - {""}


def snippets(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_swap_in_ten_lines_prints_what_it_says(capsys):
    code = "\n".join(snippets("swap.md"))
    exec(compile(code, "swap.md", "exec"), {})
    printed = capsys.readouterr().out
    said = re.findall(r"# (\[[\d ]+\])", code)
    assert len(said) == 3 and [line for line in said if line not in printed] == []


def named(text):
    """The fields of a config that a page names in code: `training.lr`, `training.lr=1` and --config.training.lr."""
    code = " ".join(re.findall(r"`([^`]+)`", text)) + " " + " ".join(re.findall(r"--config\.[\w.]+", text))
    found = set(re.findall(rf"(?<![\w./])(?:--config\.)?((?:{'|'.join(SECTIONS)})\.[a-z][\w.]*)", code))
    files = (".py", ".html", ".json", ".jsonl", ".md")
    return {name.rstrip(".") for name in found if not name.endswith(files) and not name.startswith("data.fields.")}


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_field_that_a_page_names_exists(page):
    text = (DOCS / page).read_text()
    if page == "coming-from.md":  # the other columns have names of other tools
        text = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))
    calls = {f"federation.{name}" for name in Federation._fields}
    assert named(text) - NAMES - calls == set()


def test_names_of_fields_are_told_from_other_code():
    text = "`training.lr=1`, --config.data.test=4 and `evaluation.py`; `data.fields.prompt`, training.seed, `training.sneed`"
    assert named(text) == {"training.lr", "data.test", "training.sneed"}


def test_a_name_of_another_tool_is_told_its_name_here():
    """`checks.ALIASES` and the page's column of TRL agree."""
    rows = [line.split("|")[1:4] for line in (DOCS / "coming-from.md").read_text().splitlines() if line.startswith("| `")]
    pairs = [(here, name) for here, *others in rows for name in re.findall(r"`([a-z_]+)`", others[0])]
    assert len(pairs) > 20
    known = {name: checks.field_of(name) for _, name in pairs if checks.field_of(name)}
    wrong = [(here, name) for here, name in pairs if name in known and known[name].rpartition(".")[2] not in here]
    assert wrong == [] and len(known) > 10


def test_the_verifier_prints_what_it_says(capsys):
    (code,) = snippets("verifier.md")
    exec(compile(code, "verifier.md", "exec"), {})
    assert capsys.readouterr().out.strip() == re.search(r"# (\[.*\])", code)[1]


@pytest.mark.slow
def test_a_judge_of_your_own(tmp_path, monkeypatch):
    reward, code = snippets("own.md")
    found = {}
    exec(compile(reward, "own.md", "exec"), found)
    assert found["close"](completions=["so 4", "5"], answer=["4", "4"]) == [1.0, 0.0]
    monkeypatch.setattr("pubswap_jax.run.assembly.assemble", lambda config: finished()[0])
    config = config_of(finished()[0])
    settings.check(config)
    exec(compile(code, "own.md", "exec"), {"config": config, "workdir": tmp_path})
    rows = [row for row in journal.read(tmp_path, "metrics") if "private/reward" in row]
    pairs = [pair for row in rows for pair in zip(row["private/correct"], row["private/reward"], strict=True)]
    assert pairs and all(right > reward for right, reward in pairs), "the reward is less than the bit, by the length"
