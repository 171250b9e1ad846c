"""The tables and the picture of the study's results.

    python -m experiments.aggregation.picture [experiments/aggregation/results.json]

Means over seeds with 95 % t-intervals. Differences are paired by seed: to the mean of A and B apart, or, with hostile clients,
to the mean over the honest clients alone.
"""

from experiments.aggregation.study import GROUPS, HERE, METHODS, SIDES, hostile_cells
from experiments.figures import curve, markdown, mean_and_half, paired, show_groups


def control_of(name: str) -> str:
    """The cell that a cell's difference is to; empty: there is none."""
    for side in SIDES:
        if name.endswith(side):
            return f"honest alone, {side}"
    ends = [f"{method}, τ = {tau}" for method in METHODS for tau in (40, 10)]
    return next((f"mean, {end}" for end in ends if name.endswith(end)), "")


def groups(results: dict) -> dict[str, list[str]]:
    """The cells of every group that the results hold, in the study's order."""
    cells = {group: list(make()) for group, make in GROUPS.items()} | {"hostile": list(hostile_cells()[0])}
    found = {group: [name for name in names if name in results] for group, names in cells.items()}
    return {group: names for group, names in found.items() if names}


def table(results: dict, group: str, names: list[str]) -> str:
    rows = []
    for name in names:
        seeds, control = results[name], control_of(name)
        against = paired(seeds, results[control]) if control in results and control != name else "–"
        residual, sent, spent = (curve(seeds, figure)[:, 1:].mean() for figure in ("residual", "bytes", "cpu_seconds"))
        end = mean_and_half(curve(seeds, "global")[:, -1])
        rows.append([name, str(len(seeds)), end, against, f"{residual:.3f}", f"{sent / 1e6:.2f}", f"{spent:.1f}"])
    heads = ["cell", "seeds", "accuracy at the end", "to its control (p)", "averaging residual", "MB a round", "CPU s a round"]
    return markdown(heads, rows)


if __name__ == "__main__":
    show_groups(__doc__, HERE, groups, table, control_of, "after 240 steps")
