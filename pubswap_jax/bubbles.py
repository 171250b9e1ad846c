"""The picture of a partition: topics x clients, a bubble's area is the number of questions.

It is drawn from the very index lists that the run uses.
"""

import os
from collections.abc import Sequence

import numpy as np

from pubswap_jax.data import Problem, topics
from pubswap_jax.partition import Split

INK, FAINT, RULE = "#22303c", "#7b8894", "#e8ebee"
PRIVATE, PUBLIC = "#2f6f9f", "#e08a2e"
STEPS = 25  # sizes of bubbles


def counts(split: Split, problems: Sequence[Problem]) -> tuple[list[str], np.ndarray]:
    """The topics, and int[T, 1 + C]: how many questions of each are public, and how many each client holds."""
    held = [split.public, *split.clients]
    names = topics([problems[i] for part in held for i in part])
    row = {name: t for t, name in enumerate(names)}
    table = np.zeros((len(names), len(held)), int)
    for column, part in enumerate(held):
        for i in part:
            table[row[problems[i].topic], column] += 1
    return names, table


def quantise(table: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """Counts as areas in (0, 1] of `steps` equal steps; what is not nought is at least one step, so that it is seen."""
    largest = max(1, int(np.max(table, initial=0)))
    return np.ceil(np.asarray(table) / largest * steps) / steps


def draw(split: Split, problems: Sequence[Problem], title: str = ""):
    """A matplotlib Figure: one column a client and one for the public set."""
    from matplotlib.figure import Figure

    names, table = counts(split, problems)
    rows, columns = table.shape
    figure = Figure(figsize=(2.6 + 0.62 * columns, 1.7 + 0.62 * rows), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(-0.75, columns - 0.25), ylim=(rows - 0.4, -0.6), aspect="equal")
    axes.vlines(np.arange(columns) + 0.25 * (np.arange(columns) > 0), -0.5, rows - 0.5, color=RULE, linewidth=1, zorder=0)
    axes.hlines(np.arange(rows), -0.5, columns - 0.25, color=RULE, linewidth=1, zorder=0)
    for (t, c), area in np.ndenumerate(quantise(table)):
        if area:
            _bubble(axes, c + 0.25 * (c > 0), t, area, table[t, c], PRIVATE if c else PUBLIC)
    _label(axes, names, table)
    if title:
        axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=12)
    return figure


def save(figure, stem: str | os.PathLike) -> list[str]:
    """Writes stem.png and stem.svg, the same bytes for the same figure."""
    import matplotlib

    paths = [f"{stem}.png", f"{stem}.svg"]
    with matplotlib.rc_context({"svg.hashsalt": "pubswap", "svg.fonttype": "none"}):
        figure.savefig(paths[0])
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _bubble(axes, x: float, y: float, area: float, count: int, colour: str) -> None:
    from matplotlib.patches import Circle

    radius = 0.47 * area**0.5
    axes.add_patch(Circle((x, y), radius, facecolor=colour, edgecolor="white", linewidth=0.8))
    if radius > 0.2:
        axes.text(x, y, f"{count}", ha="center", va="center_baseline", color="white", fontsize=6.5)
    else:
        axes.text(x, y + radius + 0.05, f"{count}", ha="center", va="top", color=FAINT, fontsize=6)


def _label(axes, names: Sequence[str], table: np.ndarray) -> None:
    columns = table.shape[1]
    places = [c + 0.25 * (c > 0) for c in range(columns)]
    heads = ["public", *(f"{client}" for client in range(columns - 1))]
    totals = table.sum(axis=0)
    axes.set_xticks(places, [f"{head}\n{total}" for head, total in zip(heads, totals, strict=True)], fontsize=8, color=INK)
    axes.set_yticks(range(len(names)), [name or "(no topic)" for name in names], fontsize=8.5, color=INK)
    axes.tick_params(length=0)
    axes.get_xticklabels()[0].set_color(PUBLIC)
    axes.set_xlabel(
        "client, with its number of questions; a bubble's area follows its count", fontsize=8, color=FAINT, labelpad=8
    )
    for side in axes.spines.values():
        side.set_visible(False)
