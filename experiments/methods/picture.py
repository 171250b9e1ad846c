"""The table and the picture of a study's results.

    python -m experiments.methods.picture experiments/methods/results_hard.json

Means over seeds with 95 % t-intervals; differences to 'public without swap' are paired by seed.
"""

import argparse
import json
import pathlib

import matplotlib
import numpy as np
from scipy import stats

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CONTROL, LEVEL = "public without swap", 0.5
COLOURS = {
    "PubSwap": "#d55e00",
    "public without swap": "#0072b2",
    "FedAvg-GRPO": "#4c4c4c",
    "FedProx-GRPO": "#9a9a9a",
    "random swap": "#e69f00",
    "local only": "#56b4e9",
    "public only": "#009e73",
    "PubSwap, rescue": "#cc79a7",
    "PubSwap, swap all": "#7a5195",
    "PubSwap, max variance": "#a6761d",
    "centralised": "#000000",
}


def curve(seeds: dict, name: str) -> np.ndarray:
    """f64[seeds, rounds + 1], as far as all seeds go. The first round has no figures of training."""
    rows = list(seeds.values())
    length = min(map(len, rows))
    return np.array([[row.get(name, np.nan) for row in seed[:length]] for seed in rows])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % t-interval; infinite for one value."""
    if len(values) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def first_round(values: np.ndarray) -> list[str]:
    """The first round of each seed that ends above LEVEL."""
    return [str(int(np.argmax(row > LEVEL))) if (row > LEVEL).any() else f">{len(row) - 1}" for row in values]


def cost(seeds: dict) -> tuple[str, str]:
    """Megabytes and seconds until LEVEL, means over the seeds that reach it."""
    reached = []
    for row, sent, spent in zip(*(curve(seeds, name) for name in ("global", "bytes", "seconds")), strict=True):
        if (row > LEVEL).any():
            last = int(np.argmax(row > LEVEL))
            reached.append((np.nansum(sent[: last + 1]) / 1e6, np.nansum(spent[: last + 1])))
    if not reached:
        return "not reached", "not reached"
    part = f" ({len(reached)} of {len(seeds)})" if len(reached) < len(seeds) else ""
    sent, spent = np.mean(reached, axis=0)
    return f"{sent:.1f}{part}", f"{spent:.0f}{part}"


def table(results: dict, at: list[int]) -> str:
    last = at[-1]
    heads = ["method", "seeds", *(f"round {n}" for n in at), f"own, round {last}", f"to the control, round {last} (p)"]
    heads += ["passes 0.5 in round", "MB sent until then", "s until then"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, seeds in results.items():
        scores, own = curve(seeds, "global"), curve(seeds, "clients")
        cells = [f"{m:.3f} ± {h:.3f}" for m, h in (interval(scores[:, n]) for n in at if n < scores.shape[1])]
        mean, half = interval(own[:, -1])
        against = difference(results, method, at[-1])
        cells += [f"{mean:.3f} ± {half:.3f}", against, " ".join(first_round(scores)), *cost(seeds)]
        lines.append(f"| {method} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference(results: dict, method: str, at: int) -> str:
    """Mean paired difference to the control after a round, its interval and the paired t-test's p."""
    if method == CONTROL or CONTROL not in results:
        return "–"
    shared = [seed for seed in results[method] if seed in results[CONTROL]]
    mine, theirs = (np.array([results[name][seed][at]["global"] for seed in shared]) for name in (method, CONTROL))
    mean, half = interval(mine - theirs)
    if len(shared) < 2 or (mine == theirs).all():
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ± {half:.3f} ({stats.ttest_rel(mine, theirs).pvalue:.3f})"


def draw(results: dict, path: pathlib.Path, title: str) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True, layout="constrained")
    for method, seeds in results.items():
        colour = COLOURS[method]
        for axis, name in zip(axes, ("global", "clients"), strict=True):
            values = curve(seeds, name)
            rounds = np.arange(values.shape[1])
            axis.plot(rounds, values.mean(0), color=colour, label=method, lw=2)
            axis.plot(rounds, values.T, color=colour, lw=0.6, alpha=0.5)
    axes[0].set(title="the averaged model", ylabel="accuracy on held-out questions", ylim=(0, 1))
    axes[1].set(title="clients' own models before averaging (mean)")
    for axis in axes:
        axis.set(xlabel="round", xlim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.axhline(LEVEL, color="#bbbbbb", lw=0.8, ls="--")
    axes[1].legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    figure.savefig(path.with_suffix(".svg"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--at", nargs="+", type=int, help="rounds of the table; default: the middle and the last")
    a = parser.parse_args()
    results = json.loads(a.results.read_text())
    last = min(len(rows) for seeds in results.values() for rows in seeds.values()) - 1
    print(table(results, a.at or sorted({(last + 1) // 2, last})))
    preset = a.results.stem.removeprefix("results_")
    draw(results, a.results.with_name(f"methods_{preset}.png"), f"{preset}: mean (thick) and each seed (thin)")


if __name__ == "__main__":
    main()
