"""The smoke presets: the path of a real model through every mode, with rows and a tokenizer of ours, and with real ones."""

import json
import re
import shutil

import pytest
import safetensors.numpy
from hf_files import model_files
from small_world import write_base, write_questions
from test_settings import CONFIGS

from pubswap_jax import main
from pubswap_jax.run import journal


def run(capsys, config, workdir, *flags):
    status = main.main([f"--config={CONFIGS}/{config}.py:smoke", f"--workdir={workdir}", *flags])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


@pytest.mark.slow
def test_every_mode_of_the_command(tmp_path, capsys):
    base, questions = write_base(tmp_path / "base"), write_questions(tmp_path / "questions.jsonl")
    flags = [f"--config.model.path={base}", f"--config.data.path={questions}", "--config.evaluation.greedy=True"]
    workdir = tmp_path / "run"
    assert "it fits" in run(capsys, "math", workdir, *flags, "--mode=plan") and not workdir.exists()
    trained = run(capsys, "math", workdir, *flags)
    assert "round 1 of 1 saved" in trained and re.search(r"all +4 ", trained)
    tested = [row for row in journal.read(workdir, "evaluations") if row["split"] == "test"]
    assert [row["model"] for row in tested[:2]] == ["global", "global, greedy"]
    folders = run(capsys, "math", workdir, *flags, "--mode=export").split()
    best = [row for row in tested if row["model"] == "global"][-1]
    own = ("client_0", "client_1") if best["round"] else ()  # the base has no clients' adapters
    assert folders == [str(workdir / "export" / name) for name in ("global", *own)]
    evaluated = run(capsys, "math", tmp_path / "elsewhere", *flags, "--mode=eval", f"--adapter={folders[0]}")
    assert f"pass@1                  {best['figures']['pass@1']:>8.4f}" in evaluated
    assert run(capsys, "math", workdir, *flags, "--mode=report").strip() == str(workdir / "report.html")


def write_real(folder, shared_data, family):
    """A small random model with Qwen's own vocabulary and chat template."""
    tokenizer = shared_data / "tokenizers" / "qwen"
    folder.mkdir()
    for path in tokenizer.iterdir():
        shutil.copyfile(path, folder / path.name)
    rows = 151_936
    changes = {"eos_token_id": 151_645, "tie_word_embeddings": True, "max_position_embeddings": 1024}
    fields, tensors = model_files(family, vocab_size=rows, **changes)
    embedding = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = embedding[[i % len(embedding) for i in range(rows)]] / 10
    tensors.pop("lm_head.weight", None)
    (folder / "config.json").write_text(json.dumps(fields))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, family, files, options",
    [("math", "qwen2", "math/math_train.jsonl", ""), ("medical", "llama", "medical/medqa_test.jsonl", "options")],
)
def test_real_rows_and_a_real_tokenizer(tmp_path, capsys, shared_data, config, family, files, options):
    base = write_real(tmp_path / "base", shared_data, family)
    flags = [
        f"--config.model.path={base}",
        f"--config.data.path={shared_data / files}",
        f"--config.data.fields.options={options}",
    ]
    out = run(capsys, config, tmp_path / "run", *flags)
    assert "round 1 of 1 saved" in out
    rows = journal.read(tmp_path / "run", "metrics")
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["config"]["model.lora_rank"] == 32 and sum("step" in row for row in rows) == 2
    said = journal.read(tmp_path / "run", "rollouts")
    assert len(said) == 2 and all(row["question"] and len(row["responses"]) == 2 for row in said)
