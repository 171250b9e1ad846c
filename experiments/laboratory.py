"""The laboratory of the experiments: trains configs by the product's own loop, and returns one row of figures a round."""

import contextlib
import io
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pubswap_jax import loop, settings
from pubswap_jax.run import journal
from pubswap_jax.run.assembly import Log, Run, assemble
from pubswap_jax.types import Federation, PyTree

KEPT = ("reward", "swapped", "rescued", "zero_variance_before", "zero_variance_after", "grad_norm")
Watch = Callable[[int, PyTree], None]


def config_of(spec: str, seed: int, changes: Mapping[str, Any]) -> ConfigDict:
    """A config file's preset with a seed and changed fields. A value's text '{seed}' becomes the seed."""
    config = settings.load(spec)
    for name, value in {"seed": seed, **changes}.items():
        settings.override(config, name, str(value).replace("{seed}", str(seed)))
    settings.check(config)
    return config


def train(
    configs: Sequence[ConfigDict],
    say: Callable[[str], None] = print,
    watch: Watch = lambda round, server: None,
    alter: Callable[[Run], Run] = lambda run: run,
) -> list[list[dict]]:
    """Trains one config after the other to its last round. For each config: a row for the base model and one for each round.

    `say` receives the lines that the loop prints. `watch` sees the server's state before every round. `alter` changes an
    assembled run, for example its questions.
    """
    return [_train(alter(assemble(config)), say, watch) for config in configs]


def _train(run: Run, say: Callable[[str], None], watch: Watch) -> list[dict]:
    spent: list[dict[str, float]] = []
    # Transcripts, M·β and sinks are no part of the method, so they shall cost no time.
    run = run._replace(federation=_timed(run.federation, spent, watch), measure=None, log=Log(0, "off", "off", ""))
    with tempfile.TemporaryDirectory(prefix="pubswap") as folder, contextlib.redirect_stdout(Lines(say)):
        workdir = pathlib.Path(folder)
        loop.train(run, workdir)
        rows = journal.read(workdir, "metrics")
    base, *ended = (row for row in rows if "step" not in row)
    history = [{"round": 0, "global": base["eval/pass@1"]}]
    for row, cost in zip(ended, spent, strict=True):
        steps = [one for one in rows if "step" in one and one["round"] == row["round"] - 1]
        history.append(_figures(row, steps) | cost)
    return history


def _figures(row: dict, steps: Sequence[dict]) -> dict[str, float]:
    """One round's figures, from the row of its end and the rows of its steps. Figures of clients are means over those present.

    A round without an evaluation has no `global`, and `clients` needs evaluation.clients. Asynchronous clients' rounds have the
    simulated time of their end, the staleness of their uploads, and the β of their distillations.
    """
    ended, found = journal.scalars(row), {"round": row["round"]}
    for name, key in (("global", "eval/pass@1"), ("clients", "clients/pass@1")):
        found |= {name: ended[key]} if key in ended else {}
    beta = [value for step in steps for value in step.get("public/beta", ()) if value is not None]
    # A measurement of competence trains nothing, and a distillation has no rewards.
    steps = [step for step in steps if "auxiliary/reward" not in step and "public/beta" not in step]
    phases = [("public" if "public/reward" in step else "private", journal.scalars(step)) for step in steps]
    if phases:
        found |= {name: float(np.mean([values[f"{phase}/{name}"] for phase, values in phases])) for name in KEPT}
    found |= {"drift": ended["round/drift"], "cosine": _off_diagonal(row["round/cosine"]), "residual": row["round/residual"]}
    if "simulated/time" in ended:
        found |= {"time": ended["simulated/time"], "staleness": row["uploads/staleness"], "beta": beta}
    return found | {"bytes": sum(sum(sizes) for name, sizes in row.items() if _of_the_method(name))}


def _of_the_method(name: str) -> bool:
    return name.startswith("ledger/") and not name.endswith(("/counters", "/transcripts"))


def _off_diagonal(cosines: Sequence[Sequence[float | None]]) -> float:
    """The mean over pairs of clients that were both present; 1 where there is no pair."""
    pairs = [x for i, row in enumerate(cosines) for j, x in enumerate(row) if i != j and x is not None]
    return float(np.mean(pairs)) if pairs else 1.0


def _timed(federation: Federation, spent: list[dict[str, float]], watch: Watch) -> Federation:
    """The same federation. Every `open` calls `watch`, and the `close` that ends a round appends its seconds to `spent`.

    Asynchronous clients open and close several times a round, which begins with the first `open`.
    """
    begun = {}

    def open(state, channel, who=None):
        if _real(state):
            watch(int(state.round), state.server)
            if not begun:
                begun.update(round=int(state.round), seconds=time.perf_counter(), cpu_seconds=time.process_time())
        return federation.open(state, channel, who)

    def close(state, channel, weights=None):
        closed = federation.close(state, channel, weights)
        if _real(state):
            jax.block_until_ready(closed)
            if int(closed[0].round) > begun["round"]:  # beside the state, `close` returns metrics
                now = {"seconds": time.perf_counter(), "cpu_seconds": time.process_time()}
                spent.append({name: now[name] - begun[name] for name in now})
                begun.clear()
        return closed

    return federation._replace(open=open, close=close)


def _real(state: PyTree) -> bool:
    """False for a state of shapes, with which the loop compiles the programs."""
    return not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))


class Lines(io.TextIOBase):
    """A text stream that gives every line to `say`, which may print."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._stdout, self._rest = say, sys.stdout, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        with contextlib.redirect_stdout(self._stdout):
            for line in lines:
                self._say(line)
        return len(text)
