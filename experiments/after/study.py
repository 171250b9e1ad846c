"""Merges and routes the adapters of clients that train alone: accuracy against size, and routed against averaged and oracle.

python -m experiments.after.study                 # trains, merges and routes what is missing, then draws
python -m experiments.after.study --draw          # only draws and prints the tables
"""

import argparse
import json
import pathlib
import time

import numpy as np

from experiments.figures import interval, lines, markdown, mean_and_half, panels, save
from experiments.laboratory import config_of
from pubswap_jax import loop, settings
from pubswap_jax.after import flexmerge, proxrouter
from pubswap_jax.run.assembly import assemble

HERE = pathlib.Path(__file__).parent
ALONE = {
    "federation.average": False,
    "federation.swap_period": 0,
    "federation.rounds": 2,
    "federation.steps": 30,
    "data.validation": 32,
    "data.test": 128,
    "evaluation.samples": 2,
    "evaluation.every": 2,
    "log.distortion": "off",
    "log.tensorboard": "off",
    "log.transcripts": 0,
}
MERGES = ("average", "task_arithmetic", "ties")
ROUTERS = {
    "clusters": {"route.references": "clusters", "route.clusters": 16},
    "neighbours": {"route.references": "neighbours", "route.neighbours": 50},
}


def fill(out: pathlib.Path, runs: pathlib.Path, seeds: list[int], spec: str) -> dict:
    """{seed: {part: figures}} of the file, with all that was missing. A study that is stopped goes on at the next call."""
    results = json.loads(out.read_text()) if out.is_file() else {}
    for seed in seeds:
        parts = results.setdefault(str(seed), {})
        missing = [part for part in (*MERGES, *ROUTERS) if part not in parts]
        if not missing:
            continue
        begun, config = time.process_time(), config_of(spec, seed, ALONE)
        workdir = runs / f"seed_{seed}"
        loop.train_and_evaluate(config, workdir)
        run = assemble(config)
        for part in missing:
            parts[part] = merged(run, config, workdir, part) if part in MERGES else routed(run, config, workdir, part)
            out.write_text(json.dumps(results) + "\n")
        print(f"seed {seed}: {time.process_time() - begun:.0f} CPU seconds", flush=True)
    return results


def merged(run, config, workdir: pathlib.Path, how: str) -> dict:
    """The rows of figures.json for one way to merge."""
    settings.override(config, "merge.how", how)
    print(flexmerge.merge_run(run, config, workdir), flush=True)
    return json.loads((workdir / flexmerge.FOLDER / "figures.json").read_text())


def routed(run, config, workdir: pathlib.Path, part: str) -> dict:
    """The figures of one kind of references."""
    for name, value in ROUTERS[part].items():
        settings.override(config, name, str(value))
    print(proxrouter.route_run(run, config, workdir), flush=True)
    return json.loads((workdir / proxrouter.FOLDER / "figures.json").read_text())["figures"]


def of_sizes(results: dict, how: str) -> tuple[list[float], np.ndarray]:
    """Sizes, and the mean accuracy of all clients, f64[seeds, sizes]."""
    rows = [parts[how]["rows"] for parts in results.values()]
    sizes = [row["size"] for row in rows[0]]
    return sizes, np.array([[np.mean(row["accuracies"]) for row in seed] for seed in rows])


def draw(results: dict) -> None:
    figure, (axis,) = panels(1, width=6.0)
    for how, colour in zip(MERGES, ("#2f6f9f", "#d9822b", "#3d8b57"), strict=True):
        sizes, found = of_sizes(results, how)
        lines(axis, np.array(sizes), found, colour, how)
    axis.set(xlabel="size in models", ylabel="pass@1 on each client's topics", ylim=(0.8, 1.005))
    axis.legend(frameon=False)
    save(figure, HERE / "after.png")


def tables(results: dict) -> str:
    sizes, _ = of_sizes(results, MERGES[0])
    rows = [[how, *(mean_and_half(column) for column in of_sizes(results, how)[1].T)] for how in MERGES]
    for how in MERGES:
        errors = [max(row["error"] for row in parts[how]["rows"]) for parts in results.values()]
        rows[MERGES.index(how)].append(f"{max(errors):.3f}")
    text = markdown(["merge", *(f"{size:g}x" for size in sizes), "largest error"], rows)
    routes = []
    for name in results[next(iter(results))]["clusters"]:
        cells = []
        for part in ROUTERS:
            mean, half = interval(np.array([parts[part][name][0] for parts in results.values()]))
            cells.append(f"{mean:+.3f} ± {half:.3f}" if "−" in name else f"{mean:.3f} ± {half:.3f}")
        routes.append([name, *cells])
    return f"{text}\n\n{markdown(['way to choose', *ROUTERS], routes)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/math.py:tiny")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/after"), help="folder of the trained runs")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results.json")
    parser.add_argument("--draw", action="store_true", help="trains nothing")
    asked = parser.parse_args()
    results = json.loads(asked.out.read_text()) if asked.draw else fill(asked.out, asked.runs, asked.seeds, asked.config)
    complete = {seed: parts for seed, parts in results.items() if {*MERGES, *ROUTERS} <= parts.keys()}
    draw(complete)
    print(tables(complete))


if __name__ == "__main__":
    main()
