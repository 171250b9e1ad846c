"""The report's first section: what a run came to on its test questions, or where it stands so far."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from pubswap_jax import charts
from pubswap_jax.evaluate import interval
from pubswap_jax.metrics import mean
from pubswap_jax.page import section, table


def headline(run: Mapping, evaluations: Sequence[Mapping]) -> str:
    tested = [row for row in evaluations if row["split"] == "test" and "greedy" not in row["model"]]
    base = [row for row in tested if row["round"] == 0]
    if not base:
        return section("Result", charts.note("The base model has not been evaluated yet."))
    chosen = best_round(evaluations)
    best = [row for row in tested if row["round"] == chosen]
    lines = [_line(topic, base, best) for topic in [*base[0]["by_topic"], None]]
    shape = (run["config"][f"federation.{name}"] for name in ("num_clients", "rounds", "steps", "swap", "swap_period"))
    told = "{} clients, {} rounds of {} steps, swap {}, period {}. ".format(*shape)
    if best:
        told += f"Best round by the validation questions: {chosen}. pass@1 on {run['questions']['test']} test questions: "
        told += "{} → {} (95 % interval {:.3f} to {:.3f}).".format(*lines[-1][1:3], *_interval(best))
    else:
        told += f"Best round so far by the validation questions: {chosen}; its test figures come at the end of the run."
    return section("Result", f"<p>{html.escape(told)}</p>" + table(["topic", "base", "best", "change"], lines))


def best_round(evaluations: Sequence[Mapping]) -> int:
    """The best so far by the validation questions, the earlier one where two are equal."""
    scores: dict[int, list[list[float]]] = {}
    for row in evaluations:
        if row["split"] == "validation":
            common = row["model"] == "global"
            scores.setdefault(row["round"], [[], []])[common].append(row["figures"]["pass@1"])
    return max(scores, key=lambda round: (mean(scores[round][1] or scores[round][0]), -round), default=0)


def _line(topic: str | None, base: Sequence[Mapping], best: Sequence[Mapping]) -> list[str]:
    """pass@1 in a topic, or in all: of the base, of the best round, and the change; blank where the best is not known."""

    def of(rows):
        return mean(row["figures"]["pass@1"] if topic is None else row["by_topic"][topic] for row in rows)

    found = [f"{of(best):.3f}", f"{of(best) - of(base):+.3f}"] if best else ["", ""]
    return ["all" if topic is None else topic, f"{of(base):.3f}", *found]


def _interval(rows: Sequence[Mapping]) -> tuple[float, float]:
    """Of the mean over models, a bootstrap over questions."""
    return interval(np.mean([[bits.count("1") / len(bits) for bits in row["correct"]] for row in rows], axis=0))
