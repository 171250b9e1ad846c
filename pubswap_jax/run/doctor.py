"""Alarms: find what looks wrong in a run from its metrics. Each is one line that names the field to change.

An alarm is a pure function rows -> line or None. The rows are a run's metrics, as `journal.read(workdir, "metrics")` has them.
`python -m pubswap_jax.run.doctor` prints the table in docs/doctor.md.
"""

import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from pubswap_jax.run import earlier, journal
from pubswap_jax.run.journal import mean
from pubswap_jax.run.symptoms import (
    FEWEST,
    WINDOW,
    Rows,
    draws_again,
    middle,
    of_round,
    own_phase,
    recent,
    solved,
    step_means,
    steps_of,
    timeouts,
)

SOLVED = 0.8  # share of right responses above which flat groups and low entropy mean success
FLAT = 0.8  # share of groups without a gradient: the rest, a fifth of the rollouts, pays for the whole
TRUNCATED = 0.3  # share of responses cut off, which are judged wrong whatever they would have said
STILL = 0.005  # norm of a module's change over all rounds; LoRA's A begins with norm sqrt(r / 3): 0.8 at rank 2, 4.6 at rank 64
DROP = 0.03  # fall of pass@1 where no interval is known: the half-width of 95 % for 1000 samples of 0.5
RISE = 0.02  # rise of the training reward beside it, as large as the noise of a window's mean
COLLAPSED = 0.1  # share of the first steps' entropy: from there samples of a question hardly differ
TIMEOUTS = 0.02  # share of answers without a verdict; sound answers take milliseconds, so more is a setting, not chance
FEWEST_DONATIONS = 50  # below, one round's luck looks like dominance
DOMINATES = 3.0  # times the equal share of donations
FALLEN = 0.6  # share of the best window's reward


def flat_groups(rows: Rows) -> str | None:
    flat, right = recent(rows, "zero_variance"), recent(rows, "correct")
    if flat and right and mean(flat) > FLAT and solved(rows) < SOLVED:
        return (
            f"{mean(flat):.0%} of the groups are all right or all wrong, and give no gradient: raise training.temperature or "
            f"training.group, set training.zero_variance={'resample' if draws_again(rows) else 'exclude'}, or give questions "
            f"of another difficulty (data.path)"
        )
    return None


def truncated(rows: Rows) -> str | None:
    cut = recent(rows, "truncated")
    if cut and mean(cut) > TRUNCATED:
        return f"{mean(cut):.0%} of the responses are cut off at the length limit: raise training.max_new_tokens"
    return None


def still_adapter(rows: Rows) -> str | None:
    learnt = [row for row in rows if any(row.get("round/experts_asked", [1]))]  # in the other rounds FedGRPO's policy rests
    moved = [middle(clients) for row in learnt if (clients := row.get("round/drift_by_module"))]
    if moved and len(steps_of(rows)) >= FEWEST and sum(moved) < STILL:
        return (
            f"the adapter hardly moves, by {sum(moved):.1e} a module in {len(moved)} rounds: raise training.lr, or "
            f"training.temperature if the responses to a question are all alike (grad_norm is 0)"
        )
    return None


def reward_without_validation(rows: Rows) -> str | None:
    seen = [row for row in rows if "step" not in row and "eval/pass@1" in row]
    if len(seen) < 2:
        return None
    last, best = seen[-1], max(seen[:-1], key=lambda row: row["eval/pass@1"])
    fell = last.get("eval/pass@1_high", last["eval/pass@1"] + DROP) < best["eval/pass@1"]
    rewards = [of_round(rows, max(row["round"], 1) - 1) for row in (best, last)]
    if fell and all(rewards) and mean(rewards[1]) > mean(rewards[0]) + RISE:
        return (
            f"the training reward rises ({mean(rewards[0]):.2f} to {mean(rewards[1]):.2f}) while validation pass@1 falls "
            f"({best['eval/pass@1']:.3f} to {last['eval/pass@1']:.3f}): lower federation.rounds or training.lr, or give more "
            f"questions (data.max_questions); the best round is kept"
        )
    return None


def entropy_collapse(rows: Rows) -> str | None:
    now, right = recent(rows, "entropy"), recent(rows, "correct")
    first = step_means(rows, "entropy")[:FEWEST]
    if now and right and mean(now) < COLLAPSED * mean(first) and solved(rows) < SOLVED:
        return (
            f"the entropy fell from {mean(first):.3f} to {mean(now):.3f}, with {mean(right):.0%} right: lower training.lr, "
            f"or raise training.clip_high or training.kl_coef"
        )
    return None


def unsolved_public_set(rows: Rows) -> str | None:
    public, private = step_means(rows, "correct", ("public",)), step_means(rows, "correct", ("private",))
    if len(public) >= FEWEST // 2 and max(public) == 0 and any(private):
        return (
            f"no response of {len(public)} public steps was right, so nothing is swapped: give other public questions "
            f"(data.public_path), or set federation.swap_period=0"
        )
    return None


def nothing_right(rows: Rows) -> str | None:
    right = recent(rows, "correct")
    if right and max(right) == 0:
        return (
            f"not one response of the last {len(right)} steps was right; compare answers in rollouts.jsonl with "
            f"data.fields.answer, data.fields.final and model.instruction"
        )
    return None


def verifier_timeouts(rows: Rows) -> str | None:
    late = recent(rows, "timeout")
    if late and mean(late) > TIMEOUTS:
        return f"{mean(late):.0%} of the answers ran out of the verifier's time: raise verifier.timeout"
    return None


def dominant_donor(rows: Rows) -> str | None:
    taken = [row["public/donors"] for row in steps_of(rows) if row.get("public/donors")][-WINDOW:]
    given = [sum(numbers) for numbers in zip(*(row for table in taken for row in table if row), strict=True)]  # by donor
    limit = min(0.9, max(0.5, DOMINATES / max(len(given), 1)))
    if len(given) > 2 and sum(given) >= FEWEST_DONATIONS and max(given) > limit * sum(given):
        return (
            f"client {given.index(max(given))} gave {max(given) / sum(given):.0%} of the swapped responses: spread its topics "
            f"(data.partition, data.alpha), or set federation.swap=rescue to swap less"
        )
    return None


def falling_reward(rows: Rows) -> str | None:
    reward = step_means(rows, "reward", own_phase(rows))
    windows = [mean(reward[end - FEWEST : end]) for end in range(FEWEST, len(reward) + 1)]
    if windows and windows[-1] < FALLEN * max(windows):
        return f"the training reward fell from {max(windows):.2f} to {windows[-1]:.2f}: lower training.lr or training.clip_norm"
    return None


def excluded_clients(rows: Rows) -> str | None:
    lost = sum(out or 0 for row in rows for out in row.get("round/excluded") or [])
    if lost:
        return f"{lost} times a client's adapter was not finite, and left out: lower training.lr or training.clip_norm"
    return None


class Alarm(NamedTuple):
    check: Callable[[Rows], str | None]
    when: str
    fields: str  # joined by spaces; each occurs in the line


ALARMS = (  # causes before their symptoms
    Alarm(nothing_right, "no response was right", "data.fields model.instruction"),
    Alarm(
        falling_reward,
        f"the mean reward of {FEWEST} steps is below {FALLEN:.0%} of the best {FEWEST} steps'",
        "training.lr training.clip_norm",
    ),
    Alarm(excluded_clients, "a client's adapter was not finite", "training.lr training.clip_norm"),
    Alarm(
        still_adapter,
        f"over all rounds, half of the modules changed by less than {STILL} in norm",
        "training.lr training.temperature",
    ),
    Alarm(
        flat_groups,
        f"more than {FLAT:.0%} of the groups have equal rewards, and fewer than {SOLVED:.0%} of the responses are right "
        f"in training and in the newest evaluation",
        "training.temperature training.group training.zero_variance data.path",
    ),
    Alarm(truncated, f"more than {TRUNCATED:.0%} of the responses are cut off", "training.max_new_tokens"),
    Alarm(
        entropy_collapse,
        f"the entropy is below {COLLAPSED:.0%} of the first steps', and fewer than {SOLVED:.0%} of the responses are right "
        f"in training and in the newest evaluation",
        "training.lr training.clip_high training.kl_coef",
    ),
    Alarm(
        reward_without_validation,
        f"the training reward is up by more than {RISE} since the best evaluation, and pass@1 is down by more than its "
        f"95 % interval (or {DROP})",
        "federation.rounds training.lr data.max_questions",
    ),
    Alarm(
        unsolved_public_set,
        f"no response of at least {FEWEST // 2} public steps was right, and some private ones were",
        "data.public_path federation.swap_period",
    ),
    Alarm(
        dominant_donor,
        f"one client gave more than {DOMINATES:.0f} times the equal share of at least {FEWEST_DONATIONS} swapped responses, "
        f"and more than half of them",
        "data.partition data.alpha federation.swap",
    ),
    Alarm(verifier_timeouts, f"more than {TIMEOUTS:.0%} of the answers ran out of time", "verifier.timeout"),
)


def alarms(rows: Rows) -> list[str]:
    """Runs every alarm on these rows: one line for each that finds something wrong, which begins with the alarm's name."""
    return [f"{name}: {line}" for name, line in raised(rows).items()]


def raised(rows: Rows) -> dict[str, str]:
    """Runs every alarm on these rows: {name of the alarm: its line}, of those alarms that find something wrong."""
    found = {alarm.check.__name__.replace("_", " "): alarm.check(rows) for alarm in ALARMS}
    return {name: line for name, line in found.items() if line}


def examine(workdir: str | os.PathLike) -> list[str]:
    """The alarms of the run in a folder. Where the metrics lack the verifier's timeouts, the transcripts' are counted."""
    earlier.described(pathlib.Path(workdir))  # raises if the folder holds no run
    rows = journal.read(workdir, "metrics")
    return alarms(rows if step_means(rows, "timeout") else [*rows, *timeouts(journal.read(workdir, "rollouts"))])


def table() -> str:
    """The table of alarms in Markdown, for docs/doctor.md."""
    lines = ["| alarm | raised when | fields to change |", "|---|---|---|"]
    for alarm in ALARMS:
        fields = ", ".join(f"`{name}`" for name in alarm.fields.split())
        lines.append(f"| {alarm.check.__name__.replace('_', ' ')} | {alarm.when} | {fields} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
