"""Short runs whose adapters and metrics must not change when code moves: remakes their record, or compares with an earlier one.

    python tests/record_of_behaviour.py --out FOLDER                       # writes FOLDER/record.json
    python tests/record_of_behaviour.py --out FOLDER --against FILE        # and compares; status 1 where something differs

Digests are equal to the bit on one machine with the same versions and flags. Other processors may round differently.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
import warnings

import numpy as np
import orbax.checkpoint as ocp
from devices.test_hosts import flags, launch
from jax.tree_util import keystr, tree_leaves_with_path
from small_world import write_base, write_questions

from pubswap_jax.run import checkpoint, journal

ROOT = pathlib.Path(__file__).resolve().parents[1]
ONE_ROUND = {"federation.rounds": 1, "federation.steps": 10}
SOME = {"federation.rounds": 2, "federation.steps": 6, "federation.participants": 5, "federation.moments": "keep"}
RUNS = {
    "tiny, one round": ("math", ONE_ROUND),
    "hard, 5 of 8 participants, moments kept, checkpoint in a round": (
        "math:hard",
        SOME | {"checkpoint.steps": 4, "data.test": 64},
    ),
    "every client alone": ("math", ONE_ROUND | {"federation.average": False}),
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def command(config: str, workdir: pathlib.Path, fields: dict) -> list[str]:
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return [sys.executable, "-m", "pubswap_jax.main", f"--config={ROOT}/configs/{config.replace(':', '.py:')}", *given] + [
        f"--workdir={workdir}"
    ]


def run(config: str, workdir: pathlib.Path, fields: dict) -> None:
    spec = config if ":" in config else f"{config}:tiny"
    subprocess.run(command(spec, workdir, fields), check=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def two_processes(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Process 0 writes the run; each process has 4 CPU devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = [launch(number, port, flags(folder, workdir)) for number in range(2)]
    said = [process.communicate()[0] for process in both]
    if any(process.returncode for process in both):
        raise SystemExit("\n".join(said))


def of_run(workdir: pathlib.Path) -> dict:
    """Digests of the last round's adapter (of every client's, where nothing is averaged) and of each metric but the clocks."""
    config = json.loads((workdir / "run.json").read_text())["config"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no sharding is given: the host takes the arrays
        tree = ocp.PyTreeCheckpointer().restore(checkpoint.newest(workdir / "checkpoints", print).path / "arrays")
    owner = tree["server" if config["federation.average"] else "clients"]
    total = hashlib.sha256()
    for path, leaf in tree_leaves_with_path(owner["adapter" if "adapter" in owner else "lora"]):
        total.update(keystr(path).encode() + np.asarray(leaf).tobytes())
    columns: dict[str, list] = {}
    for row in journal.read(workdir, "metrics"):
        for name, value in row.items():
            if not name.startswith("time/"):
                columns.setdefault(name, []).append(value)
    digests = {name: hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16] for name, values in sorted(columns.items())}
    return {"adapter": total.hexdigest(), "metrics": digests}


def record(out: pathlib.Path) -> dict:
    shutil.rmtree(out, ignore_errors=True)
    world = out / "world"
    world.mkdir(parents=True)
    write_base(world / "base", num_hidden_layers=1)
    write_questions(world / "questions.jsonl")
    found = {}
    for number, (name, (config, fields)) in enumerate(RUNS.items()):
        run(config, out / f"run-{number}", fields)
        found[name] = of_run(out / f"run-{number}")
    own = {"model.path": world / "base", "data.path": world / "questions.jsonl", "model.instruction": "", "training.lr": 0.02}
    run("math:smoke", out / "smoke", own)
    two_processes(world, out / "processes")
    found |= {"smoke, a random Qwen2 folder": of_run(out / "smoke"), "two processes": of_run(out / "processes")}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    return {"versions": versions, "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""), "runs": found}


def differences(ours: dict, theirs: dict) -> list[str]:
    lines = [f"{key}: {theirs[key]} before, {ours[key]} now" for key in ("versions", "XLA_FLAGS") if ours[key] != theirs[key]]
    for name, before in theirs["runs"].items():
        now = ours["runs"].get(name, {"adapter": "", "metrics": {}})
        lines += [f"{name}: the adapter differs"] if now["adapter"] != before["adapter"] else []
        changed = [key for key in before["metrics"] | now["metrics"] if before["metrics"].get(key) != now["metrics"].get(key)]
        lines += [f"{name}: {', '.join(changed)}"] if changed else []
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--against", type=pathlib.Path)
    given = parser.parse_args()
    made = record(given.out.resolve())
    (given.out / "record.json").write_text(json.dumps(made, indent=1) + "\n")
    found = differences(made, json.loads(given.against.read_text())) if given.against else []
    print("\n".join(found) or f"{given.out / 'record.json'}: {'equal' if given.against else 'written'}")
    sys.exit(bool(found))
