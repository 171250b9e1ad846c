"""Kills a run with -9 inside each phase, starts it again, and holds its end against the uninterrupted run's.

    python experiments/kill_and_resume/study.py --kills 200 --out FOLDER [--seconds 280] [--signal TERM]
    python experiments/kill_and_resume/study.py --config configs/math.py:fedrevive --set federation.rounds=6 --out FOLDER

With `--signal TERM` the run is asked to end instead, and has to within seconds and with status 143.
The run is configs/math.py or the given config, shrunk, on a copy of its base. Compiled programs are kept in a cache, so that
a start takes seconds. `--seconds` ends the study early: the same command goes on where it stopped, with what is in
FOLDER/kills.jsonl.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "math.py")
PHASES = ("rollout", "verify", "swap", "update", "average", "evaluate", "save", "distil")
BETWEEN, ASKED = b"-", b"!"  # what the run says when a phase is over, and when it sends itself the signal
LETTERS = {phase: bytes([ord("a") + i]) for i, phase in enumerate(PHASES)}
NAMES = {letter: phase for phase, letter in LETTERS.items()}
SHRUNK = {
    "data.max_questions": 512,
    "data.validation": 32,
    "data.test": 32,
    "federation.rounds": 2,
    "federation.steps": 4,
    "training.prompts": 2,
    "training.group": 4,
    "evaluation.samples": 2,
    "evaluation.batch": 32,
    "checkpoint.steps": 2,
    "log.distortion": "off",  # seconds of every start, and no phase that the study asks about
}
SHORT = 0.05  # seconds; a phase that is over sooner cannot be hit from outside
CALLS = 60


# --- the run, which says what it is at --------------------------------------------------------------------------------------


def child(pipe: int, phase: str, occurrence: int, calls: int, sent: int, arguments: list[str]) -> int:
    """The program as it is, but that its clock also writes into a pipe where a phase begins and ends.

    With `calls`, the run sends itself the signal that many Python calls into the n-th time of `phase`, or where that ends.
    """
    from pubswap_jax import main
    from pubswap_jax.run import journal, programs

    programs.BOOKED = (*programs.BOOKED, "distil")  # which a run does not time
    timed, left = journal.Clock.timed, {phase: occurrence}

    def telling(clock, name, function, *wait):
        run = timed(clock, name, function, *wait)

        def told(*args):
            os.write(pipe, LETTERS.get(name, BETWEEN))
            left[name] = left.get(name, 0) - 1
            doomed = calls and name == phase and left[name] == 0
            kill = once(sent, pipe)
            if doomed:
                sys.setprofile(killer(calls, kill))
            try:
                return run(*args)
            finally:
                if doomed:
                    sys.setprofile(None)
                    kill()
                os.write(pipe, BETWEEN)

        return told

    journal.Clock.timed = telling
    return main.main(arguments)


def once(sent: int, pipe: int):
    """Sends the signal to this process when it is first called, and says so."""
    left = [sent]

    def kill():
        if left:
            os.write(pipe, ASKED)
            os.kill(os.getpid(), left.pop())

    return kill


def killer(calls: int, kill):
    """A profiling hook that kills at the given call."""
    events = iter(range(calls))

    def hook(frame, event, argument):
        if event in ("call", "c_call") and next(events, None) is None:
            kill()

    return hook


class Started(NamedTuple):
    process: subprocess.Popen
    pipe: int


class World(NamedTuple):
    """What all runs of a study share: a folder for them, and their config."""

    out: pathlib.Path
    config: str
    fields: dict[str, str]


def start(world: World, workdir: pathlib.Path, phase: str = "", occurrence: int = 0, calls: int = 0, sent: int = 0) -> Started:
    out = world.out
    flags = [f"--config={world.config}", f"--workdir={workdir}", f"--config.model.path={out / 'base'}"]
    flags += [f"--config.{name}={value}" for name, value in world.fields.items()]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(out / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    reading, writing = os.pipe()
    command = [sys.executable, __file__, "--child", str(writing), phase, str(occurrence), str(calls), str(sent), *flags]
    with (out / "said").open("wb") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=said, stderr=subprocess.STDOUT, pass_fds=(writing,), start_new_session=True
        )
    os.close(writing)
    return Started(process, reading)


def finish(run: Started) -> list[tuple[bytes, float]]:
    """Every beginning and end of a phase and when it was, to the run's end."""
    events = []
    while letters := os.read(run.pipe, 1):
        events.append((letters, time.perf_counter()))
    os.close(run.pipe)
    run.process.wait()
    return events


def kill_in(run: Started, phase: str, occurrence: int, delay: float | None, sent: int) -> tuple[str, float]:
    """Signals the run `delay` seconds into the n-th time of a phase, or waits until it has done so itself.

    Where it really was, as its last words tell, and the seconds that it then took to end.
    """
    last, asked = BETWEEN, 0.0
    while letter := os.read(run.pipe, 1):
        occurrence -= letter == LETTERS[phase]
        if letter == ASKED:
            asked = time.perf_counter()
            break
        last = letter
        if delay is not None and not occurrence:
            time.sleep(delay)
            os.set_blocking(run.pipe, False)
            with contextlib.suppress(BlockingIOError):
                last = os.read(run.pipe, 1 << 16)[-1:] or last
            os.set_blocking(run.pipe, True)
            asked = time.perf_counter()
            os.kill(run.process.pid, sent)
            break
    rest = finish(run)
    seconds = time.perf_counter() - asked
    heard = [letter for letter, _ in rest] if sent == signal.SIGKILL else []  # a run that was asked to end goes on a little
    expected = 128 + sent if sent == signal.SIGTERM else -sent
    if run.process.returncode != expected:
        raise SystemExit(f"ended with {run.process.returncode} and not {expected}")
    return NAMES.get(heard[-1] if heard else last, "between"), seconds


# --- what must be equal -----------------------------------------------------------------------------------------------------


def outcome(workdir: pathlib.Path) -> dict:
    """Digests of all that must be equal: the newest adapters, the best round, and every row but the clocks."""
    from pubswap_jax.run import checkpoint, journal

    newest = checkpoint.newest(workdir / "checkpoints", print)
    rows = {name: journal.read(workdir, name) for name in ("metrics", "evaluations", "rollouts")}
    rows["metrics"] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows["metrics"]]
    found = {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in rows.items()}
    return found | {"arrays": arrays_digest(newest.path), "best": checkpoint.notes(newest)["best"], "round": newest.round}


def arrays_digest(path: pathlib.Path) -> str:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no sharding is asked for: the host is where they go
        tree = ocp.PyTreeCheckpointer().restore(path / "arrays")
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    total = hashlib.sha256()
    for name, leaf in leaves:
        total.update(jax.tree_util.keystr(name).encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()


def announced(text: str) -> int:
    """The last round that the run said it had saved."""
    found = [int(line.split()[1]) for line in text.splitlines() if line.startswith("round ") and " saved" in line]
    return max(found, default=-1)


# --- the study --------------------------------------------------------------------------------------------------------------


def reference(world: World) -> dict:
    """The uninterrupted run: its outcome, and how often and how long it was at each phase."""
    from pubswap_jax import settings
    from pubswap_jax.run import policy

    out, path = world.out, world.out / "reference.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "base").exists():
            base = policy.base_folder(settings.load(world.config))
            shutil.copytree(base, out / "base")  # so that nobody changes it meanwhile
        finish(start(world, out / "warm"))  # fills the cache, so that the phases have the length that they have in a restart
        run = start(world, out / "reference")
        events = finish(run)
        if run.process.returncode:
            raise SystemExit((out / "said").read_text())
        lengths = collections.defaultdict(list)
        for (letter, begun), (_, ended) in zip(events, events[1:], strict=False):
            if letter != BETWEEN:
                lengths[NAMES[letter]].append(ended - begun)
        same = outcome(out / "warm") == outcome(out / "reference")
        path.write_text(json.dumps({"outcome": outcome(out / "reference"), "lengths": lengths, "twice_equal": same}))
    return json.loads(path.read_text())


def one(number: int, expected: dict, world: World, seed: int, sent: int) -> dict:
    """The kill of that number: drawn, carried out, resumed and compared."""
    from pubswap_jax.run import checkpoint

    chance = random.Random(f"{seed} {number}")
    phases = [phase for phase in PHASES if phase in expected["lengths"]]
    phase = phases[number % len(phases)]
    lengths, out = expected["lengths"][phase], world.out
    occurrence = chance.randint(1, len(lengths))
    length, share = lengths[occurrence - 1], chance.random()
    calls, delay = (1 + int(share * CALLS), None) if length < SHORT else (0, share * length)
    workdir = out / f"run-{number}"
    shutil.rmtree(workdir, ignore_errors=True)
    killed_in, seconds = kill_in(start(world, workdir, phase, occurrence, calls, sent), phase, occurrence, delay, sent)
    said = announced((out / "said").read_text())
    newest = checkpoint.newest(workdir / "checkpoints", print)
    saved = newest.round if newest else -1
    again = start(world, workdir)
    finish(again)
    result = {"number": number, "aimed_at": phase, "occurrence": occurrence}
    result |= {"after_calls": calls} if delay is None else {"after_ms": round(1000 * delay, 1)}
    result |= {"killed_in": killed_in, "announced": said, "newest_sound": saved, "lost": max(0, said - saved)}
    result["seconds"] = round(seconds, 2)
    result["equal"] = again.process.returncode == 0 and outcome(workdir) == expected["outcome"]
    if result["equal"]:
        shutil.rmtree(workdir)
    else:
        result["said"] = (out / "said").read_text()[-500:]
    return result


def summary(results: list[dict]) -> dict:
    table = {}
    for phase in (*PHASES, "between"):
        here = [result for result in results if result["killed_in"] == phase]
        table[phase] = {"kills": len(here), "equal": sum(r["equal"] for r in here), "lost": sum(r["lost"] for r in here)}
    total = {name: sum(row[name] for row in table.values()) for name in ("kills", "equal", "lost")}
    total["slowest_end"] = max((result.get("seconds", 0.0) for result in results), default=0.0)
    return {"all": total, "killed_in": table}


def study(kills: int, world: World, seed: int, seconds: float, sent: int) -> int:
    ends = time.perf_counter() + seconds
    expected, out, path = reference(world), world.out, world.out / "kills.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    while len(results) < kills and time.perf_counter() < ends:
        results.append(one(len(results), expected, world, seed, sent))
        with path.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
        print(json.dumps(results[-1]), flush=True)
    told = summary(results)
    made = {"config": world.config.replace(f"{ROOT}/", ""), "fields": world.fields, "seed": seed}
    (out / "results.json").write_text(json.dumps({**made, **told, "kills": results}, indent=1))
    for phase, row in [*told["killed_in"].items(), ("all", told["all"])]:
        print(f"| {phase} | {row['kills']} | {row['equal']} | {row['lost']} |")
    return int(told["all"]["equal"] < len(results) or told["all"]["lost"] > 0 or not expected["twice_equal"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        pipe, phase, *numbers = sys.argv[2:7]
        sys.exit(child(int(pipe), phase, *map(int, numbers), sys.argv[7:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    flags = parser.parse_args()
    sent = signal.SIGKILL if flags.signal == "KILL" else signal.SIGTERM
    fields = SHRUNK | dict(pair.split("=", 1) for pair in flags.set)
    sys.exit(study(flags.kills, World(flags.out.resolve(), flags.config, fields), flags.seed, flags.seconds, sent))
