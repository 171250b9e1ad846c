"""The study of a real model: every cell is one training command, then one measurement on the test questions.

    python -m experiments.real_model.study a --model FOLDER --words FOLDER --out RUNS            # train what is missing
    python -m experiments.real_model.study a --model FOLDER --words FOLDER --out RUNS --list     # print the commands

WORDS is a folder with asdiv_train.jsonl and asdiv_test.jsonl from `prepare`. Each core has one run at a time. Ctrl-C stops the
runs, which save; the same command goes on. `python -m experiments.real_model.table RUNS` prints the tables.

Stages: lr (three learning rates a method, seed 0), a (five cells, seeds 1-3), b (seeds 4 and 5), c (local only, rescue,
centralised), d (tau 5, 10, 30 at 30 steps), e (Dirichlet 0.3).
"""

import argparse
import json
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

PRESET = "configs/math.py:smollm2-135m"
STEPS = 30
METHODS = {
    "fedavg": {"federation.swap_period": 0},
    "no_swap": {"federation.swap": "no_swap"},
    "random_swap": {"federation.swap": "random_swap"},
    "pubswap": {},
    "rescue": {"federation.swap": "rescue"},
    "local": {"federation.swap_period": 0, "federation.average": False},
    "centralised": {"federation.swap_period": 0, "federation.num_clients": 1, "training.prompts": 16},
}
MAIN = ("fedavg", "no_swap", "random_swap", "pubswap")
RATES = ("2e-4", "5e-4", "1e-3")
COMMON = {
    "data.test": 16,  # the measurement asks all test questions
    "data.validation": 96,
    "evaluation.samples": 4,
}


class Cell(NamedTuple):
    name: str
    method: str
    seed: int
    changes: dict[str, object]


def cells(stage: str, out: pathlib.Path) -> list[Cell]:
    """The cells of a stage. Seeds come first, so that an interrupted stage has whole seeds."""
    if stage == "lr":
        rated = [(method, rate) for method in MAIN for rate in RATES]
        return [Cell(f"lr-{method}-{rate}", method, 0, {"training.lr": rate}) for method, rate in rated]
    seeds = {"b": (4, 5)}.get(stage, (1, 2, 3))
    methods = {"c": ("local", "rescue", "centralised"), "d": ("fedavg", "pubswap")}.get(stage, MAIN)
    variants: dict[str, dict[str, object]] = {"": {}}
    if stage == "d":
        variants = {f"-tau{tau}": {"federation.steps": tau, "federation.rounds": STEPS // tau} for tau in (5, 30)}
    if stage == "e":
        variants = {"-dirichlet": {"data.partition": "dirichlet", "data.alpha": 0.3}}
    return [
        Cell(f"{method}{end}-{seed}", method, seed, {"training.lr": rate_of(method, out)} | changes)
        for seed in seeds
        for method in methods
        for end, changes in variants.items()
    ]


def rate_of(method: str, out: pathlib.Path) -> str:
    """The learning rate whose stage-lr run is best on the validation questions after its last round; 5e-4 before that stage.

    Methods that the stage does not cover take the rate of the closest one that it covers.
    """
    method = {"rescue": "pubswap", "local": "fedavg", "centralised": "fedavg"}.get(method, method)
    scores = {rate: last_score(out / f"lr-{method}-{rate}") for rate in RATES}
    known = {rate: score for rate, score in scores.items() if score is not None}
    return max(known, key=known.__getitem__) if len(known) == len(RATES) else "5e-4"


def last_score(workdir: pathlib.Path) -> float | None:
    """Validation pass@1 after the last round; None if the run has not ended."""
    file = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if (workdir / "report.html").is_file() else []
    scores = [row["eval/pass@1"] for row in rows if "step" not in row and "eval/pass@1" in row]
    return scores[-1] if scores else None


def command(cell: Cell, model: str, words: pathlib.Path, out: pathlib.Path) -> list[str]:
    """The training command of a cell."""
    fields = {
        "model.path": model,
        "data.path": words / "asdiv_train.jsonl",
        "data.test_path": words / "asdiv_test.jsonl",
        "seed": cell.seed,
        **COMMON,
        **METHODS[cell.method],
        **cell.changes,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return [sys.executable, "-m", "pubswap_jax.main", f"--config={PRESET}", f"--workdir={out / cell.name}", *flags]


def measurement(workdir: pathlib.Path, model: str, words: pathlib.Path) -> list[str]:
    """The command that writes test.json of a finished run, or of the warm-up alone for a folder `base`."""
    return [sys.executable, "-m", "experiments.real_model.measure", str(workdir), model, str(words / "asdiv_test.jsonl")]


def jobs(stage: str, model: str, words: pathlib.Path, out: pathlib.Path) -> list[tuple[str, list[list[str]]]]:
    """(name, commands) of what is missing. Stage lr is decided on validation questions: it asks no test question."""
    missing = []
    if stage != "lr" and not (out / "base" / "test.json").is_file():
        missing.append(("base", [measurement(out / "base", model, words)]))
    for cell in cells(stage, out):
        done = "report.html" if stage == "lr" else "test.json"
        if not (out / cell.name / done).is_file():
            after = [] if stage == "lr" else [measurement(out / cell.name, model, words)]
            missing.append((cell.name, [command(cell, model, words, out), *after]))
    return missing


def run(missing: list[tuple[str, list[list[str]]]], out: pathlib.Path, processes: int) -> int:
    """Runs the jobs, one a core, with their output in RUNS/NAME.log. Returns the number of jobs that failed."""
    waiting, failed, running, stopped = queue.Queue(), [], {}, threading.Event()
    for job in missing:
        waiting.put(job)

    def work(core: int) -> None:
        while not stopped.is_set():
            try:
                name, commands = waiting.get_nowait()
            except queue.Empty:
                return
            with open(out / f"{name}.log", "a") as log:
                for words in commands:
                    if stopped.is_set():
                        return
                    print(f"core {core}: {name}: {words[2].rsplit('.', 1)[-1]}", flush=True)
                    # In a session of its own: Ctrl-C would reach it too, and the SIGTERM below would be a second signal.
                    process = subprocess.Popen(
                        ["taskset", "-c", str(core), *words], stdout=log, stderr=log, start_new_session=True
                    )
                    running[core] = process
                    if process.wait():
                        failed.append(name)
                        break

    threads = [threading.Thread(target=work, args=(core,)) for core in sorted(os.sched_getaffinity(0))[:processes]]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopped.set()
        for process in running.values():
            process.send_signal(signal.SIGTERM)  # the run saves and ends
        for thread in threads:
            thread.join()
    for name in failed:
        print(f"{name}: stopped or failed, see {out / name}.log")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("lr", "a", "b", "c", "d", "e"))
    parser.add_argument("--model", required=True, help="folder, GGUF file or hub name")
    parser.add_argument("--words", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--list", action="store_true", help="print the commands, one line a job")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    missing = jobs(a.stage, a.model, a.words, a.out)
    if a.list:
        print("\n".join(" && ".join(map(shlex.join, commands)) for _, commands in missing))
        return 0
    return run(missing, a.out, a.processes)


if __name__ == "__main__":
    sys.exit(main())
