"""The report's first section: a run's test result, or its progress if it has not finished."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from pubswap_jax.questions.problem import Problem
from pubswap_jax.report import charts
from pubswap_jax.report.charts import Line
from pubswap_jax.report.page import section, table
from pubswap_jax.run.journal import mean
from pubswap_jax.run.pass_at_k import Evaluation, comparison, interval, pass_at_k_each


def headline(run: Mapping, evaluations: Sequence[Mapping]) -> str:
    """HTML of the report's first section: base model beside best round on the test questions, or what is known so far."""
    tested = [row for row in evaluations if row["split"] == "test" and "greedy" not in row["model"]]
    base = [row for row in tested if row["round"] == 0]
    if not base:
        return section("Result", charts.note("The base model has not been evaluated yet."))
    chosen = best_round(evaluations)
    best = [row for row in tested if row["round"] == chosen]
    topics = run.get("topics_of", {}).get("test") or [None] * len(base[0]["correct"])  # an earlier version recorded no topics
    text = f"{shape(run['config'])}. "
    if best:
        lines = [_line(*row) for row in comparison(_read(base[0], topics), [_read(row, topics) for row in best])]
        if None in topics:
            lines = lines[-1:]
        _, count, before, after, change = lines[-1]
        text += f"Best round by the validation questions: {chosen}. pass@1 on {count} test questions: "
        text += f"{before} → {after}, change {change} (95 % interval)."
    else:
        lines = [[topic, topics.count(topic) or "", f"{value:.3f}", "", ""] for topic, value in base[0]["by_topic"].items()]
        lines.append(["all", len(topics), f"{base[0]['figures']['pass@1']:.3f}", "", ""])
        text += f"Best round so far by the validation questions: {chosen}; its test figures come at the end of the run."
    head = ["topic", "questions", "base", "best", "change [95 % interval]"]
    return section("Result", f"<p>{html.escape(text)}</p>" + table(head, lines))


def shape(config: Mapping) -> str:
    """One sentence on what kind of run this is: clients, rounds, steps, and how the clients federate."""
    clients, rounds, steps, swap, period = (
        config[f"federation.{name}"] for name in ("num_clients", "rounds", "steps", "swap", "swap_period")
    )
    method = config.get("federation.method", "pubswap")
    swaps = f"swap {swap}, period {period}" if period else "no public steps"
    alone = "" if config.get("federation.average", True) else ", never averaged"
    return f"{clients} clients, {rounds} rounds of {steps} steps, {swaps if method == 'pubswap' else method}{alone}"


def change_from_base(curve: Sequence[Mapping], name: str) -> Line:
    """The change of validation pass@1 from round 0 to each later one, with its paired 95 % interval.

    `curve`: rows of one model, called `name`, on the same questions, one a round.
    """
    each = {row["round"]: pass_at_k_each(_read(row, [None] * len(row["correct"])).correct, 1) for row in curve}
    if 0 not in each:
        return Line("change", [], [])
    changes = {round: right - each[0] for round, right in each.items() if round}
    ends = [interval(change, lowest=-1.0) for change in changes.values()]
    means = [float(change.mean()) for change in changes.values()]
    return Line(name, list(changes), means, [low for low, _ in ends], [high for _, high in ends])


def best_round(evaluations: Sequence[Mapping]) -> int:
    """The round with the highest validation pass@1 so far; the earlier round of a tie."""
    scores: dict[int, list[list[float]]] = {}
    for row in evaluations:
        if row["split"] == "validation":
            common = row["model"] == "global"
            scores.setdefault(row["round"], [[], []])[common].append(row["figures"]["pass@1"])
    return max(scores, key=lambda round: (mean(scores[round][1] or scores[round][0]), -round), default=0)


def _line(topic: str, count: int, before: float, after: float, low: float, high: float) -> list:
    """A row of the table of test results, with the numbers formatted as in the terminal's table."""
    return [topic, count, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f} [{low:+.3f}, {high:+.3f}]"]


def _read(row: Mapping, topics: Sequence[str | None]) -> Evaluation:
    """Rebuilds an Evaluation from a row of evaluations.jsonl, which has only correctness bits, and its questions' topics."""
    correct = np.array([[bit == "1" for bit in bits] for bits in row["correct"]], bool)
    problems = [Problem("", "", "", topic or "") for topic in topics]
    return Evaluation(problems, correct, np.full(correct.shape, "", object), np.zeros(correct.shape, int))
