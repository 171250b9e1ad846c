"""The report's section on drift: how far the clients' adapters move in a round, and what the average of the adapters loses."""

import math
from collections.abc import Mapping, Sequence

from pubswap_jax.report import charts
from pubswap_jax.report.charts import Line
from pubswap_jax.report.page import figure, section
from pubswap_jax.report.series import mean_of_known


def drift(run: Mapping, rounds: Sequence[Mapping]) -> str:
    """HTML of the report's section on drift, from the rows of finished rounds.

    Empty where no client's adapter moved on its own.
    """
    rounds = [row for row in rounds if "round/drift" in row]
    if not rounds:
        return ""
    x, last = [row["round"] for row in rounds], rounds[-1]
    names = [f"client {i}" for i in range(len(last["round/drift"]))]
    norms = [Line(name, x, [row["round/drift"][i] for row in rounds]) for i, name in enumerate(names)]
    body = figure("Distance from the round's start", charts.lines(norms, "round", "norm"))
    if "round/opposing" in last:
        opposing = [Line(name, x, [_of(row, i) for row in rounds]) for i, name in enumerate(names)]
        body += figure("Share of LoRA units whose move opposes the mean move", charts.lines(opposing, "round", "share"))
    if "round/residual" in last:
        residual = [Line("residual", x, [row.get("round/residual") for row in rounds])]
        body += figure("‖mean(BA) − mean(B)·mean(A)‖ / ‖mean(BA)‖", charts.lines(residual, "round", "relative error"))
    if "round/cosine" in last and len(names) > 1:
        cosines = [row or [None] * len(names) for row in last["round/cosine"]]
        caption = f"Cosine between the clients' moves, round {last['round']}"
        body += figure(caption, charts.heat_map(names, names, cosines, largest=1.0))
    if "round/drift_by_module" in last:
        body += _by_module(run["modules"], last, names)
    return section("Drift", f'<div class="two">{body}</div>' + "".join(charts.note(line) for line in exclusions(rounds)))


def _of(row: Mapping, client: int) -> float | None:
    return row["round/opposing"][client] if "round/opposing" in row else None  # rows of an earlier version have none


def _by_module(modules: Sequence[str], last: Mapping, names: Sequence[str]) -> str:
    """Two figures of the last round: distance by layer and client, and by layer and kind. A module's name is "layer/kind"."""
    absent = [None] * len(modules)
    of_clients = [norms or absent for norms in last["round/drift_by_module"]]
    moved = dict(zip(modules, zip(*of_clients, strict=True), strict=True))  # module -> one norm per client
    layers, kinds = (sorted({name.split("/")[part] for name in moved}) for part in (0, 1))
    inside = {layer: [norms for name, norms in moved.items() if name.startswith(f"{layer}/")] for layer in layers}
    by_client = [
        [None if None in norms else math.hypot(*norms) for norms in zip(*inside[layer], strict=True)] for layer in layers
    ]
    by_kind = [[mean_of_known(moved[f"{layer}/{kind}"]) for kind in kinds] for layer in layers]
    body = figure(f"Distance by layer, round {last['round']}", charts.heat_map(layers, names, by_client))
    caption = f"Distance by layer and module, mean over clients, round {last['round']}"
    return body + figure(caption, charts.heat_map(layers, kinds, by_kind))


def exclusions(rounds: Sequence[Mapping]) -> list[str]:
    """A sentence for each round whose averaging left out a client, because its adapter had NaN or an enormous norm."""
    found = {row["round"]: [str(i) for i, out in enumerate(row.get("round/excluded", [])) if out] for row in rounds}
    sentence = "Round {}: client {} was left out of the average, since its adapter was not finite."
    return [sentence.format(round, ", ".join(names)) for round, names in found.items() if names]
