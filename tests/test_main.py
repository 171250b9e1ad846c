"""Flags, and the mistakes of a newcomer: each ends in one or two lines that name the fix, without a traceback."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from small_world import finished, write_base, write_questions

from pubswap_jax import fields, main, settings

ROOT = pathlib.Path(__file__).parent.parent
MATH = str(ROOT / "configs" / "math.py")


def smoke(folder, *more):
    base, questions = folder / "base", folder / "questions.jsonl"
    if not base.exists():
        write_base(base)
        write_questions(questions)
    flags = [
        f"--config={MATH}:smoke",
        f"--config.model.path={base}",
        f"--config.data.path={questions}",
        f"--workdir={folder / 'run'}",
    ]
    return [*flags, "--config.model.instruction=", *more]


def text_file(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


MISTAKES = {
    "no config": (lambda d: [], "--config=FILE[:PRESET] is missing"),
    "wrong path of the config": (lambda d: [f"--config={ROOT}/configs/maths.py"], "no such file"),
    "config that is no Python": (lambda d: [f"--config={text_file(d, 'c.py', 'x = (')}"], "c.py:1: SyntaxError: "),
    "config without a function": (lambda d: [f"--config={text_file(d, 'c.py', 'x = 1')}"], "AttributeError: "),
    "config that imports what is not there": (lambda d: [f"--config={text_file(d, 'c.py', 'import nowhere')}"], "nowhere"),
    "seed out of range": (lambda d: smoke(d, "--config.seed=-1"), "config.seed=-1: 0 to 4294967295 expected"),
    "probability out of range": (lambda d: smoke(d, "--config.evaluation.top_p=2.0"), "config.evaluation.top_p=2.0"),
    "value for a switch": (lambda d: smoke(d, "--fork=yes"), "--fork"),
    "workdir that is a file": (lambda d: smoke(d, f"--workdir={text_file(d, 'run', '')}"), "name a folder"),
    "wrong preset": (lambda d: [f"--config={MATH}:qwen3-17b"], "did you mean qwen3-1.7b?"),
    "misspelt flag": (lambda d: smoke(d, "--mod=train"), "did you mean --mode?"),
    "misspelt mode": (lambda d: smoke(d, "--mode=trian"), "did you mean train?"),
    "misspelt field": (lambda d: smoke(d, "--config.training.learning_rate=1"), "no such field"),
    "field without a value": (lambda d: smoke(d, "--config.training.lr"), "write --config.training.lr=VALUE"),
    "word for a number": (lambda d: smoke(d, "--config.training.lr=fast"), "a number expected"),
    "misspelt planner": (lambda d: smoke(d, "--config.federation.swap=balance"), "did you mean balanced?"),
    "group of one": (lambda d: smoke(d, "--config.training.group=1"), "at least 2 expected"),
    "microbatch that does not divide": (lambda d: smoke(d, "--config.training.microbatch=3"), "must divide"),
    "odd mesh": (lambda d: smoke(d, "--config.mesh.client=7", "--config.mesh.data=3"), "devices asked for"),
    "no model folder": (lambda d: smoke(d, f"--config.model.path={d}/nothing"), "no such folder"),
    "no network": (
        lambda d: smoke(d, "--config.model.path=Qwen/Qwen3-0.6B-Nowhere"),
        "neither a folder nor in the Hugging Face cache",
    ),
    "model folder without a tokenizer": (lambda d: smoke(d, f"--config.model.path={d}"), "tokenizer"),
    "missing data file": (lambda d: smoke(d, f"--config.data.path={d}/nothing.jsonl"), "no such file"),
    "data file of another kind": (
        lambda d: smoke(d, f"--config.data.path={text_file(d, 'q.txt', 'x')}"),
        "not a file of .jsonl, .json, .csv, .tsv, .parquet",
    ),
    "unreadable row": (lambda d: smoke(d, f"--config.data.path={text_file(d, 'bad.jsonl', '{oops')}"), "bad.jsonl:1"),
    "missing column": (lambda d: smoke(d, "--config.data.fields.prompt=problem"), "no column 'problem'"),
    "misspelt set": (lambda d: smoke(d, "--config.data.path=", "--config.data.name=mathh"), "did you mean math?"),
    "prompts that are all too long": (lambda d: smoke(d, "--config.data.max_prompt_tokens=3"), "data.max_prompt_tokens=3"),
    "context too short": (
        lambda d: smoke(d, "--config.training.max_new_tokens=800"),
        "config.training.max_new_tokens=800 are 1056 positions together, and the base has 1024",
    ),
    "context too short for a plan": (
        lambda d: smoke(d, "--mode=plan", "--config.data.max_prompt_tokens=1020"),
        "config.data.max_prompt_tokens=1020 and config.training.max_new_tokens=16 are 1036 positions together",
    ),
    "context too short for an evaluation": (
        lambda d: smoke(d, "--mode=eval", "--config.data.max_prompt_tokens=1020"),
        "config.data.max_prompt_tokens=1020 and config.training.max_new_tokens=16 are 1036 positions together",
    ),
    "more clients than questions": (lambda d: smoke(d, "--config.federation.num_clients=500"), "federation.num_clients is 500"),
    "no public questions": (
        lambda d: smoke(d, "--config.data.public=0.0"),
        "raise data.public, or set federation.swap_period to 0",
    ),
    "infinite learning rate": (lambda d: smoke(d, "--config.training.lr=1e999"), "config.training.lr=inf: a finite number"),
    "alpha of nought": (lambda d: smoke(d, "--config.model.lora_alpha=0"), "config.model.lora_alpha=0.0: 1e-06 or more"),
    "column that is a number": (lambda d: smoke(d, "--config.data.fields.prompt=5"), "data.fields.prompt is 5"),
    "config that gives nothing": (
        lambda d: [f"--config={text_file(d, 'c.py', 'def get_config(): pass')}"],
        "must return a ConfigDict",
    ),
    "config that lacks a field": (
        lambda d: [
            f"--config={text_file(d, 'c.py', 'from ml_collections import ConfigDict as get_config')}",
        ],
        "begin a config file with pubswap_jax.fields.default_config()",
    ),
    "unwritable workdir": (lambda d: smoke(d, "--workdir=/proc/nowhere"), "/proc/nowhere"),
    "workdir below a file": (lambda d: smoke(d, f"--workdir={text_file(d, 'f', '')}/run"), "name another --workdir"),
    "flag without config": (
        lambda d: smoke(d, "--learning_rate=1"),
        "--learning_rate: no such flag; did you mean --config.training.lr?",
    ),
    "report of nothing": (lambda d: smoke(d, "--mode=report"), "give the --workdir of a run"),
    "export of nothing": (lambda d: smoke(d, "--mode=export"), "no checkpoint in it"),
    "adapter that is none": (lambda d: smoke(d, "--mode=eval", f"--adapter={d}"), "adapter_config.json"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_two_lines_at_most(mistake, tmp_path, capsys):
    flags, message = MISTAKES[mistake]
    assert main.main(flags(tmp_path)) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.splitlines()[-1].startswith("pubswap_jax: ")
    assert captured.count("\n") <= 2 and "Traceback" not in captured


def test_help_and_the_dated_workdir(capsys, tmp_path):
    assert main.main(["--help"]) == 0 and "--workdir=FOLDER" in capsys.readouterr().out
    assert main.main(["--mode=report"]) == 2 and "--workdir=FOLDER of a run, which would do alone" in capsys.readouterr().err
    one, same = (main.parse([f"--config={MATH}"]).workdir for _ in range(2))
    other = main.parse([f"--config={MATH}", "--config.seed=1"]).workdir
    assert one == same != other and one.parent.name == "runs" and one.name.endswith("-math-tiny")


def test_help_names_every_field_without_jax(capsys):
    assert main.main(["--help"]) == 0
    said = capsys.readouterr().out
    for field in fields.FIELDS:
        assert f"--config.{field.name}=" in said and " ".join(field.meaning.split()[:2]) in said
    assert max(map(len, said.splitlines())) <= 128
    assert main.main(["--help=training"]) == 0
    said = capsys.readouterr().out
    assert "--config.training.lr=1e-05" in said and "federation" not in said and "reward" not in said.split("\n")[0]
    assert main.main(["--help=trainin"]) == 2 and "did you mean training?" in capsys.readouterr().err
    code = "import sys; from pubswap_jax import main; main.main(['--help']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


RULE = """import jax
from pubswap_jax import mean

def noted_mean():
    def apply(memory, adapter, uploads, weights, staleness, extra=None):
        jax.debug.callback(note, weights)
        return mean().apply(memory, adapter, uploads, weights, staleness, extra)

    return mean()._replace(apply=apply)

def note(weights):
    with open("{calls}", "a") as file:
        file.write(f"{{(weights > 0).sum()}} clients\\n")
"""
FAILED = ("no model folder", "missing data file", "prompts that are all too long", "more clients than questions")


@pytest.mark.parametrize("mistake", FAILED)
def test_a_start_that_fails_leaves_no_folder_and_does_not_say_that_it_writes(mistake, tmp_path, capsys):
    assert main.main(MISTAKES[mistake][0](tmp_path)) == 2
    assert not (tmp_path / "run").exists() and "writing to" not in capsys.readouterr().out


def test_what_can_be_checked_before_loading_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pubswap_jax.loop.assemble", lambda config: pytest.fail("loading began"))
    monkeypatch.setattr(settings.checks.importlib.util, "find_spec", lambda name: None)
    for flag, message in (("model.lora_targets=q", "'q' is none of all"), ("log.wandb=mine", "wandb is not installed")):
        assert main.main(smoke(tmp_path, f"--config.{flag}")) == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_is_status_130(monkeypatch, capsys):
    monkeypatch.setattr(main, "_run", lambda flags: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main.main([f"--config={MATH}", "--mode=plan"]) == 130
    assert capsys.readouterr().err == "pubswap_jax: stopped\n"


def test_a_plan_says_something_before_it_works(monkeypatch, capsys):
    def plan(config, say):
        assert capsys.readouterr().err.startswith("planning: ")
        say("compiling")
        return "a table"

    monkeypatch.setattr("pubswap_jax.run.estimate.plan", plan)
    assert main.main([f"--config={MATH}", "--mode=plan"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a table\n", "compiling\n")


def test_a_dry_run_over_the_questions(tmp_path, capsys):
    assert main.main(smoke(tmp_path, "--mode=data", "--config.data.max_prompt_tokens=64")) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[2:4]] == [["client", "0"], ["client", "1"]] and said[1].startswith("public")
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_earlier_day_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    today = main.parse([f"--config={MATH}"]).workdir
    earlier = tmp_path / "runs" / "2020-01-01-math-tiny"
    (earlier / "checkpoints" / "round-000001-step-000003").mkdir(parents=True)
    (tmp_path / "runs" / "2020-01-01-math-tiny-ffffff").mkdir()
    assert main.parse([f"--config={MATH}"]).workdir.name == earlier.name
    assert main.parse([f"--config={MATH}:qwen3-1.7b"]).workdir.name.startswith(today.name[:10])
    (earlier / "checkpoints" / "round-000003").mkdir()  # all of the preset's rounds
    assert main.parse([f"--config={MATH}"]).workdir == today
    assert main.parse([f"--config={MATH}", "--mode=report"]).workdir.name == earlier.name
    (tmp_path / today).mkdir()
    assert main.parse([f"--config={MATH}", "--mode=report"]).workdir == today
    assert main.parse([f"--config={MATH}", "--workdir=~/run"]).workdir == pathlib.Path.home() / "run"


def test_too_little_memory_is_a_line(monkeypatch, capsys):
    def full(flags):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 53863751888 bytes.\nmore")

    monkeypatch.setattr(main, "_run", full)
    assert main.main([f"--config={MATH}"]) == 2
    assert capsys.readouterr().err.endswith("bytes; --mode=plan (pubswap plan) says what would fit\n")


def test_flags_are_read_before_anything_heavy():
    code = "import sys; from pubswap_jax import main; main.parse(sys.argv[1:]); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, f"--config={MATH}"], check=False).returncode == 0


def test_report_mode(capsys, tmp_path):
    _, workdir = finished()
    capsys.readouterr()  # where this test is the first to need that run, it has said something
    assert main.main([f"--config={MATH}", "--mode=report", f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out.strip() == str(workdir / "report.html")


@pytest.mark.slow
def test_a_rule_of_a_file_trains_by_its_flag_and_another_file_is_refused(tmp_path, capsys):
    """The rule is the mean, and notes every call: of the round's two clients, at the end of each round."""
    file, calls = tmp_path / "rules.py", tmp_path / "calls"
    file.write_text(RULE.format(calls=calls))
    flags = smoke(tmp_path, f"--config.federation.aggregate={file}:noted_mean", "--config.federation.rounds=1")
    flags += ["--config.federation.steps=1", "--config.evaluation.samples=1", "--config.log.distortion=off"]
    assert main.main(flags) == 0, capsys.readouterr().err
    assert calls.read_text() == "2 clients\n", "the rule of the file made the round's adapter"
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["own_sha256"] == {"federation.aggregate": hashlib.sha256(file.read_bytes()).hexdigest()}
    capsys.readouterr()
    file.write_text(file.read_text() + "# another file\n")
    longer = [*flags, "--config.federation.rounds=2"]
    assert main.main(longer) == 2
    assert f"aggregate={file}:noted_mean: the file is another one than before" in capsys.readouterr().err
    assert calls.read_text() == "2 clients\n"


@pytest.mark.slow
def test_sigterm_ends_in_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    """The real thing: another process, the smoke preset, a signal while the first step compiles, and one amid training."""
    flags = smoke(tmp_path, "--config.federation.steps=3000", "--config.evaluation.every=9", "--config.data.validation=6")
    metrics, checkpoints = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "checkpoints"
    _terminated(flags, lambda: (checkpoints / "round-000000").exists())
    assert [path.name for path in checkpoints.iterdir()] == ["round-000000"] and not _steps(metrics)
    _terminated(flags, lambda: _steps(metrics))
    saved = [path.name for path in checkpoints.glob("round-000000-step-*")]
    assert len(saved) == 1 and len(_steps(metrics)) == int(saved[0].split("-")[-1])


def _terminated(flags, now):
    """Runs the program until `now()`, asks it to end, and sees that it saves and ends long before its last step."""
    command = [sys.executable, "-m", "pubswap_jax.main", *flags]
    environment = os.environ | {"XLA_FLAGS": ""}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    while run.poll() is None and not now():
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    output = run.communicate()[0]
    assert run.returncode == 143 and "stopped and saved" in output, output


def _steps(path):
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [row for row in map(json.loads, lines) if "step" in row]
