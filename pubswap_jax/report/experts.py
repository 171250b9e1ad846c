"""The report's section on experts: how competent each client is, how often it is asked, and what it says (FedGRPO)."""

from collections.abc import Mapping, Sequence

from pubswap_jax.report import charts
from pubswap_jax.report.charts import Line
from pubswap_jax.report.page import figure, section

CURVES = {
    "experts_asked": "Share of all rewards that were asked of a client",
    "experts_reward": "Mean reward that a client gave",
    "experts_given": "Share of the rewards asked of a client that it gave",
}


def experts(steps: Sequence[Mapping], rounds: Sequence[Mapping]) -> str:
    """The section, from the rows of steps and of finished rounds; empty where no client was ever asked as an expert."""
    asked = [row for row in rounds if any(row.get("round/experts_asked", ()))]
    if not asked:
        return ""
    clients = range(len(asked[0]["round/experts_asked"]))
    names, x = [f"client {i}" for i in clients], [row["round"] for row in asked]
    body = competence([row for row in steps if "auxiliary/known" in row], names)
    for name, caption in CURVES.items():
        lines = [Line(label, x, [row[f"round/{name}"][i] for row in asked]) for i, label in enumerate(names)]
        body += figure(caption, charts.lines(lines, "round", "share", (0.0, 1.0)))
    note = "Experts of a question are the clients that are best at the auxiliary questions most like it. Topics are not used."
    return section("Experts", f'<div class="two">{body}</div>{charts.note(note)}')


def competence(surveys: Sequence[Mapping], names: Sequence[str]) -> str:
    """The figure of the newest survey: what each client knows of each topic."""
    if not surveys:
        return ""
    known = surveys[-1]["auxiliary/known"]
    topics = [f"{topic or '(no topic)'} ({count})" for topic, count in known["questions"].items()]
    shares = charts.heat_map(topics, names, list(known["right"].values()), largest=1.0)
    when = f"round {surveys[-1]['round'] + 1}"
    return figure(f"Competence: share of the auxiliary questions answered right, by topic (their number), {when}", shares)
