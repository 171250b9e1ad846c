"""What the studies' tables and pictures share: curves and intervals over seeds, paired differences, and one look."""

import argparse
import json
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from scipy import stats

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Seeds = Mapping[str, list[dict]]  # seed -> a row before the first round and one after each


def curve(seeds: Seeds, name: str) -> np.ndarray:
    """f64[seeds, rounds + 1], as far as all seeds go. The first round has no figures of training."""
    rows = list(seeds.values())
    length = min(map(len, rows))
    return np.array([[row.get(name, np.nan) for row in seed[:length]] for seed in rows])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half width of its 95 % t-interval; infinite for one value."""
    if len(values) < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))


def mean_and_half(values: np.ndarray) -> str:
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}" if np.isfinite(half) else f"{mean:.3f}"


def paired(mine: Seeds, theirs: Seeds, at: int = -1) -> str:
    """Mean difference after a round over the seeds that both have, its interval and the paired t-test's p."""
    shared = [seed for seed in mine if seed in theirs]
    differences = np.array([mine[seed][at]["global"] - theirs[seed][at]["global"] for seed in shared])
    mean, half = interval(differences)
    if len(shared) < 2 or (differences == 0).all():
        return f"{mean:+.3f}"
    return f"{mean:+.3f} ± {half:.3f} ({_p(stats.ttest_1samp(differences, 0).pvalue)})"


def _p(value: float) -> str:
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = (f"| {' | '.join(row)} |" for row in (heads, *rows))
    return "\n".join([first, "|---" * len(heads) + "|", *others])


def panels(count: int, width: float = 4.8, height: float = 3.8, **options):
    """`count` axes in a row, in the studies' look."""
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False, **options)
    for axis in axes[0]:
        axis.grid(color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def lines(axis, x: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    """The mean over seeds, and each seed thin beside it."""
    axis.plot(x, values.T, color=colour, lw=0.6, alpha=0.45)
    axis.plot(x, values.mean(0), color=colour, lw=2, label=label)


def dots(
    axis, names: Sequence[str], values: Sequence[np.ndarray], colours: Sequence[str], offset: float = 0.0, **style
) -> None:
    """A row a name, from the top: the mean with its interval, and the seeds as ticks."""
    for i, (seeds, colour) in enumerate(zip(values, colours, strict=True)):
        (mean, half), y = interval(seeds), i + offset
        if np.isfinite(half):
            axis.plot([mean - half, mean + half], [y, y], color=colour, lw=1.4, solid_capstyle="butt")
        axis.plot(seeds, np.full(len(seeds), y), "|", color=colour, ms=6, alpha=0.7)
        axis.plot(mean, y, "o", color=colour, ms=6, **style)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)


def draw_groups(results: Mapping[str, Seeds], found: Mapping[str, Sequence[str]], control_of, title: str, path) -> None:
    """A panel a group of cells: accuracy after the last round, grey for the cells that others are compared with."""
    figure, axes = panels(len(found), width=6.0, height=1.2 + 0.25 * max(map(len, found.values())))
    for axis, (group, names) in zip(axes, found.items(), strict=True):
        colours = ["#4c4c4c" if control_of(name) in ("", name) else "#0072b2" for name in names]
        dots(axis, names, [curve(results[name], "global")[:, -1] for name in names], colours)
        axis.set(title=group, xlabel="accuracy on held-out questions", xlim=(0, 1))
        axis.tick_params(axis="y", labelsize=7)
    figure.suptitle(f"{title}: means with 95 % intervals, ticks: seeds; grey: controls", fontsize=11)
    save(figure, path)


def show_groups(description: str, here: pathlib.Path, groups, table, control_of, title: str) -> None:
    """The command of a study's tables and picture. `groups`: results -> cells of each group; `table(results, group, names)`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, nargs="?", default=here / "results.json")
    path = parser.parse_args().results
    results = json.loads(path.read_text())
    found = groups(results)
    for group, names in found.items():
        print(f"{group}\n\n{table(results, group, names)}\n")
    draw_groups(results, found, control_of, title, path.with_name(f"{here.name}.png"))


def save(figure, path: pathlib.Path) -> None:
    """As PNG and as SVG."""
    figure.savefig(path, dpi=120)
    figure.savefig(path.with_suffix(".svg"))
    plt.close(figure)
