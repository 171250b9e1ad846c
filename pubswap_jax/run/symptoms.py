"""Reads single numbers from the rows of a run's metrics, for the alarms of doctor.py."""

import math
from collections.abc import Iterable, Sequence

from pubswap_jax.run import journal
from pubswap_jax.run.journal import mean

Rows = Sequence[dict]

WINDOW = 20  # newest steps that an alarm looks at: 20 steps of 8 questions and 4 clients are 640 groups
FEWEST = 10  # steps before an alarm says anything: with fewer, one unlucky batch decides
READ = ("reward", "correct", "entropy", "truncated", "zero_variance", "timeout")  # quantities of a step
# Values that are no number a client, or whose clients are looked at one by one.
WHOLE = ("public/donors", "round/excluded", "round/drift_by_module", "round/experts_asked", "round/alarms", "simulated/time")


def needed(row: dict) -> dict:
    """Shortens a row to the values that alarms read; values of all clients become their mean over those present."""
    kept = {name: row[name] for name in ("round", "step", *WHOLE) if name in row}
    means = journal.scalars(row).items()
    return kept | {name: x for name, x in means if name.split("/")[1] in READ or name.startswith("eval/pass@1")}


def timeouts(transcripts: Rows) -> list[dict]:
    """Rows of metrics made from transcripts: in each, the share of answers on which the verifier timed out."""
    rows = []
    for one in transcripts:
        late = [response["verdict"] == "timeout" for response in one["responses"]]
        phase = "public" if one["public"] else "private"
        rows.append({"round": one["round"], "step": one["step"], f"{phase}/timeout": mean(late)})
    return rows


def steps_of(rows: Rows) -> list[dict]:
    return [row for row in rows if "step" in row]


def step_means(rows: Rows, quantity: str, phases: Sequence[str] = ("private", "public")) -> list[float]:
    """The course of a metric over a run: for each step that has it, its mean over the clients that took part."""
    steps = [journal.scalars(row) for row in steps_of(rows)]
    return [step[f"{phase}/{quantity}"] for step in steps for phase in phases if f"{phase}/{quantity}" in step]


def recent(rows: Rows, quantity: str) -> list[float]:
    """The newest WINDOW values of a quantity; none if there are fewer than FEWEST."""
    found: list[float] = []
    for row in reversed(rows):  # from the end, since a long run asks this once a round
        if len(found) < WINDOW:
            found = step_means([row], quantity) + found
    return found if len(found) >= FEWEST else []


def draws_again(rows: Rows) -> bool:
    """Whether a run like this one may draw questions again: it has private steps, and is not FedGRPO nor asynchronous."""
    other = any("round/experts_asked" in row or "simulated/time" in row for row in rows)
    return not other and bool(step_means(rows, "reward", ("private",)))


def own_phase(rows: Rows) -> tuple[str]:
    """The phase whose rewards alarms read: private steps where there are any, since the swap raises those of public steps."""
    return ("private",) if step_means(rows, "reward", ("private",)) else ("public",)


def of_round(rows: Rows, round: int) -> list[float]:
    return step_means([row for row in rows if row["round"] == round], "reward", own_phase(rows))


def solved(rows: Rows) -> float:
    """The share of right responses in the newest steps, or in the newest evaluation if that is larger.

    Training may underrate a policy: FedGRPO's experts reject right responses to questions that they cannot answer.
    """
    evaluated = [row["eval/pass@1"] for row in rows if "eval/pass@1" in row]
    return max([mean(recent(rows, "correct") or [0.0]), *evaluated[-1:]])


def middle(clients: Iterable[Sequence[float] | None]) -> float:
    """A typical value of a metric by client and module, [C][L]: the median over modules, averaged over present clients."""
    medians = [sorted(modules)[len(modules) // 2] for modules in clients if modules and None not in modules]
    return mean(medians) if medians else math.inf
