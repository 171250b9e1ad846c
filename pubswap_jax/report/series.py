"""Curves and sums from the rows of a metrics file, in which None stands for an absent client."""

import math
from collections.abc import Iterable, Mapping, Sequence

from pubswap_jax.report.charts import Line
from pubswap_jax.run import journal
from pubswap_jax.run.journal import mean


def numbered(rows: Iterable[dict]) -> tuple[list[dict], list[dict]]:
    """Divides rows into those of steps and those of finished rounds. `at` numbers the steps from 1 over the whole run."""
    rows = list(rows)
    steps = [row for row in rows if "step" in row]
    steps = [row | {"at": number} for number, row in enumerate(steps, 1)]
    return steps, [row for row in rows if "step" not in row and row["round"]]


def over_steps(steps: Iterable[Mapping], name: str, label: str) -> Line:
    """A metric's mean over clients, in the steps that have the metric. A step's x is its field `at`."""
    found = [(row["at"], journal.scalars(row)[name]) for row in steps if name in row]
    return Line(label, [x for x, _ in found], [y for _, y in found])


def banded(found: Sequence[tuple[float, Sequence[float]]], label: str) -> Line:
    """The mean over clients, with a band from the least to the most. `found` has pairs (x, one value per client)."""
    means, least, most = ([kind(values) for _, values in found] for kind in (mean, min, max))
    return Line(label, [x for x, _ in found], means, least, most)


def cell(matrix: Sequence[Sequence[float] | None], i: int, j: int) -> float | None:
    """matrix[i][j] of a matrix over clients; None if row i is null, which is an absent client's row."""
    return None if matrix[i] is None else matrix[i][j]


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the values that are not None; None if there are none."""
    found = [x for x in values if x is not None]
    return sum(found) if found else None


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not None; None if there are none."""
    found = [x for x in values if x is not None]
    return mean(found) if found else None


def drawable(x: float | None) -> bool:
    """Whether a logarithmic axis can show x. Absent clients (None), groups without a swap (0) and NaN cannot be shown."""
    return x is not None and 0 < x < math.inf
