"""Every allowed combination of the settings that change a checkpoint's content: killed with -9, resumed, evaluated, exported.

    python -m experiments.kill_and_resume.matrix --out FOLDER [--seconds 280] [--part 0 --of 2]

Each combination runs undisturbed, then until a SIGKILL at a drawn call of a drawn place, and is then resumed by a new
process. The end, `--mode=eval` and `--mode=export` of the resumed run must equal those of the undisturbed one to the bit.
FOLDER/results.jsonl grows by a line a combination; the same command goes on where an earlier one stopped. With `--part` and
`--of` several commands share one FOLDER, a core each.
"""

import argparse
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from experiments.kill_and_resume.combinations import VALUES, Combination, allowed, changed, name_of, outcome

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHRUNK = {
    "data.max_questions": 256,
    "data.validation": 8,
    "data.test": 8,
    "data.public": 0.2,
    "federation.rounds": 3,
    "federation.steps": 2,
    "training.prompts": 2,
    "training.group": 4,
    "training.lr": 0.01,
    "evaluation.samples": 2,
    "evaluation.batch": 8,
    "log.distortion": "off",
    "log.tensorboard": "off",
}
PLACES = (
    "pubswap_jax.run.judge.verify",
    "pubswap_jax.loop.Book.stepped",
    "pubswap_jax.loop.Book.closed",
    "pubswap_jax.run.evaluation.evaluate",
    "pubswap_jax.run.checkpoint._manifest",
    "pubswap_jax.run.checkpoint._sync",
    "pubswap_jax.run.checkpoint.prune",
    "pubswap_jax.run.journal.Journal.write",
)


def base_config():
    from pubswap_jax import settings

    config = settings.load(str(ROOT / "configs" / "math.py"))
    for name, value in SHRUNK.items():
        settings.override(config, name, str(value))
    return config


def counted(place: str, at: Callable[[int], None]) -> Callable[[], None]:
    """Calls `at(n)` before the n-th call of a function or method; returns what undoes it."""
    path, _, name = place.rpartition(".")
    module, _, owner_name = path.rpartition(".")
    owner = importlib.import_module(path) if path.islower() else getattr(importlib.import_module(module), owner_name)
    real, calls = getattr(owner, name), [0]

    def watched(*arguments, **named):
        calls[0] += 1
        at(calls[0])
        return real(*arguments, **named)

    setattr(owner, name, watched)
    return lambda: setattr(owner, name, real)


def end(run, workdir: pathlib.Path) -> dict[str, str]:
    """Trains to the end, exports and evaluates as the commands do; all that must be equal. A run at its end is only read."""
    from pubswap_jax import loop
    from pubswap_jax.run import export

    workdir.mkdir(parents=True, exist_ok=True)
    loop.train(run, workdir)
    export.export_run(run, workdir)
    return outcome(workdir) | {"evaluated": export.evaluate_run(run, workdir)}


def begin(number: int, combination: Combination, folder: pathlib.Path) -> None:
    """The undisturbed run, and then the one that is killed: this does not return."""
    from pubswap_jax import loop
    from pubswap_jax.run.assembly import assemble

    shutil.rmtree(folder, ignore_errors=True)
    run, chance = assemble(changed(base_config(), combination)), random.Random(number)
    place, times = chance.choice(PLACES), []
    undo = counted(place, times.append)
    for name in ("whole", "killed"):
        (folder / name).mkdir(parents=True)
    loop.train(run, folder / "whole")
    undo()
    expected, fatal = end(run, folder / "whole"), chance.randint(1, len(times))
    folder.joinpath("expected.json").write_text(json.dumps({"outcome": expected, "place": place, "call": fatal}))
    counted(place, lambda call: os.kill(os.getpid(), signal.SIGKILL) if call == fatal else None)
    loop.train(run, folder / "killed")
    raise SystemExit(f"combination {number}: call {fatal} of {place} never came")


def resume(number: int, combination: Combination, folder: pathlib.Path) -> dict:
    """The killed run's end, held against the undisturbed run's."""
    from pubswap_jax.run import checkpoint
    from pubswap_jax.run.assembly import assemble

    told = json.loads((folder / "expected.json").read_text())
    newest = checkpoint.newest(folder / "killed" / "checkpoints", print)
    saved = [newest.round, newest.step] if newest else None
    found = end(assemble(changed(base_config(), combination)), folder / "killed")
    differing = [name for name in told["outcome"] if found[name] != told["outcome"][name]]
    result = {"number": number, "combination": combination, "killed_at": [told["place"], told["call"]], "resumed_from": saved}
    return result | {"best": told["outcome"]["best"], "equal": not differing, "differing": differing}


def child(out: pathlib.Path, part: int, of: int) -> None:
    """Goes on with the next combination that has no result; a kill ends this process, and the parent starts another."""
    path = out / "results.jsonl"
    done = {json.loads(line)["number"] for line in path.read_text().splitlines()} if path.exists() else set()
    for number, combination in enumerate(allowed(base_config())):
        if number in done or number % of != part:
            continue
        folder = out / f"run-{number}"
        if not (folder / "expected.json").exists():
            begin(number, combination, folder)
        result = resume(number, combination, folder)
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{number}: {name_of(combination)}: {'equal' if result['equal'] else result['differing']}", flush=True)
        if result["equal"]:
            shutil.rmtree(folder)


def study(out: pathlib.Path, seconds: float, part: int, of: int) -> int:
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(out / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "experiments.kill_and_resume.matrix", "--out", str(out), "--child"]
    command += ["--part", str(part), "--of", str(of)]
    ends, code = time.perf_counter() + seconds, -signal.SIGKILL
    while code == -signal.SIGKILL and time.perf_counter() < ends:
        code = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run ended with {code}; its output is above")
    path = out / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    total, equal = len(allowed(base_config())), sum(result["equal"] for result in results)
    summary = {"config": SHRUNK, "values": VALUES, "allowed": total, "killed_and_resumed": len(results), "equal": equal}
    (out / "results.json").write_text(json.dumps(summary | {"results": results}, indent=1))
    print(f"{len(results)} of {total} combinations killed and resumed, {equal} equal to the bit")
    return int(equal < len(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no new process after so many seconds")
    parser.add_argument("--part", type=int, default=0, help="with --of: which share of the combinations to run")
    parser.add_argument("--of", type=int, default=1, help="how many shares there are")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.out.resolve(), flags.part, flags.of)
    else:
        sys.exit(study(flags.out.resolve(), flags.seconds, flags.part, flags.of))
