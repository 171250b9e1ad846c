"""Kills a run with -9 in the middle of each phase, starts it again, and holds its end against the uninterrupted run's.

    python experiments/kill_and_resume/study.py --kills 30 --out DIR

The run is configs/math.py, shrunk. Compiled programs are kept in a cache, so that a start takes seconds.
"""

import argparse
import collections
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
PHASES = ("rollout", "verify", "swap", "update", "average", "evaluate", "save")
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
}


def child(marker: pathlib.Path, arguments: list[str]) -> int:
    """The run itself, which says in a file what phase it is in."""
    from pubswap_jax import main, metrics

    real = metrics.Clock.timed

    def telling(clock, phase, function, *rest):
        def told(*args):
            marker.write_text(phase)
            return function(*args)

        return real(clock, phase, told, *rest)

    metrics.Clock.timed = telling
    return main.main(arguments)


def start(workdir: pathlib.Path, marker: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
    flags = [
        f"--config={ROOT / 'configs' / 'math.py'}",
        f"--workdir={workdir}",
        f"--config.model.path={workdir.parent / 'base'}",
    ]
    flags += [f"--config.{name}={value}" for name, value in SHRUNK.items()]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, __file__, "--child", str(marker), *flags]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome(workdir: pathlib.Path) -> dict:
    """Digests of all that must be equal: the newest adapters, the best round, and every row but the clocks."""
    from pubswap_jax import checkpoint, metrics

    newest = checkpoint.newest(workdir / "checkpoints", print)
    rows = {name: metrics.read(workdir, name) for name in ("metrics", "evaluations", "rollouts")}
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


def kill_in(phase: str, occurrence: int, delay: float, workdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Starts a run, kills it in the n-th occurrence of a phase, and starts it again."""
    from pubswap_jax import checkpoint

    marker = out / "phase"
    marker.write_text("")
    run, seen, last = start(workdir, marker, out / "cache"), 0, 0
    while run.poll() is None:
        changed = marker.stat().st_mtime_ns
        if changed != last:
            last = changed
            seen += marker.read_text() == phase
            if seen >= occurrence:
                time.sleep(delay)
                break
        time.sleep(0.0005)
    at = marker.read_text()
    run.send_signal(signal.SIGKILL)
    said = announced(run.communicate()[0])
    newest = checkpoint.newest(workdir / "checkpoints", print)
    saved = newest.round if newest else -1
    again = start(workdir, marker, out / "cache")
    text = again.communicate()[0]
    return {
        "wanted": phase,
        "killed_in": at,
        "announced": said,
        "saved": saved,
        "lost": max(0, said - saved),
        "rc": again.returncode,
    } | ({} if again.returncode == 0 else {"said": text[-500:]})


def study(kills: int, out: pathlib.Path, seed: int) -> int:
    from pubswap_jax import homework

    shutil.copytree(homework.tiny_path(), out / "base")  # so that nobody changes it meanwhile
    marker = out / "phase"
    first = start(out / "reference", marker, out / "cache")
    print(first.communicate()[0])
    expected, chance, results = outcome(out / "reference"), random.Random(seed), []
    for number in range(kills):
        workdir = out / f"run-{number}"
        result = kill_in(PHASES[number % len(PHASES)], chance.randint(1, 3), chance.random() * 0.05, workdir, out)
        result["equal"] = result["rc"] == 0 and outcome(workdir) == expected
        results.append(result)
        print(json.dumps(result), flush=True)
    where = collections.Counter(result["killed_in"] for result in results)
    equal, lost = sum(result["equal"] for result in results), sum(result["lost"] for result in results)
    summary = {"kills": kills, "equal": equal, "announced_rounds_lost": lost, "killed_in": dict(where)}
    (out / "results.json").write_text(json.dumps({"summary": summary, "kills": results}, indent=1))
    print(json.dumps(summary))
    return int(equal != kills or lost > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(pathlib.Path(sys.argv[2]), sys.argv[3:]))
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    sys.exit(study(flags.kills, flags.out, flags.seed))
