"""The report's section on swaps: who received responses from whom, what a swap changes, and how far it moves a gradient."""

from collections.abc import Mapping, Sequence

from pubswap_jax.report import charts
from pubswap_jax.report.page import figure, section
from pubswap_jax.report.series import banded, cell, drawable, over_steps, total


def swaps(steps: Sequence[Mapping]) -> str:
    """HTML of the report's section on swaps, from the rows of all steps. Empty without a step that could swap."""
    public = [row for row in steps if "public/donors" in row and "public/rescued" in row]
    if not public:
        return ""
    names = [f"client {i}" for i in range(len(public[0]["public/donors"]))]
    clients = range(len(names))
    flow = [[total(cell(row["public/donors"], i, j) for row in public) for j in clients] for i in clients]
    labels = (("swapped", "responses swapped"), ("rescued", "groups rescued"))
    shares = [over_steps(public, f"public/{name}", label) for name, label in labels]
    flat, spread = (
        [over_steps(public, f"public/{name}_{when}", f"{when} the swap") for when in ("before", "after")]
        for name in ("zero_variance", "variance")
    )
    counts = [(row["at"], [x for x in row["swap/replacements"] if x is not None]) for row in public]
    replaced = banded([pair for pair in counts if pair[1]], "mean over clients (band: from the least to the most)")
    figures = {
        "Who received (row) from whom (column), responses": charts.heat_map(names, names, flow, digits=0),
        "Shares of a public step": charts.lines(shares, "step", "share", (0.0, 1.0)),
        "Groups without variance, which teach nothing": charts.lines(flat, "step", "share", (0.0, 1.0)),
        "Variance of a group's rewards, mean over groups": charts.lines(spread, "step", "variance", (0.0, 0.26)),
        "Replacements of a client in a public step": charts.lines([replaced], "step", "responses"),
    }
    body = "".join(figure(caption, chart) for caption, chart in figures.items())
    return section("Swaps", f'<div class="two">{body}{distances(public)}</div>{unswapped(public)}')


def distances(public: Sequence[Mapping]) -> str:
    """A chart of how far swaps moved a gradient beside the bound M·β on that distance. Empty if none was measured.

    M is the number of replaced responses of a group, β the farthest that a single replacement moves the gradient.
    """
    measured = [row for row in public if any(map(drawable, row.get("swap/bound", ())))]
    if not measured:
        return ""
    curves, used = [], []
    for name, label in (("bound", "M·β, the bound"), ("distance", "‖G(Ỹ) − G(Y)‖, the distance"), ("beta", "β")):
        found = [(row["at"], [x for x in row[f"swap/{name}"] if drawable(x)]) for row in measured]
        curves.append(banded([pair for pair in found if pair[1]], label))
    for row in measured:
        pairs = zip(row["swap/distance"], row["swap/bound"], strict=True)
        used += [distance / bound for distance, bound in pairs if drawable(distance) and drawable(bound)]
    text = (
        "For each client one group is measured: the group with the most replacements M. G is the group's policy gradient in "
        "the adapter's parameters, before clipping and Adam, from the client's own responses Y or from the responses after the "
        "swap, Ỹ. β is the farthest that a single replacement moves G. By the theory, the distance is at most M·β. Lines are "
        "means over clients, bands reach from the least to the most."
    )
    if used:
        text += f" The distance was {100 * min(used):.0f} to {100 * max(used):.0f} % of the bound in {len(used)} measurements."
    chart = charts.lines(curves, "step", "norm", decades=True)
    return figure("How far the swap moved a gradient", chart + charts.note(text))


def unswapped(public: Sequence[Mapping]) -> str:
    """A sentence that counts the measured steps in which nothing was swapped, which the chart of distances cannot show."""
    measured = [row["swap/bound"] for row in public if "swap/bound" in row]
    count = sum(not any(bounds) for bounds in measured)  # a client's bound is 0 without a replacement, None if it is absent
    if not count:
        return ""
    return charts.note(
        f"How far the swap moves a gradient was measured in {len(measured)} public steps. In {count} of them no response was "
        "replaced, so there is no distance to draw. --config.log.distortion=step measures every public step, not only a "
        "round's last."
    )
