"""The study of a real model: its questions, its cells and commands, its tables. Nothing is trained here."""

import json
import pathlib

import numpy as np
import pytest

from experiments.real_model import examples, prepare, study, table
from experiments.real_model.warmup import target
from pubswap_jax import main, settings
from pubswap_jax.questions.leakage import near_copies
from pubswap_jax.weights.hf_folder import find_folder
from pubswap_jax.weights.peft_checks import BASE_DIGEST
from pubswap_jax.weights.tensorfile import read_header, read_metadata

HERE = pathlib.Path(study.__file__).parent
WORDS = pathlib.Path("words")


@pytest.mark.slow
def test_the_committed_questions_are_svamps_and_no_set_holds_copies_of_another():
    sets = {name: prepare.read(HERE / "data" / f"svamp_{name}.jsonl") for name in ("warmup", "train", "test")}
    assert {name: len(rows) for name, rows in sets.items()} == {"warmup": 80, "train": 467, "test": 200}
    problems = {name: prepare._problems(rows) for name, rows in sets.items()}
    assert all(problem.id.startswith("svamp/") for part in problems.values() for problem in part)
    for one, other in (("warmup", "test"), ("train", "test"), ("train", "warmup")):
        assert (near_copies(problems[one], problems[other]) < 0).all()
    assert "MIT License" in (HERE / "data" / "LICENSE").read_text()
    assert [path.name for path in HERE.rglob("*asdiv*")] == [], "ASDiv is not committed"


def test_the_warm_up_adapter_is_small_and_suits_any_form_of_its_base():
    file = HERE / "warmup" / "adapter_model.safetensors"
    assert file.stat().st_size < 5_000_000
    assert {str(entry.dtype) for entry in read_header(file).values()} == {"bfloat16"}
    assert BASE_DIGEST not in read_metadata(file)
    assert target({"solution": "( 23 - 15 ) / 4 = 2"}) == "(23-15)/4"


@pytest.mark.parametrize(("stage", "count"), [("lr", 12), ("a", 12), ("b", 8), ("c", 9), ("d", 12), ("e", 12)])
def test_every_cell_is_a_command_with_known_fields(tmp_path, stage, count):
    cells = study.cells(stage, tmp_path)
    assert len(cells) == len({cell.name for cell in cells}) == count
    for cell in cells:
        _, module, name, *flags = study.command(cell, "model", WORDS, tmp_path)
        parsed = main.parse(flags)
        assert (module, name, parsed.mode) == ("-m", "pubswap_jax.main", "train")
        config = parsed.config
        assert config.federation.rounds * config.federation.steps == study.STEPS and config.seed == cell.seed
        asked = config.federation.num_clients * config.training.prompts
        assert asked == 16 and config.model.warmup == "experiments/real_model/warmup"


def test_what_is_done_is_not_run_again(tmp_path):
    assert [name for name, _ in study.jobs("b", "model", WORDS, tmp_path)][:2] == ["base", "fedavg-4"]
    for name in ("base", "fedavg-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.json").write_text("{}")
    names = [name for name, _ in study.jobs("b", "model", WORDS, tmp_path)]
    assert len(names) == 7 and not {"base", "fedavg-4"} & set(names)


def test_the_learning_rate_is_chosen_on_validation_questions(tmp_path):
    assert study.rate_of("pubswap", tmp_path) == "5e-4"
    for rate, score in (("2e-4", 0.4), ("5e-4", 0.3), ("1e-3", 0.5)):
        folder = tmp_path / f"lr-pubswap-{rate}"
        folder.mkdir()
        rows = [{"round": 0, "eval/pass@1": 0.9}, {"round": 0, "step": 0}, {"round": 3, "eval/pass@1": score}]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert study.rate_of("rescue", tmp_path) == "5e-4"
        (folder / "report.html").touch()
    assert study.rate_of("pubswap", tmp_path) == study.rate_of("rescue", tmp_path) == "1e-3"
    assert study.rate_of("fedavg", tmp_path) == "5e-4"


def measured(folder, correct):
    """test.json of a run with these samples [questions][8], of which the first is evaluated."""
    folder.mkdir(parents=True)
    first = [row[0] + "0" * 7 for row in correct]
    model = {"sampled": {"correct": correct, "evaluated": first}, "greedy": {"correct": [row[0] for row in correct]}}
    (folder / "test.json").write_text(json.dumps({"questions": [], "models": [model]}))


def test_the_tables_by_hand(tmp_path):
    measured(tmp_path / "base", ["10000000", "00000000"])
    for seed, more in ((1, "11110000"), (2, "11111111")):
        measured(tmp_path / f"fedavg-{seed}", ["10000000", "00000000"])
        measured(tmp_path / f"pubswap-{seed}", ["10000000", more])
    text = table.table(tmp_path, "")
    assert "| after the warm-up | 0.062 | 0.500 | 0.500 | 0.062 |" in text and "| rescue (0) | not run |" in text
    assert np.isclose(table.each(tmp_path / "pubswap-1", "pass@1").mean(), (1 / 8 + 4 / 8) / 2)
    rows = table.against(tmp_path, "").splitlines()
    assert rows[-1].startswith("| fedavg | 2 | +0.375 ± ") and len(rows) == 3


def test_a_model_that_is_not_there_is_named_with_the_ways_to_get_it(monkeypatch):
    import huggingface_hub

    def nothing(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", nothing)
    with pytest.raises(FileNotFoundError, match=r"GGUF file.*bash experiments/real_model/smollm2.sh FOLDER brings this model"):
        find_folder(settings.load("configs/math.py:smollm2-135m").model.path)


def group(round, step, client, *responses, public=True):
    keys = ("text", "verdict", "replaced_by", "from_client")
    said = [dict(zip(keys, response, strict=False)) for response in responses]
    known = {"round": round, "step": step, "client": client, "public": public, "question": "2 and 3?", "answer": "5"}
    return known | {"responses": said}


def test_the_page_of_transcripts_has_each_clients_ends_and_every_swap_in_order():
    groups = [
        group(1, 0, 0, ("2+3", "correct"), ("2+3", "correct"), ("2*3", "wrong")),
        group(0, 4, 0, ("2-3", "wrong"), public=False),
        group(0, 5, 1, ("2-3", "wrong", "3+2", 0), ("2/3", "wrong", "3+2", 0), ("2*3", "wrong", "2+3", 2), ("5", "correct")),
        group(0, 6, 0, ("3", "wrong")),
    ]
    shown = examples.page(groups)
    ends, swaps = shown.split("## Swaps")
    rows = [line for line in ends.splitlines() if "2 and 3?" in line]
    assert [row.split(" | ")[1] for row in rows] == ["1.5", "2.1", "1.6", "1.6"], "first and last of client 0, then of 1"
    assert "**`2+3`** × 2, `2*3`" in rows[1] and "private" in rows[0]
    assert [line for line in swaps.splitlines() if "2 and 3?" in line] == [
        "| 1.6 | 1 | 2 and 3? | 5 | `2-3`, `2/3`, `2*3` | `3+2` (0), `2+3` (2) |"
    ]
