"""Writes one self-contained report.html from a run's files: no server and no downloads. A section without data is left out."""

import html
import os
import pathlib
from collections.abc import Mapping, Sequence

from pubswap_jax.fields import FIELDS
from pubswap_jax.files import bytes_text
from pubswap_jax.report import charts
from pubswap_jax.report.asynchronous import asynchronous
from pubswap_jax.report.charts import Line
from pubswap_jax.report.drift import drift
from pubswap_jax.report.experts import experts
from pubswap_jax.report.headline import change_from_base, headline
from pubswap_jax.report.page import PAGE, figure, section, table
from pubswap_jax.report.series import numbered, over_steps
from pubswap_jax.report.swaps import swaps
from pubswap_jax.report.transcripts import transcripts
from pubswap_jax.run import doctor, journal, ledger
from pubswap_jax.run.earlier import described, shared_model

PHASES = ("rollout", "verify", "swap", "update", "distortion", "average", "evaluate", "save", "other")
PEAKS = (("host", "time/peak_host_bytes"), ("first device", "time/peak_device_bytes"))


def write(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes `report.html` into the folder of a finished or unfinished run and returns its path."""
    workdir = pathlib.Path(workdir)
    body = sections(described(workdir), *(journal.read(workdir, name) for name in ("metrics", "evaluations", "rollouts")))
    path = workdir / "report.html"
    staging = path.with_suffix(".tmp")
    staging.write_text(PAGE.format(title=html.escape(workdir.resolve().name), body="\n".join(body)), encoding="utf-8")
    os.replace(staging, path)
    return path


def sections(run: Mapping, rows: list[dict], evaluations: list[dict], rollouts: list[dict]) -> list[str]:
    """The sections of the report, from the contents of run.json and of the three journals."""
    steps, rounds = numbered(rows)
    found = [
        headline(run, evaluations),
        alarms(rows),
        learning(run, steps, rounds, evaluations),
        experts(steps, rounds) or swaps(steps),
        asynchronous(steps, rounds),
        partition(run, evaluations),
        drift(run, rounds),
        traffic(run, rounds),
        times(steps, rounds),
        transcripts(rollouts, {(row["round"], row["step"]): row["at"] for row in steps}),
        settings(run),
    ]
    return [section for section in found if section]


def alarms(rows: Sequence[dict]) -> str:
    """HTML of the report's section on what looks wrong: the lines that `pubswap doctor` prints."""
    lines = [[name, line] for name, line in doctor.raised(rows).items()]
    return section("What looks wrong", table(["alarm", "what to change"], lines)) if lines else ""


def learning(run: Mapping, steps: Sequence[Mapping], rounds: Sequence[Mapping], evaluations: Sequence[Mapping]) -> str:
    """HTML of the report's section on learning: training reward, validation pass@1, and its change from the base model."""
    phases = sorted(
        {name.removesuffix("/reward") for row in steps for name in row if name.endswith("/reward") and name != "reward/reward"}
    )
    reward = [over_steps(steps, f"{phase}/reward", phase) for phase in phases]
    curve = [row for row in evaluations if row["split"] == "validation" and row["model"] == "global"]
    x, figures = [row["round"] for row in curve], [row["figures"] for row in curve]
    bands = [[row[f"pass@1_{end}"] for row in figures] for end in ("low", "high")]
    shared = shared_model(run["config"])
    passes = [Line(shared, x, [row["pass@1"] for row in figures], *bands)] if curve else []
    own = [row for row in rounds if "clients/pass@1" in row]
    for client in range(len(own[0]["clients/pass@1"]) if own else 0):
        scores = [row["clients/pass@1"][client] for row in own]
        passes.append(Line(f"client {client}, own", [row["round"] for row in own], scores))
    body = figure("Reward in training", charts.lines(reward, "step", "reward", reward_range(reward))) if reward else ""
    body += figure("pass@1", charts.lines(passes, "round", "validation pass@1", (0.0, 1.0))) if passes else ""
    change = change_from_base(curve, shared)
    body += figure("Change of pass@1 from the base model", charts.lines([change], "round", "change")) if change.x else ""
    notes = (
        "Rounds and steps are counted from 1, and steps over the whole run; round 0 is the base model. Bands are 95 % "
        "bootstrap intervals over questions; that of the change is paired. Clients' own models are those before averaging."
    )
    return section("Learning", f'<div class="two">{body}</div>{charts.note(notes)}') if body else ""


def reward_range(curves: Sequence[Line]) -> tuple[float, float] | None:
    """The y-range of a chart of rewards: 0 to 1 if all lie in it, as a verifier's do; None lets the chart choose."""
    return (0.0, 1.0) if all(0 <= y <= 1 for curve in curves for y in curve.y) else None


def partition(run: Mapping, evaluations: Sequence[Mapping]) -> str:
    """HTML of the report's section on topics: each client's questions by topic, and the last validation pass@1 by topic."""
    topics, body = [topic or "(no topic)" for topic in run.get("topics", [])], ""
    if topics:
        columns = ["public", *(str(i) for i in range(len(run["held"][0]) - 1))]
        body = figure("Questions by topic: public, and of each client", charts.bubbles(topics, columns, run["held"]))
    validated = [row for row in evaluations if row["split"] == "validation" and row["round"] > 0]
    if validated:
        last = max(row["round"] for row in validated)
        models = [row for row in validated if row["round"] == last]
        names = list(models[0]["by_topic"])
        asked = run.get("topics_of", {}).get("validation", [])
        labels = [f"{name or '(no topic)'} ({asked.count(name)})" if asked else name for name in names]
        values = [[row["by_topic"].get(name) for row in models] for name in names]
        caption = f"Validation pass@1 by topic (number of questions), round {last}"
        body += figure(caption, charts.heat_map(labels, [row["model"] for row in models], values, largest=1.0))
    return section("Topics and clients", f'<div class="two">{body}</div>') if body else ""


def traffic(run: Mapping, rounds: Sequence[Mapping]) -> str:
    """HTML of the report's section on communication: bytes by kind and direction, and what other protocols would send."""
    accounts = [  # null in the file marks an absent client, which sends nothing
        {k.removeprefix("ledger/"): [n or 0 for n in v] for k, v in row.items() if k.startswith("ledger/")} for row in rounds
    ]
    if not any(accounts):
        return ""
    total = ledger.totals(accounts, run["base_bytes"])
    kinds = sorted({name.split("/")[1] for name in total if "/" in name})
    lines = [[kind, *(bytes_text(total.get(f"{way}/{kind}", 0)) for way in ledger.DIRECTIONS)] for kind in kinds]
    other = [
        ["this protocol", bytes_text(total["sent"])],
        ["averaging whole models", bytes_text(total["full_model_averaging"])],
        ["sharing every public response", bytes_text(total["sharing_every_response"])],
    ]
    if adapter := run.get("adapter_bytes", 0):
        trips = 2 * len(rounds) * run["config"]["federation.num_clients"]
        other.insert(1, ["averaging adapters in every round", bytes_text(trips * adapter)])
        if not total["full_model_averaging"]:  # no adapter crosses, in whose place a whole model could
            other[2:] = [["averaging whole models", bytes_text(trips * run["base_bytes"])]]
    body = figure("All rounds, all clients", table(["", *ledger.DIRECTIONS], lines))
    body += figure("Compared with other protocols", table(["", "bytes"], other))
    note = "What the protocol sends, counted at the one gate through which it passes. Up is from a client to the server."
    return section("Communication", f'<div class="two">{body}</div>{charts.note(note)}')


def times(steps: Sequence[Mapping], rounds: Sequence[Mapping]) -> str:
    """HTML of the report's section on time and memory: seconds by phase, tokens per second, peaks of memory."""
    spent = {phase: [row.get(f"time/{phase}", 0.0) for row in rounds] for phase in PHASES}
    bars = charts.stacked_bars([str(row["round"]) for row in rounds], spent, "seconds")
    if not steps:
        return ""
    speed = charts.lines([speeds(steps)], "step", "tokens/s")
    body = figure("Where a round's time went", bars if rounds else charts.note("No round is finished."))
    body += figure("Response tokens per second of whole steps, without steps that waited for a compilation", speed)
    last = rounds[-1] if rounds else {}
    peaks = [f"{where}: {bytes_text(last[name])}" for where, name in PEAKS if name in last]
    compiled = ", ".join(f"round {row['round']}: {row['time/compilations']}" for row in rounds)
    note = charts.note(f"Peak memory: {'; '.join(peaks)}. Programs compiled: {compiled}.") if rounds else ""
    return section("Time and memory", f'<div class="two">{body}</div>{note}')


def speeds(steps: Sequence[Mapping]) -> Line:
    """Tokens per second of the steps that waited for no compilation; a gap in the others.

    The rows of an earlier version do not say which steps waited: there, the first private and the first public one do.
    """
    first = {"public/tokens" in row: row["at"] for row in reversed(steps)}
    known = any("time/step_compile" in row for row in steps)
    waited = [bool(row.get("time/step_compile")) if known else row["at"] in first.values() for row in steps]
    found = [None if late else row.get("time/tokens_per_second") for row, late in zip(steps, waited, strict=True)]
    return Line("tokens/s", [row["at"] for row in steps], found)


def settings(run: Mapping) -> str:
    """HTML of the report's section on settings: fields that differ from their default, versions, device, notes of the start."""
    defaults = {field.name: field.default for field in FIELDS}
    changed = [
        [name, defaults.get(name), value] for name, value in run["config"].items() if value != _plain(defaults.get(name))
    ]
    body = table(["field", "default", "this run"], changed) if changed else charts.note("all defaults")
    origin = [["device", run["device"]], ["base", run["base"]], ["base SHA-256", run["base_sha256"]]]
    body += table(["", ""], [*run["versions"].items(), *origin])
    notes = "".join(charts.note(line) for line in run["notes"])
    return section("Settings that differ from the default, and versions", body + notes)


def _plain(value):
    """A config's value as run.json stores it: a dict for a ConfigDict."""
    return value.to_dict() if hasattr(value, "to_dict") else value
