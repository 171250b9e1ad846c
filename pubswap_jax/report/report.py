"""Writes one self-contained report.html from a run's files: no server, no script, no downloads."""

import html
import math
import os
import pathlib
from collections.abc import Sequence

from pubswap_jax.fields import FIELDS
from pubswap_jax.files import bytes_text
from pubswap_jax.report import charts
from pubswap_jax.report.charts import Line
from pubswap_jax.report.headline import headline
from pubswap_jax.report.page import PAGE, section, table
from pubswap_jax.run import journal, ledger
from pubswap_jax.run.journal import mean
from pubswap_jax.run.state import described

TRANSCRIPTS = 12
PRIVATE = (
    "This section and rollouts.jsonl carry private questions and answers of every client, in plain text. That is fine in a "
    "simulation; --config.log.transcripts=0 writes none. Rounds and steps are counted from 1 here, from 0 in the file."
)
PHASES = ("rollout", "verify", "swap", "update", "distortion", "average", "evaluate", "save", "other")


def write(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes `report.html` into the folder of a finished or unfinished run and returns its path."""
    workdir = pathlib.Path(workdir)
    run = described(workdir)
    rows, evaluations, rollouts = (journal.read(workdir, name) for name in ("metrics", "evaluations", "rollouts"))
    steps = [row for row in rows if "step" in row]
    rounds = [row for row in rows if "step" not in row and row["round"]]
    for number, row in enumerate(steps):
        row["at"] = number + 1
    body = [
        headline(run, evaluations),
        learning(steps, rounds, evaluations),
        swaps(steps),
        partition(run, evaluations),
        drifts(run, rounds),
        traffic(run, rounds),
        times(steps, rounds),
        transcripts(rollouts),
        settings(run),
    ]
    path = workdir / "report.html"
    staging = path.with_suffix(".tmp")
    staging.write_text(PAGE.format(title=html.escape(workdir.resolve().name), body="\n".join(body)), encoding="utf-8")
    os.replace(staging, path)
    return path


def learning(steps, rounds, evaluations) -> str:
    reward = [_over_steps(steps, f"{phase}/reward", phase) for phase in ("private", "public")]
    curve = [row for row in evaluations if row["split"] == "validation" and row["model"] == "global"]
    x, figures = [row["round"] for row in curve], [row["figures"] for row in curve]
    bands = [[row[f"pass@1_{end}"] for row in figures] for end in ("low", "high")]
    passes = [Line("averaged model", x, [row["pass@1"] for row in figures], *bands)] if curve else []
    own = [row for row in rounds if "clients/pass@1" in row]
    for client in range(len(own[0]["clients/pass@1"]) if own else 0):
        passes.append(
            Line(f"client {client}, own", [row["round"] for row in own], [row["clients/pass@1"][client] for row in own])
        )
    inside = charts.lines(reward, "step", "reward", (0.0, 1.0))
    outside = charts.lines(passes, "round", "validation pass@1", (0.0, 1.0))
    notes = charts.note("The band is a 95 % bootstrap interval over questions. Clients' own models are those before averaging.")
    return section(
        "Learning", f'<div class="two">{_figure("Reward in training", inside)}{_figure("pass@1", outside)}</div>{notes}'
    )


def swaps(steps) -> str:
    public = [row for row in steps if "public/donors" in row]
    if not public:
        return section("Swaps", charts.note("No public step so far: nothing was swapped."))
    clients = range(len(public[0]["public/donors"]))
    flow = [[_total(_cell(row["public/donors"], i, j) for row in public) for j in clients] for i in clients]
    names = [f"client {i}" for i in clients]
    shares = [
        _over_steps(public, f"public/{name}", told)
        for name, told in (("swapped", "responses swapped"), ("rescued", "groups rescued"))
    ]
    flat = [_over_steps(public, f"public/zero_variance_{when}", f"{when} the swap") for when in ("before", "after")]
    body = _figure("Who received (row) from whom (column), responses", charts.heat_map(names, names, flow, digits=0))
    body += _figure("Shares of a public step", charts.lines(shares, "step", "share", (0.0, 1.0)))
    spread = [_over_steps(public, f"public/variance_{when}", f"{when} the swap") for when in ("before", "after")]
    body += _figure("Groups without variance, which teach nothing", charts.lines(flat, "step", "share", (0.0, 1.0)))
    body += _figure("Variance of a group's rewards, mean over groups", charts.lines(spread, "step", "variance", (0.0, 0.26)))
    counts = [(row["at"], [x for x in row["swap/replacements"] if x is not None]) for row in public]
    replaced = _banded([pair for pair in counts if pair[1]], "mean over clients (band: from the least to the most)")
    body += _figure("Replacements of a client in a public step", charts.lines([replaced], "step", "responses"))
    return section("Swaps", f'<div class="two">{body}{_figure("How far the swap moved a gradient", theory(public))}</div>')


def theory(public) -> str:
    """M·β and the distance that it bounds, for measured groups with at least one replacement."""
    measured = [row for row in public if "swap/bound" in row]
    if not measured:
        return charts.note("M·β was not measured (config.log.distortion).")
    curves, used = [], []
    for name, told in (("bound", "M·β, the bound"), ("distance", "‖G(Ỹ) − G(Y)‖, the distance"), ("beta", "β")):
        found = [(row["at"], [x for x in row[f"swap/{name}"] if _drawable(x)]) for row in measured]
        curves.append(_banded([pair for pair in found if pair[1]], told))
    for row in measured:
        pairs = zip(row["swap/distance"], row["swap/bound"], strict=True)
        used += [distance / bound for distance, bound in pairs if _drawable(distance) and _drawable(bound)]
    told = (
        "Of each client one group, that with the most replacements M. G is the group's policy gradient in the adapter's "
        "parameters, before clipping and Adam, from its own responses Y and from those after the swap, Ỹ. β is the farthest "
        "that a single replacement moves it. The theory: the distance is at most M·β. Lines are means over clients, bands "
        "reach from the least to the most."
    )
    if used:
        told += f" The distance was {100 * min(used):.0f} to {100 * max(used):.0f} % of the bound in {len(used)} measurements."
    return charts.lines(curves, "step", "norm", decades=True) + charts.note(told)


def partition(run, evaluations) -> str:
    columns = ["public", *(str(i) for i in range(len(run["held"][0]) - 1))]
    body = _figure("Questions by topic: public, and of each client", charts.bubbles(run["topics"], columns, run["held"]))
    validated = [row for row in evaluations if row["split"] == "validation" and row["round"] > 0]
    if validated:
        last = max(row["round"] for row in validated)
        models = [row for row in validated if row["round"] == last]
        topics = list(models[0]["by_topic"])
        asked = run.get("topics_of", {}).get("validation", [])
        told = [f"{topic} ({asked.count(topic)})" if asked else topic for topic in topics]
        values = [[row["by_topic"][topic] for row in models] for topic in topics]
        names = [row["model"] for row in models]
        caption = f"Validation pass@1 by topic (number of questions), round {last}"
        body += _figure(caption, charts.heat_map(told, names, values, largest=1.0))
    return section("Topics and clients", f'<div class="two">{body}</div>')


def drifts(run, rounds) -> str:
    if not rounds:
        return section("Drift", charts.note("No round is finished yet."))
    x, last = [row["round"] for row in rounds], rounds[-1]
    clients = range(len(last["round/drift"]))
    names = [f"client {i}" for i in clients]
    norms = [Line(names[i], x, [row["round/drift"][i] for row in rounds]) for i in clients]
    residual = [Line("residual", x, [row["round/residual"] for row in rounds])]
    body = _figure("Distance from the round's start", charts.lines(norms, "round", "norm"))
    body += _figure("‖mean(BA) − mean(B)·mean(A)‖ / ‖mean(BA)‖", charts.lines(residual, "round", "relative error"))
    body += _figure(
        f"Cosine between the clients' moves, round {last['round']}",
        charts.heat_map(names, names, [row or [None] * len(names) for row in last["round/cosine"]], largest=1.0),
    )
    absent = [None] * len(run["modules"])
    norms_of = [norms or absent for norms in last["round/drift_by_module"]]
    moved = dict(zip(run["modules"], zip(*norms_of, strict=True), strict=True))  # name -> a norm a client
    layers, kinds = (sorted({name.split("/")[part] for name in moved}) for part in (0, 1))
    inside = {layer: [norms for name, norms in moved.items() if name.startswith(f"{layer}/")] for layer in layers}
    by_client = [
        [None if None in norms else math.hypot(*norms) for norms in zip(*inside[layer], strict=True)] for layer in layers
    ]
    by_kind = [[_mean(moved[f"{layer}/{kind}"]) for kind in kinds] for layer in layers]
    body += _figure(f"Distance by layer, round {last['round']}", charts.heat_map(layers, names, by_client))
    told = f"Distance by layer and module, mean over clients, round {last['round']}"
    figures = f'<div class="two">{body}{_figure(told, charts.heat_map(layers, kinds, by_kind))}</div>'
    return section("Drift", figures + "".join(charts.note(line) for line in exclusions(rounds)))


def exclusions(rounds) -> list[str]:
    """A sentence for each round whose average excluded a client."""
    found = {row["round"]: [str(i) for i, out in enumerate(row.get("round/excluded", [])) if out] for row in rounds}
    told = "Round {}: client {} was left out of the average, since its adapter was not finite."
    return [told.format(round, ", ".join(names)) for round, names in found.items() if names]


def traffic(run, rounds) -> str:
    accounts = [  # null in the file marks an absent client, which sends nothing
        {k.removeprefix("ledger/"): [n or 0 for n in v] for k, v in row.items() if k.startswith("ledger/")} for row in rounds
    ]
    total = ledger.totals(accounts, run["base_bytes"])
    kinds = sorted({name.split("/")[1] for name in total if "/" in name})
    lines = [[kind, *(bytes_text(total.get(f"{way}/{kind}", 0)) for way in ledger.DIRECTIONS)] for kind in kinds]
    other = [
        ["this protocol", bytes_text(total["sent"])],
        ["averaging whole models", bytes_text(total["full_model_averaging"])],
        ["sharing every public response", bytes_text(total["sharing_every_response"])],
    ]
    told = charts.note(
        "What the protocol sends, counted at the one gate through which it passes. Up is from a client to the server."
    )
    body = _figure("All rounds, all clients", table(["", *ledger.DIRECTIONS], lines)) + _figure(
        "Beside other protocols", table(["", "bytes"], other)
    )
    return section("Communication", f'<div class="two">{body}</div>{told}')


def times(steps, rounds) -> str:
    spent = {phase: [row.get(f"time/{phase}", 0.0) for row in rounds] for phase in PHASES}
    bars = (
        charts.stacked_bars([str(row["round"]) for row in rounds], spent, "seconds")
        if rounds
        else charts.note("No round is finished.")
    )
    first = {"public/tokens" in row: row["at"] for row in reversed(steps)}
    warm = [row for row in steps if row["at"] not in first.values()]
    speed = charts.lines([_over_steps(warm, "time/tokens_per_second", "tokens/s")], "step", "tokens/s")
    told = "Response tokens a second, of whole steps; without the first private and the first public step, which compile"
    body = _figure("Where a round's time went", bars) + _figure(told, speed)
    last = rounds[-1] if rounds else {}
    peaks = [f"{where}: {bytes_text(last[name])}" for where, name in _PEAKS if name in last]
    compiled = ", ".join(f"round {row['round']}: {row['time/compilations']}" for row in rounds)
    return section(
        "Time and memory",
        f'<div class="two">{body}</div>' + charts.note(f"Peak memory: {'; '.join(peaks)}. Programs compiled: {compiled}."),
    )


_PEAKS = (("host", "time/peak_host_bytes"), ("first device", "time/peak_device_bytes"))


def transcripts(rollouts) -> str:
    swapped = [row for row in rollouts if any("replaced_by" in response for response in row["responses"])]
    plain = [row for row in rollouts if row not in swapped[-TRANSCRIPTS:]]
    chosen = sorted(swapped[-TRANSCRIPTS // 2 :] + plain[-TRANSCRIPTS // 2 :], key=lambda row: (row["round"], row["step"]))
    parts = []
    for row in chosen:
        kind = "public" if row["public"] else "private"
        head = f"round {row['round'] + 1}, step {row['step'] + 1}, {kind}, client {row['client']}, "
        head += f"{row['topic']}: {row['question']}"
        lines = [
            [r["verdict"], r["text"], f"client {r['from_client']}: {r['replaced_by']}" if "replaced_by" in r else ""]
            for r in row["responses"]
        ]
        inner = table(["verdict", "response", "replaced by"], lines)
        answer = f"<p>answer: <b>{html.escape(row['answer'])}</b></p>"
        parts.append(f"<details><summary>{html.escape(head)}</summary>{answer}{inner}</details>")
    if not parts:
        return section("Transcripts", charts.note("none were written (config.log.transcripts)"))
    return section("Transcripts", charts.note(PRIVATE) + "".join(parts))


def settings(run) -> str:
    defaults = {field.name: field.default for field in FIELDS}
    changed = [
        [name, defaults.get(name), value] for name, value in run["config"].items() if value != _plain(defaults.get(name))
    ]
    body = table(["field", "default", "this run"], changed) if changed else charts.note("all defaults")
    body += table(
        ["", ""],
        [*run["versions"].items(), ["device", run["device"]], ["base", run["base"]], ["base SHA-256", run["base_sha256"]]],
    )
    return section(
        "Settings that differ from the default, and versions", body + "".join(charts.note(line) for line in run["notes"])
    )


def _over_steps(steps, name: str, told: str) -> Line:
    found = [(row["at"], journal.scalars(row)[name]) for row in steps if name in row]
    return Line(told, [x for x, _ in found], [y for _, y in found])


def _cell(matrix, i: int, j: int) -> float | None:
    """matrix[i][j], or None if row i is null, as an absent client's row is."""
    return None if matrix[i] is None else matrix[i][j]


def _total(values) -> float | None:
    """The sum of the values that are not None; None if there are none."""
    found = [x for x in values if x is not None]
    return sum(found) if found else None


def _mean(values) -> float | None:
    found = [x for x in values if x is not None]
    return mean(found) if found else None


def _drawable(x: float | None) -> bool:
    """Whether a logarithmic axis can show x. Absent clients (None), groups without a swap (0) and NaN cannot be shown."""
    return x is not None and 0 < x < math.inf


def _banded(found: Sequence[tuple[float, Sequence[float]]], told: str) -> Line:
    """A Line of the mean over clients, with a band from the least to the most. `found` has pairs (x, one value per client)."""
    means, least, most = ([kind(values) for _, values in found] for kind in (mean, min, max))
    return Line(told, [x for x, _ in found], means, least, most)


def _figure(caption: str, body: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{body}</figure>"


def _plain(value):
    return value.to_dict() if hasattr(value, "to_dict") else value
