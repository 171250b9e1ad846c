"""The study's tables: pass@1, pass@8, greedy and evaluated answers on the test questions, paired differences, what a run did.

python -m experiments.real_model.table RUNS [--end=-tau30]        # --end: the cells of a variant
"""

import argparse
import json
import pathlib

import numpy as np
from scipy import stats

from experiments.figures import interval, markdown, mean_and_half
from experiments.real_model.study import METHODS
from pubswap_jax.run import journal
from pubswap_jax.run.pass_at_k import interval as bootstrap
from pubswap_jax.run.pass_at_k import pass_at_k_each

SHOWN = {"pass@1": ("sampled", "correct", 1), "pass@8": ("sampled", "correct", 8), "greedy": ("greedy", "correct", 1)}
SHOWN |= {"evaluated, pass@1": ("sampled", "evaluated", 1)}


def each(workdir: pathlib.Path, name: str) -> np.ndarray | None:
    """A figure of every test question, the mean over the run's models; None without a measurement."""
    how, reading, k = SHOWN[name]
    if not (workdir / "test.json").is_file():
        return None
    models = json.loads((workdir / "test.json").read_text())["models"]
    bits = [np.array([[bit == "1" for bit in row] for row in model[how][reading]]) for model in models]
    return np.mean([pass_at_k_each(right, k) for right in bits], axis=0)


def runs(out: pathlib.Path, method: str, end: str) -> dict[int, pathlib.Path]:
    """seed -> the folder of a measured run of this method and variant."""
    found = {int(path.parent.name.rpartition("-")[2]): path.parent for path in out.glob(f"{method}{end}-[0-9]/test.json")}
    return dict(sorted(found.items()))


def table(out: pathlib.Path, end: str) -> str:
    rows = []
    base = [each(out / "base", name) for name in SHOWN]
    rows.append(["after the warm-up", *("not run" if x is None else f"{x.mean():.3f}" for x in base)])
    for method in METHODS:
        found = runs(out, method, end)
        cells = [mean_and_half(np.array([each(run, name).mean() for run in found.values()])) for name in SHOWN if found]
        rows.append([f"{method} ({len(found)})", *(cells or ["not run"] * len(SHOWN))])
    return markdown(["method (seeds)", *SHOWN], rows)


def against(out: pathlib.Path, end: str, mine: str = "pubswap") -> str:
    """Differences to the other methods over shared seeds: a paired t-test over seeds, and a bootstrap over questions."""
    rows = []
    for other in METHODS:
        ours, theirs = runs(out, mine, end), runs(out, other, end)
        shared = [seed for seed in ours if seed in theirs]
        if other == mine or not shared:
            continue
        differences = np.array([each(ours[seed], "pass@1") - each(theirs[seed], "pass@1") for seed in shared])
        over_seeds = differences.mean(1)
        mean, half = interval(over_seeds)
        p = f"{stats.ttest_1samp(over_seeds, 0).pvalue:.3f}" if len(shared) > 1 else "one seed"
        low, high = bootstrap(differences.mean(0), lowest=-1.0)
        rows.append([other, str(len(shared)), f"{mean:+.3f} ± {half:.3f}", p, f"[{low:+.3f}, {high:+.3f}]"])
    return markdown([f"{mine} minus", "seeds", "over seeds, 95 %", "paired t, p", "over questions, 95 %"], rows)


def training(out: pathlib.Path, end: str) -> str:
    """Means over seeds of what the runs did: flat groups by round, rescued groups, entropy, drift, residual, bytes, seconds."""
    heads = ["method", "flat groups by round", "rescued", "entropy first, last", "drift", "residual", "MB a client", "s a step"]
    rows = []
    for method in METHODS:
        seen = [_of(run) for run in runs(out, method, end).values()]
        if seen:
            flat = np.mean([one["flat"] for one in seen], axis=0)
            mean = {name: float(np.mean([one[name] for one in seen])) for name in seen[0] if name != "flat"}
            words = [" ".join(f"{x:.2f}" for x in flat), f"{mean['rescued']:.3f}", f"{mean['first']:.2f}, {mean['last']:.2f}"]
            words += [f"{mean[name]:.3g}" for name in ("drift", "residual", "megabytes", "seconds")]
            rows.append([method, *words])
    return markdown(heads, rows)


def _of(workdir: pathlib.Path) -> dict:
    rows = journal.read(workdir, "metrics")
    steps = [row for row in rows if "step" in row]
    ended = [journal.scalars(row) | {"round": row["round"]} for row in rows if "step" not in row and row["round"]]
    values = [
        {name.split("/")[1]: x for name, x in journal.scalars(row).items() if name.startswith(("private/", "public/"))}
        for row in steps
    ]
    rounds = sorted({row["round"] for row in steps})
    flat = [[v["zero_variance_before"] for v, row in zip(values, steps, strict=True) if row["round"] == r] for r in rounds]
    sizes = [
        sum(x for n, x in row.items() if n.startswith("ledger/") and not n.endswith(("/counters", "/transcripts")))
        for row in ended
    ]
    return {
        "flat": [float(np.mean(part)) for part in flat],
        "rescued": float(np.mean([v["rescued"] for v in values])),
        "first": float(np.mean([v["entropy"] for v in values[:5]])),
        "last": float(np.mean([v["entropy"] for v in values[-5:]])),
        "drift": float(np.mean([row["round/drift"] for row in ended])),
        "residual": float(np.mean([row["round/residual"] for row in ended])),
        "megabytes": sum(sizes) / 1e6,
        "seconds": float(np.median([row["time/step"] for row in steps])),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--end", default="", help="of the cells' names: -tau5, -tau30 or -dirichlet")
    a = parser.parse_args()
    print("\n\n".join([table(a.out, a.end), against(a.out, a.end), training(a.out, a.end)]))


if __name__ == "__main__":
    main()
