"""The table of public sets, read from small folders that look like theirs."""

import pytest

from pubswap_jax.questions import hub as hub_module
from pubswap_jax.questions.hub import HUB, hub
from pubswap_jax.questions.sources import FINAL, Fields, last_box

ROWS = {
    "math": {"problem": "1 + 1?", "solution": r"So \boxed{2}.", "type": "Algebra", "level": "Level 1"},
    "math500": {"problem": "1 + 1?", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "test/algebra/1.json"},
    "gsm8k": {"question": "1 + 1?", "answer": "One and one.\n#### 2"},
    "deepmath": {
        "question": "1 + 1?",
        "final_answer": "2",
        "difficulty": 6.5,
        "topic": "Mathematics -> Algebra -> Groups",
        "r1_solution_1": "long",
    },
    "medqa": {
        "question": "Which?",
        "answer": "two",
        "answer_idx": "B",
        "meta_info": "step1",
        "options": {"A": "one", "B": "two"},
    },
    "medmcqa": {
        "id": "x1",
        "question": "Which?",
        "opa": "one",
        "opb": "two",
        "opc": "three",
        "opd": "four",
        "cop": 1,
        "subject_name": "Anatomy",
    },
    "aime24": {"id": 60, "problem": "1 + 1?", "answer": "2", "url": "", "year": "2024"},
    "amc23": {"id": 0, "question": "1 + 1?", "answer": 2.0, "url": ""},
}
EXPECTED = {
    "math": ("math/train/algebra/0", "2", "Algebra", "1"),
    "math500": ("math500/test/algebra/1.json", "2", "Algebra", "1"),
    "gsm8k": ("gsm8k/train/0", "2", "grade-school arithmetic", ""),
    "deepmath": ("deepmath/train/0", "2", "Algebra", "6.5"),
    "medqa": ("medqa/train/0", "B", "step1", ""),
    "medmcqa": ("medmcqa/x1", "B", "Anatomy", ""),
    "aime24": ("aime24/60", "2", "competition", ""),
    "amc23": ("amc23/0", "2", "competition", ""),
}


def mirror(folder, entry, row):
    """A repository folder of parquet files and the README that names its configs, as the hub's."""
    datasets = pytest.importorskip("datasets")
    configs = []
    for config in entry.configs:
        files = []
        for split in entry.splits.values():
            path = folder / entry.name / config / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list([row]).to_parquet(path)
            files += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
        configs += [f"- config_name: {config}", "  data_files:", *files]
    (folder / entry.name / "README.md").write_text("\n".join(["---", "configs:", *configs, "---", ""]))


@pytest.mark.parametrize("short", HUB)
def test_every_set_reads_its_columns(short, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    entry = HUB[short]
    mirror(tmp_path, entry, ROWS[short])
    monkeypatch.chdir(tmp_path)
    problems = hub(short, next(iter(entry.splits)))
    assert len(problems) == len(entry.configs)
    problem = problems[0]
    assert (problem.id, problem.answer, problem.topic, problem.level) == EXPECTED[short]
    assert problem.kind == ("choice" if short.startswith("med") else "math")
    assert len({problem.id for problem in problems}) == len(problems)


def test_without_network_the_message_says_what_to_bring(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="--repo-type dataset openai/gsm8k --local-dir openai/gsm8k") as error:
        hub("gsm8k")
    assert "\n" not in str(error.value)


def test_names_and_splits():
    with pytest.raises(ValueError, match="data.name is 'gsm'; did you mean 'gsm8k'"):
        hub("gsm")
    with pytest.raises(ValueError, match="HuggingFaceH4/MATH-500 has no train split; it has test"):
        hub("math500", "train")
    assert all(entry.licence and entry.fields.final in FINAL for entry in HUB.values())
    assert FINAL[hub_module.HUB["math"].fields.final] is last_box


def test_a_set_that_no_table_names(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    entry = hub_module.HubSet("me/mine", ("easy", "hard"), {"train": "train", "test": "dev"}, Fields(), "")
    mirror(tmp_path, entry, {"problem": "1 + 1?", "solution": r"So \boxed{2}.", "level": "7"})
    monkeypatch.chdir(tmp_path)
    fields = Fields("problem", "solution", final="box")
    (problem,) = hub("hf:me/mine/easy@main", "train", fields)
    assert (problem.id, problem.answer, problem.columns["solution"]) == ("me/mine/train/easy/0", "2", r"So \boxed{2}.")
    assert hub("hf:me/mine/hard@v1.0:dev", "train", fields)[0].id == "me/mine/dev/hard/0"
    with pytest.raises(FileNotFoundError, match=r"me/mine \(easy, test\) is neither in the cache .*(split|Split|test)"):
        hub("hf:me/mine/easy@main", "test", fields)
    with pytest.raises(ValueError, match="me/mine:train/easy:0: no column 'question' for data.fields.prompt"):
        hub("hf:me/mine/easy@main")


@pytest.mark.parametrize("text", ["hf:me/mine", "hf:mine@main", "hf:me/mine@", "hf:a/b/c/d@main", "hf:me/mine:train@main"])
def test_a_name_without_a_revision_is_refused(text):
    with pytest.raises(ValueError, match=f"{text}: write hf:OWNER/NAME@REVISION"):
        hub(text)


def test_names_of_sets_are_told_from_files():
    assert all(map(hub_module.is_name, ("math", "math+gsm8k", "hf:me/mine@main", "reasoning_gym:chain_sum")))
    assert not any(map(hub_module.is_name, ("math.jsonl", "data/*.jsonl", "maths")))
