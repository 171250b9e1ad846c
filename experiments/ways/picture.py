"""The tables and the picture of the study's results.

    python -m experiments.ways.picture [experiments/ways/results.json]

Means over seeds with 95 % t-intervals, after the last round. Differences are paired by seed.
"""

import numpy as np

from experiments.cells import kept
from experiments.figures import Seeds, curve, markdown, mean_and_half, paired, show_groups
from experiments.ways.study import HERE, TIME, asynchronous_cells, fedgrpo_cells, sapo_cells


def control_of(name: str) -> str:
    """The cell that a cell's difference is to.

    Central GRPO, SAPO without foreign responses, or of the same speeds FedBuff for FedRevive and FedAvg for FedBuff.
    """
    if name.startswith("SAPO") or name.endswith("default world"):
        return "SAPO 8/0"
    method, _, speeds = name.partition(", speeds ")
    return f"{'FedBuff' if method == 'FedRevive' else 'FedAvg'}, speeds {speeds}" if speeds else "central"


def groups(results: dict) -> dict[str, list[str]]:
    """The cells of every group that the results hold, in the study's order."""
    cells = {"FedGRPO": [*fedgrpo_cells("")], "SAPO": [*sapo_cells()], "asynchronous": [*asynchronous_cells()]}
    found = {group: [name for name in names if name in results] for group, names in cells.items()}
    return {group: names for group, names in found.items() if names}


def bytes_of(seeds: Seeds) -> float:
    """Bytes of a whole run, of both directions and all clients."""
    return float(np.nansum(curve(seeds, "bytes")[:, 1:], axis=1).mean())


def of_all(seeds: Seeds, name: str) -> list[float]:
    return [value for rows in seeds.values() for row in rows for value in row.get(name, ())]


def at_half(seeds: Seeds, asynchronous: bool) -> np.ndarray:
    """f64[seeds]: the last accuracy that was measured by half the simulated time, or by half the rounds; else the base's."""
    clock, half = ("time", TIME / 2) if asynchronous else ("round", max(row["round"] for row in next(iter(seeds.values()))) / 2)
    known = [[row["global"] for row in rows if "global" in row and row.get(clock, 0) <= half] for rows in seeds.values()]
    return np.array([values[-1] for values in known])


def middle(values: list[float]) -> str:
    """Median, with the quartiles."""
    return "{1:.2f} ({0:.2f} to {2:.2f})".format(*np.quantile(values, [0.25, 0.5, 0.75])) if values else "–"


def table(results: dict, group: str, names: list[str]) -> str:
    asynchronous, rows = group == "asynchronous", []
    for name in names:
        seeds, control = results[name], control_of(name)
        against = paired(seeds, results[control]) if control in results and control != name else "–"
        row = [name, str(len(seeds)), mean_and_half(at_half(seeds, asynchronous)), mean_and_half(curve(seeds, "global")[:, -1])]
        row += [against, f"{bytes_of(seeds) / 1e6:.2f}", f"{np.nansum(curve(seeds, 'cpu_seconds'), axis=1).mean():.0f}"]
        rows.append(row + ([middle(of_all(seeds, "staleness")), middle(of_all(seeds, "beta"))] if asynchronous else []))
    heads = ["cell", "seeds", "accuracy at half", "at the end", "to its control (p)", "MB of a run", "CPU s"]
    return markdown(heads + (["staleness (quartiles)", "β (quartiles)"] if asynchronous else []), rows)


def rates(results: dict) -> str:
    """Accuracy at the end by learning rate, of the seed that chooses the rates."""
    found: dict[str, dict[str, str]] = {}
    for name, seeds in results.items():
        method, _, rate = name.rpartition(", lr ")
        if method:
            found.setdefault(method, {})[rate] = f"{curve(seeds, 'global')[:, -1].mean():.3f}"
    heads = sorted({rate for row in found.values() for rate in row}, key=float)
    return markdown(["method", *heads], [[method, *(row.get(rate, "–") for rate in heads)] for method, row in found.items()])


if __name__ == "__main__":
    show_groups(__doc__, HERE, groups, table, control_of, "after the last round")
    print(f"rates, one seed\n\n{rates(kept(HERE / 'results.json'))}")
