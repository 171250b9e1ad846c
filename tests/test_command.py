"""The command `pubswap`: its help at each level, and what each command hands to main.py."""

import subprocess
import sys

import pytest

from pubswap_jax import _version, command, main


@pytest.fixture
def handed(monkeypatch):
    """What main.py was given."""
    given = []
    monkeypatch.setattr(main, "main", lambda flags: given.append(flags) or 0)
    return given


@pytest.mark.parametrize(
    "words, flags",
    [
        ("train math", ["--mode=train", "--config=math"]),
        ("train math:hard --fork --config.seed=2", ["--mode=train", "--config=math:hard", "--fork", "--config.seed=2"]),
        ("train --workdir runs/a math", ["--mode=train", "--config=math", "--workdir=runs/a"]),
        ("train --config=math", ["--mode=train", "--config=math"]),
        ("train --help=training", ["--help=training"]),
        ("plan configs/math.py", ["--mode=plan", "--config=configs/math.py"]),
        ("eval runs/a --adapter=b", ["--mode=eval", "--workdir=runs/a", "--adapter=b"]),
        ("eval --config=math --workdir=runs/a", ["--mode=eval", "--config=math", "--workdir=runs/a"]),
        ("export runs/a", ["--mode=export", "--workdir=runs/a"]),
        ("report runs/a", ["--mode=report", "--workdir=runs/a"]),
        ("doctor runs/a", ["--mode=doctor", "--workdir=runs/a"]),
        ("flexmerge runs/a --config.merge.size=2", ["--mode=flexmerge", "--workdir=runs/a", "--config.merge.size=2"]),
        ("route runs/a", ["--mode=route", "--workdir=runs/a"]),
    ],
)
def test_a_command_is_a_mode(words, flags, handed):
    assert command.main(words.split()) == 0 and handed == [flags]
    assert set(command.COMMANDS) - {"verify"} == set(main.MODES)


@pytest.mark.parametrize(
    "words, message",
    [
        ("trian math", "pubswap: trian: no such command; did you mean train?; see pubswap --help"),
        ("train", "pubswap train: CONFIG is missing; CONFIG: the name of a config of the package, such as math"),
        ("report", "pubswap report: RUN is missing; RUN: the folder of a run, such as runs/mine"),
        ("train math medical", "pubswap train: math medical: one CONFIG expected"),
        ("train math --config=medical", "pubswap train: math --config=medical: one CONFIG expected"),
        ("train math --mode=plan", "pubswap train: --mode: the command itself is the mode"),
        ("train maths", "pubswap_jax: --config=maths: no such file; did you mean math?"),
        ("train math:hrad", "there is no preset 'hrad'; did you mean hard?"),
        ("train math --config.training.learning_rate=1", "did you mean training.lr?"),
        ("report nowhere", "nowhere: no run.json in it; give the --workdir of a run"),
        ("eval nowhere", "nowhere: no run.json in it; give the --workdir of a run"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(words.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_help_at_each_level(capsys):
    assert command.main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert command.main([]) == 2 and capsys.readouterr().out == overview
    for name, one in command.COMMANDS.items():
        assert f"  {name:<9} {one.takes:<8} {one.does}\n" in overview
        if name == "verify":
            with pytest.raises(SystemExit, match="0"):
                command.main([name, "--help"])
        else:
            assert command.main([name, "--help"]) == command.main([name, "-h"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"usage: pubswap {name} ") and max(map(len, said.splitlines())) <= 128
        assert all(line in said for line in one.flags.splitlines())
    assert command.main(["--help=training"]) == 2
    assert command.main(["--version"]) == 0 and _version.__version__ in capsys.readouterr().out


def test_verify_grades_a_file(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"gold": "A", "answer": "A", "kind": "choice", "form": "expr"}\n')
    assert command.main(["verify", str(tmp_path / "rows.jsonl")]) == 0
    assert "choice: 1 rows: 1 correct" in capsys.readouterr().out


def test_help_loads_no_jax():
    code = "import sys; from pubswap_jax import command; command.main(['train', '--help']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
