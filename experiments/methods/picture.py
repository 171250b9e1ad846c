"""The table and the picture of a study's results.

    python -m experiments.methods.picture experiments/methods/results_hard.json

Means over seeds with 95 % t-intervals; differences to 'public without swap' are paired by seed.
"""

import argparse
import json
import pathlib

import numpy as np

from experiments.figures import curve, dots, lines, markdown, mean_and_half, paired, panels, save
from experiments.methods.study import MAIN

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


def first_round(values: np.ndarray) -> list[str]:
    """The first round of each seed that ends above LEVEL."""
    return [str(int(np.argmax(row > LEVEL))) if (row > LEVEL).any() else f">{len(row) - 1}" for row in values]


def cost(seeds: dict) -> tuple[str, str]:
    """Megabytes and CPU seconds until LEVEL, means over the seeds that reach it."""
    reached = []
    for row, sent, spent in zip(*(curve(seeds, name) for name in ("global", "bytes", "cpu_seconds")), strict=True):
        if (row > LEVEL).any():
            last = int(np.argmax(row > LEVEL))
            reached.append((sent[1 : last + 1].sum() / 1e6, spent[1 : last + 1].sum()))  # nan where it was not measured
    if not reached:
        return "not reached", "not reached"
    part = f" ({len(reached)} of {len(seeds)})" if len(reached) < len(seeds) else ""
    sent, spent = np.mean(reached, axis=0)
    return f"{sent:.1f}{part}", f"{spent:.0f}{part}"


def table(results: dict, at: list[int]) -> str:
    last = at[-1]
    heads = ["method", "seeds", *(f"round {n}" for n in at), f"own, round {last}", f"to the control, round {last} (p)"]
    heads += ["passes 0.5 in round", "MB sent until then", "CPU s until then"]
    rows = []
    for method, seeds in results.items():
        scores, own = curve(seeds, "global"), curve(seeds, "clients")
        against = paired(seeds, results[CONTROL], last) if CONTROL in results and method != CONTROL else "–"
        found = [mean_and_half(scores[:, n]) for n in at] + [mean_and_half(own[:, last]), against]
        rows.append([method, str(len(seeds)), *found, " ".join(first_round(scores)), *cost(seeds)])
    return markdown(heads, rows)


def draw(results: dict, path: pathlib.Path, title: str) -> None:
    """The main methods by round, and where all of them stand in the end."""
    figure, (by_round, in_the_end) = panels(2)
    for method in (method for method in results if method in MAIN):
        values = curve(results[method], "global")
        lines(by_round, np.arange(values.shape[1]), values, COLOURS[method], method)
    by_round.set(title="the averaged model", ylabel="accuracy on held-out questions", xlabel="round", xlim=(0, None))
    by_round.set(ylim=(0, 1))
    by_round.xaxis.get_major_locator().set_params(integer=True)
    by_round.axhline(LEVEL, color="#bbbbbb", lw=0.8, ls="--")
    by_round.legend(frameon=False, fontsize=8, loc="upper left")
    colours = [COLOURS[method] for method in results]
    last = min(len(rows) for seeds in results.values() for rows in seeds.values()) - 1
    for name, offset, filled in (("global", -0.15, "full"), ("clients", 0.15, "none")):
        dots(in_the_end, list(results), [curve(s, name)[:, last] for s in results.values()], colours, offset, fillstyle=filled)
    in_the_end.set(title=f"after round {last}; ○ clients' own", xlim=(0, 1), xlabel="accuracy")
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--at", nargs="+", type=int, help="rounds of the table; default: the middle and the last")
    a = parser.parse_args()
    results = json.loads(a.results.read_text())
    last = min(len(rows) for seeds in results.values() for rows in seeds.values()) - 1
    print(table(results, a.at or sorted({(last + 1) // 2, last})))
    preset = a.results.stem.removeprefix("results_")
    draw(
        results,
        a.results.with_name(f"methods_{preset}.png"),
        f"{preset}: means with 95 % intervals, thin lines and ticks: seeds",
    )


if __name__ == "__main__":
    main()
