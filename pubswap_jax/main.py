"""The command line. `python -m pubswap_jax.main --config=configs/math.py` trains; --mode selects another task.

--config=FILE[:PRESET]      a file such as configs/math.py:qwen3-1.7b, or the name of a config of the package: math:qwen3-1.7b;
                            set any field with a flag like --config.federation.swap_period=4
--mode=train                train|eval|export|plan|probe|data|report|doctor|flexmerge|route
--workdir=FOLDER            by default a dated folder under runs/; the same command resumes an interrupted run, even days later;
                            with --workdir of a run, eval, export, flexmerge, route, report and doctor need no --config
--adapter=FOLDER            eval: a PEFT adapter to evaluate; by default the adapter of the run's best round
--questions=FILE            eval: ask these questions, one row each with question and answer, and not the run's test questions
--merge=DTYPE               export: the best round's averaged adapter merged into its base too; float32 or bfloat16
--fork                      train: resume although the config has changed
--help[=SECTION]            print this text and all fields, or the fields of a section: model, data, federation, reward,
                            training, evaluation, checkpoint, log, merge, route, verifier or mesh
"""

import argparse
import datetime
import difflib
import glob
import hashlib
import os
import pathlib
import signal
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from pubswap_jax import fields, settings
from pubswap_jax.run import earlier

MODES = ("train", "eval", "export", "plan", "probe", "data", "report", "doctor", "flexmerge", "route")
AFTER = ("eval", "export", "flexmerge", "route")  # modes that use a run's adapters, and its config
SHOWN = ("report", "doctor")  # modes that show a run as it was, and read no config


class Flags(NamedTuple):
    config: Any
    workdir: pathlib.Path
    mode: str
    adapter: str
    fork: bool
    questions: str = ""
    merge: str = ""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status. A user's mistake is printed in one line, without a traceback."""
    try:
        asked = next((word for word in arguments if word in ("-h", "--help") or word.startswith("--help=")), None)
        if asked:
            print(helped(asked.partition("=")[2]))
            return 0
        return _run(parse(arguments))
    except KeyboardInterrupt:
        print("pubswap_jax: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if os.environ.get("PUBSWAP_TRACEBACK"):
            raise
        print(f"pubswap_jax: {_one_line(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or os.environ.get("PUBSWAP_TRACEBACK"):
            raise
        print(
            f"pubswap_jax: {_one_line(error).rstrip('.')}; --mode=plan (pubswap plan) says what would fit",
            file=sys.stderr,
        )
        return 2


def helped(section: str) -> str:
    """The text of --help: the flags, and the fields with their defaults."""
    found = fields.text(section)
    if not found:
        sections = dict.fromkeys(field.name.rpartition(".")[0] for field in fields.FIELDS)
        raise ValueError(f"--help={section}{settings.nearest(section, filter(None, sections))}")
    return found if section else f"{__doc__}\nFields, with their defaults:\n\n{found}"


def parse(arguments: Sequence[str]) -> Flags:
    """Parses the command's flags, and checks what can be checked without loading a model or data."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for name in ("config", "workdir", "mode", "adapter", "questions", "merge"):
        parser.add_argument(f"--{name}", default="train" if name == "mode" else "")
    parser.add_argument("--fork", action="store_true")
    known, others = parser.parse_known_args(list(arguments))
    overrides = [_field(flag) for flag in others]
    if known.mode not in MODES:
        raise ValueError(f"--mode={known.mode}{settings.nearest(known.mode, MODES)}")
    if known.merge not in ("", "float32", "bfloat16"):
        raise ValueError(f"--merge={known.merge}: float32 or bfloat16 expected")
    for given, mode in (("fork", "train"), ("adapter", "eval"), ("questions", "eval"), ("merge", "export")):
        if getattr(known, given) and known.mode != mode:
            raise ValueError(f"--{given} counts only with --mode={mode}; leave it out")
    workdir = pathlib.Path(known.workdir).expanduser()
    if known.workdir and workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir}: there is a file of this name; name a folder")
    beside = known.questions, known.merge
    if known.mode in (*AFTER, *SHOWN) and known.workdir and not known.config:
        return Flags(_of_run(workdir, known.mode, overrides), workdir, known.mode, known.adapter, False, *beside)
    if not known.config:
        alone = ", and so is --workdir=FOLDER of a run, which would do alone" if known.mode in (*AFTER, *SHOWN) else ""
        raise ValueError(f"--config=FILE[:PRESET] is missing{alone}; --config=math is the one to begin with")
    config = _overridden(settings.load(known.config), overrides)
    if known.mode == "train":
        settings.check_packages(config)
    usual = dated(known.config, others, settings.value_of(config, "federation.rounds") if known.mode == "train" else None)
    return Flags(config, workdir if known.workdir else usual, known.mode, known.adapter, known.fork, *beside)


def _of_run(workdir: pathlib.Path, mode: str, overrides: Sequence[tuple[str, str]]) -> Any:
    """The config of the run in `workdir`, with the overrides that `mode` allows for a trained run."""
    if mode in SHOWN:
        if overrides:
            raise ValueError(f"--config.{overrides[0][0]}: --mode={mode} shows the run as it was; leave it out")
        return None
    config, note = earlier.config_of(workdir)
    changed = _overridden(config, overrides, trained=True)  # before `allow`, so that a misspelt field is reported as misspelt
    for name, _ in overrides:
        earlier.allow(mode, name, workdir)
    if note:
        print(note, file=sys.stderr)
    return changed


def _overridden(config: Any, overrides: Sequence[tuple[str, str]], trained: bool = False) -> Any:
    for name, value in overrides:
        settings.override(config, name, value)
    settings.check(config, trained)
    return config


def _field(flag: str) -> tuple[str, str]:
    """Parses a flag that sets a field: '--config.training.lr=1e-4' -> ('training.lr', '1e-4')."""
    name, equals, value = flag.partition("=")
    if not name.startswith("--config."):
        flags = ["--config", "--workdir", "--mode", "--adapter", "--questions", "--merge", "--fork", "--help"]
        field = settings.field_called(name.removeprefix("--").replace("-", "_"))
        close = [f"--config.{field}"] if field else difflib.get_close_matches(name, flags, n=1)
        raise ValueError(
            f"{name}: no such flag; " + (f"did you mean {close[0]}?" if close else f"there are {', '.join(flags)}")
        )
    if not equals:
        raise ValueError(f"{name}: write {name}=VALUE")
    return name.removeprefix("--config."), value


def dated(config: str, overrides: Sequence[str], rounds: int | None) -> pathlib.Path:
    """The default folder of a run: runs/2026-05-01-math-tiny plus a digest of the overrides.

    The same command has the same folder.
    Without a folder of today, the latest earlier folder is taken if its run has checkpoints but has not finished `rounds`. With
    `rounds=None` the latest earlier folder is always taken.
    """
    path, _, preset = config.partition(":")
    changed = hashlib.sha256(" ".join(sorted(overrides)).encode()).hexdigest()[:6]
    name = "-".join([pathlib.Path(path).stem, preset or "tiny", *([changed] if overrides else [])])
    today = pathlib.Path("runs") / f"{datetime.date.today().isoformat()}-{name}"
    earlier = sorted(pathlib.Path("runs").glob(f"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]-{glob.escape(name)}"))
    if not earlier or today.exists():
        return today
    done = [int(folder.name[6:12]) for folder in earlier[-1].glob("checkpoints/round-[0-9]*")]
    return earlier[-1] if rounds is None or (done and max(done) < rounds) else today


def _run(flags: Flags) -> int:
    if flags.mode == "train":
        return _train(flags)
    if flags.mode == "report":
        from pubswap_jax.report import report

        print(report.write(flags.workdir))
    if flags.mode == "doctor":
        from pubswap_jax.run import doctor

        found = doctor.examine(flags.workdir)
        print("\n".join(found) or "nothing looks wrong")
        return int(bool(found))
    if flags.mode == "plan":
        print("planning: compiles for its memory what a round would run, and loads no weights", file=sys.stderr, flush=True)
        from pubswap_jax.run import estimate

        print(estimate.plan(flags.config, lambda line: print(line, file=sys.stderr, flush=True)))
    if flags.mode == "probe":
        from pubswap_jax.run import probe

        print(probe.probe(flags.config))
    if flags.mode == "data":
        from pubswap_jax.run import assembly, inventory

        print(inventory.described(assembly.look(flags.config)))
    if flags.mode == "export":
        from pubswap_jax.run import export

        onward: list[str] = []
        print("\n".join(map(str, export.export(flags.config, flags.workdir, flags.merge, onward.append))), flush=True)
        print("\n".join(["next, for example:", *onward]), file=sys.stderr)
    if flags.mode == "eval":
        from pubswap_jax.run import export

        if flags.questions:
            print(export.evaluate_file(flags.config, flags.workdir, flags.adapter, flags.questions))
        else:
            print(export.evaluate_adapter(flags.config, flags.workdir, flags.adapter))
    if flags.mode == "flexmerge":
        from pubswap_jax.after import flexmerge

        print(flexmerge.flexmerge(flags.config, flags.workdir))
    if flags.mode == "route":
        from pubswap_jax.after import proxrouter

        print(proxrouter.route(flags.config, flags.workdir))
    return 0


def _train(flags: Flags) -> int:
    from pubswap_jax.devices import hosts
    from pubswap_jax.loop import train_and_evaluate
    from pubswap_jax.run.signals import NOTHING, Stop, Stopped

    hosts.start()
    farewell = f"stopped and saved; the same command with --workdir={flags.workdir} goes on from here"
    stop = Stop(farewell, hosts.gathered if hosts.several() else None)
    say = print if hosts.first() else lambda line: None
    with hosts.ending(), stop.listening(signal.SIGTERM, signal.SIGINT):
        try:
            train_and_evaluate(flags.config, flags.workdir, fork=flags.fork, check=stop.check, offer=stop.offer)
        except Stopped:
            say(farewell if stop.offered else NOTHING)
            if not hosts.several():
                sys.stdout.flush()
                os._exit(stop.status)  # not sys.exit, which would wait for a compilation in another thread; the run is saved
            return stop.status
    return 0


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:600] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
