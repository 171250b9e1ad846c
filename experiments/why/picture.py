"""The tables and the picture of the counterfactual swaps.

python -m experiments.why.picture experiments/why/results.json
"""

import argparse
import json
import pathlib

import numpy as np

from experiments.figures import markdown, panels, save

COLOURS = {
    "no_swap": "#0072b2",
    "balanced": "#d55e00",
    "random_swap": "#e69f00",
    "rescue": "#cc79a7",
    "swap_all": "#7a5195",
    "max_variance": "#a6761d",
}


def table(probes: list[dict]) -> str:
    """Means over the probes: where the update points, how long it is, and what was swapped."""
    rows = []
    for name in COLOURS:
        found = {key: np.array([probe["planners"][name][key] for probe in probes]) for key in probes[0]["planners"][name]}
        beside = found["cosine"] - np.array([probe["planners"]["no_swap"]["cosine"] for probe in probes])
        shares = [f"{found[key].mean():.2f}" for key in ("swapped", "rescued", "zero_variance_after")]
        rows.append([name, f"{found['cosine'].mean():.3f}", f"{beside.mean():+.3f}", f"{found['norm'].mean():.3f}", *shares])
    heads = ["planner", "cosine with the private gradient", "to no swap", "norm", "swapped", "rescued groups", "flat after"]
    return markdown(heads, rows)


def bounds(probes: list[dict]) -> str:
    rows = []
    for probe in probes:
        one = {key: np.array(value) for key, value in probe["M beta"].items()}
        some = one["replacements"] > 0
        if not some.any():
            rows.append([str(probe["round"]), "0", "–", "–", "–", "–"])
            continue
        ratio = one["bound"][some] / np.maximum(one["distance"][some], 1e-12)
        means = [f"{one[key][some].mean():.3g}" for key in ("replacements", "beta", "bound", "distance")]
        rows.append([str(probe["round"]), *means, f"{np.median(ratio):.2f}"])
    return markdown(["before round", "M", "β", "M·β", "distance", "median M·β / distance"], rows)


def draw(probes: list[dict], history: list[dict], path: pathlib.Path) -> None:
    figure, (cosines, norms, theory) = panels(3, width=4.2)
    rounds = [probe["round"] + 1 for probe in probes]
    for name, colour in COLOURS.items():
        found = [probe["planners"][name] for probe in probes]
        values, errors = ([one[key] for one in found] for key in ("cosine", "cosine_error"))
        cosines.errorbar(rounds, values, errors, color=colour, lw=1.6, elinewidth=0.8, label=name)
        norms.plot(rounds, [one["norm"] for one in found], color=colour, lw=1.6, label=name)
    cosines.plot(rounds, [probe["halves"] for probe in probes], color="#777777", lw=1, ls=":")
    cosines.set(title="cosine with the private gradient (dotted: its halves)", xlabel="before round")
    norms.set(title="length of the public update", xlabel="before round", ylim=(0, None))
    for i, probe in enumerate(probes):
        one = {key: np.array(value) for key, value in probe["M beta"].items()}
        some = one["replacements"] > 0
        theory.plot(one["distance"][some], one["bound"][some], "o", ms=4, color=str(0.75 - 0.7 * i / max(len(probes) - 1, 1)))
    edge = max(theory.get_xlim()[1], 1e-3)
    theory.plot([0, edge], [0, edge], color="#bbbbbb", lw=0.8, ls="--")
    theory.set(title="M·β against the distance it bounds", xlabel="distance (dark: later rounds)", ylabel="M·β")
    norms.legend(frameon=False, fontsize=8, loc="upper left")
    scores = ", ".join(f"{row['global']:.2f}" for row in history[: len(probes)])
    figure.suptitle(f"the same rollouts, swapped by each planner; accuracy before each round: {scores}", fontsize=10)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    a = parser.parse_args()
    results = json.loads(a.results.read_text())
    print(table(results["probes"]), bounds(results["probes"]), sep="\n\n")
    draw(results["probes"], results.get("history", []), a.results.with_name("counterfactual.png"))


if __name__ == "__main__":
    main()
