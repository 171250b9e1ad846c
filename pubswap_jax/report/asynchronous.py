"""The report's section on asynchronous clients: their uploads over simulated time, and the staleness of the uploads."""

import collections
from collections.abc import Mapping, Sequence

from pubswap_jax.report import charts
from pubswap_jax.report.charts import Line
from pubswap_jax.report.page import figure, section
from pubswap_jax.report.series import over_steps


def asynchronous(steps: Sequence[Mapping], rounds: Sequence[Mapping]) -> str:
    """HTML of the report's section on asynchronous clients, from rows of steps and rounds. Empty for a run in lockstep."""
    found = [row for row in rounds if "uploads/client" in row]
    if not found:
        return ""
    uploads = [
        triple
        for row in found
        for triple in zip(row["uploads/client"], row["uploads/time"], row["uploads/staleness"], strict=True)
    ]
    lines = []
    for client in sorted({client for client, _, _ in uploads}):
        times = [time for one, time, _ in uploads if one == client]
        lines.append(Line(f"client {client}", times, list(range(1, len(times) + 1))))
    counts = collections.Counter(staleness for _, _, staleness in uploads)
    values = [[counts[staleness]] for staleness in range(max(counts) + 1)]
    names = [f"{staleness} versions" for staleness in range(max(counts) + 1)]
    body = figure("Uploads of each client over simulated time", charts.lines(lines, "simulated time", "uploads"))
    body += figure("Staleness of the uploads", charts.heat_map(names, ["uploads"], values, digits=0))
    taught = [row for row in steps if "public/kl_before" in row]
    if taught:
        kl = [over_steps(taught, f"public/kl_{when}", f"{when} the distillation") for when in ("before", "after")]
        body += figure("KL of student and stale teacher", charts.lines(kl, "step", "KL"))
        body += figure("Weight of the distillation, β", charts.lines([over_steps(taught, "public/beta", "β")], "step", "β"))
    return section("Asynchronous clients", f'<div class="two">{body}</div>')
