"""Cells of a study: each a change of one config, trained once for every seed and kept in one JSON file.

On CPUs every core trains one seed of one cell at a time, in a process that has it alone; elsewhere one process trains them one
after the other. What the file holds already is not run again, so that an interrupted study goes on.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import jax

from experiments.laboratory import config_of, train
from pubswap_jax.run.assembly import Run

Changes = Mapping[str, object]
Alter = Callable[[Run], Run]


def fill(
    out: pathlib.Path,
    spec: str,
    cells: Mapping[str, Changes],
    seeds: Sequence[int],
    processes: int = 0,
    alterations: Mapping[str, Alter] = types.MappingProxyType({}),
) -> dict:
    """{cell: {seed: rows}} of the file, with all that was missing; `processes` of 0 is one a core, on a CPU.

    `alterations` of cells change what no field does: functions of modules, since they are sent to other processes.
    """
    results = json.loads(out.read_text()) if out.is_file() else {}
    missing = [(name, seed) for seed in seeds for name in cells if str(seed) not in results.get(name, {})]
    for name, seed in missing:
        config_of(spec, seed, cells[name])  # a mistake in the last cell shall not show after an hour

    def keep(name: str, seed: int, rows: list[dict]) -> None:
        results.setdefault(name, {})[str(seed)] = rows
        ordered = {name: dict(sorted(results[name].items(), key=lambda item: int(item[0]))) for name in results}
        fresh = out.with_suffix(".new")
        fresh.write_text(json.dumps(ordered) + "\n")
        fresh.replace(out)

    begun = time.perf_counter()
    if jax.default_backend() == "cpu":
        _one_a_core(missing, spec, cells, processes or len(_cores()), keep, alterations)
    else:
        for name, seed in missing:
            keep(name, seed, _train(spec, name, cells[name], seed, alterations.get(name, _as_it_is)))
    if missing:
        print(f"{len(missing)} runs in {time.perf_counter() - begun:.0f} s: {out}", flush=True)
    return results


def arguments(description: str, **defaults) -> argparse.ArgumentParser:
    """What every study is asked: config, seeds, further changes, where to. With `config=None` it is not asked for a config."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    config = defaults.get("config", "configs/math.py:hard")
    if config:
        parser.add_argument("--config", default=config)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="for all cells: federation.rounds=4")
    parser.add_argument("--processes", type=int, default=0, help="on CPUs; default: one a core")
    parser.add_argument(
        "--out", type=pathlib.Path, default=defaults.get("out"), help="the results, which a later call goes on from"
    )
    return parser


def kept(out: pathlib.Path) -> dict:
    """What an earlier call of a study has left."""
    if not out.is_file():
        raise SystemExit(f"{out}: nothing is there yet; train first, without --draw")
    return json.loads(out.read_text())


def settings_of(pairs: Sequence[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in pairs)


def _one_a_core(missing, spec: str, cells: Mapping[str, Changes], processes: int, keep, alterations) -> None:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as compiled:
        free = spawn.SimpleQueue()
        for core in range(processes):
            free.put(core)
        pool = ProcessPoolExecutor(processes, spawn, _settle, (free, compiled))
        try:
            waiting = {
                pool.submit(_train, spec, name, dict(cells[name]), seed, alterations.get(name, _as_it_is)): (name, seed)
                for name, seed in missing
            }
            for done in as_completed(waiting):
                keep(*waiting[done], done.result())
        except BaseException:  # Ctrl-C, or a cell that failed: what is done is kept, and nobody waits for the rest
            for worker in list(pool._processes.values()):
                worker.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _settle(free, compiled: str) -> None:
    """A worker's first act: it takes a core for itself, shares what was compiled with the others, and ends with its parent."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    cores = _cores()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores[free.get() % len(cores)]})
    jax.config.update("jax_compilation_cache_dir", compiled)


def _end_with(parent: int) -> None:
    """A study that is killed leaves no cell behind, which would compute for nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _train(spec: str, name: str, changes: Changes, seed: int, alter: Alter) -> list[dict]:
    rows = train([config_of(spec, seed, changes)], say=_prefixed(f"{name}, seed {seed}"), alter=alter)[0]
    jax.clear_caches()  # a run makes programs of its own, and a worker that keeps those of 70 runs holds 7 GB
    return rows


def _as_it_is(run: Run) -> Run:
    return run


def _prefixed(name: str):
    return lambda line: print(f"{name}: {line}", flush=True)
