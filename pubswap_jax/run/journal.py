"""Logs of a run: files of JSON rows without duplicates or holes after a kill, timings, TensorBoard and Weights & Biases.

A row is flat: `round`, `step`, and names `phase/quantity` with a number or a list of one number per client.

- In a step's row, `round` and `step` count from 0.
- A row without `step` describes a finished round; its `round` is the number of finished rounds.
- Printed lines count from 1.
- Names that begin with `time/` are timings. All other values of a resumed run equal those of an uninterrupted run bit by bit.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Sink(NamedTuple):
    """A destination for scalars beside the files: `write(global step, scalars)`; `close` flushes what is buffered."""

    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


class Journal:
    """Appends rows to `NAME.jsonl` files in a folder. A checkpoint stores `position()`; resuming truncates the files to it."""

    def __init__(self, workdir: str | os.PathLike, names: Sequence[str], position: Mapping[str, int] | None = None):
        self._paths = {name: pathlib.Path(workdir) / f"{name}.jsonl" for name in names}
        self._files = {}
        for name, path in self._paths.items():
            wanted = (position or {}).get(name, 0)
            have = path.stat().st_size if path.exists() else 0
            if have < wanted:
                raise ValueError(f"{path}: {wanted} bytes expected by the checkpoint, {have} found; put the whole file back")
            self._files[name] = path.open("ab")
            self._files[name].truncate(wanted)
            self._files[name].seek(wanted)

    def write(self, name: str, row: Mapping[str, object]) -> None:
        self._files[name].write(json.dumps(row).encode() + b"\n")
        self._files[name].flush()  # a reader sees the row now; it is durable after `position`

    def told(self) -> dict[str, int]:
        """How many bytes were written to each file, including bytes that are not on disk yet."""
        return {name: file.tell() for name, file in self._files.items()}

    def position(self) -> dict[str, int]:
        """Syncs all files to disk and returns how many bytes were written to each; a checkpoint stores this."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return self.told()

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class Nowhere:
    """A journal that writes nothing. Every process of a run but the first one has it."""

    def write(self, name: str, row: Mapping[str, object]) -> None:
        pass

    def told(self) -> dict[str, int]:
        return {}

    position = told

    def close(self) -> None:
        pass


def read(workdir: str | os.PathLike, name: str) -> list[dict]:
    """The rows of NAME.jsonl in a run's folder. A last row that a kill cut short is left out."""
    path = pathlib.Path(workdir) / f"{name}.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def row(round: int, step: int | None, phase: str, values: Mapping[str, object], present: np.ndarray | None = None) -> dict:
    """Makes a journal row of numpy values, scalars or [C], under `phase/name`. Entries of absent clients become null."""
    where = {"round": round} if step is None else {"round": round, "step": step}
    return where | {f"{phase}/{name}": _plain(value, present) for name, value in values.items()}


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def scalars(row: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a row. A list becomes its mean over the clients that took part."""
    found = {}
    for name, value in row.items():
        numbers = [x for x in value if x is not None] if isinstance(value, list) else [value]
        if "/" in name and numbers and all(isinstance(x, int | float) for x in numbers):
            found[name] = mean(numbers)
    return found


def _plain(value, present):
    value = np.asarray(value).tolist()
    if isinstance(value, list) and present is not None:
        return [x if there else None for x, there in zip(value, present, strict=True)]
    return value


# --- sinks --------------------------------------------------------------------------------------------------------------


def tensorboard(folder: str | os.PathLike, first_step: int) -> Sink:
    """Writes scalars for TensorBoard. Purges steps from `first_step` on, which an earlier start may have written."""
    writer = _package("tensorboardX", "log.tensorboard", "tensorboard").SummaryWriter(
        str(folder), purge_step=first_step, flush_secs=10
    )

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Sink(write, writer.close)


def wandb(project: str, workdir: str | os.PathLike, config: Mapping[str, object]) -> Sink:
    """Writes scalars to Weights & Biases. The run is named after its folder; a later start resumes the same run."""
    name = pathlib.Path(workdir).name
    run = _package("wandb", "log.wandb", "wandb").init(
        project=project, name=name, id=name, resume="allow", dir=str(workdir), config=dict(config)
    )
    return Sink(lambda step, values: run.log(dict(values), step=step), run.finish)


def has_tensorboard() -> bool:
    return importlib.util.find_spec("tensorboardX") is not None


def _package(module: str, field: str, extra: str):
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"config.{field} needs {module}: pip install 'pubswap_jax[{extra}]', or switch it off") from None


# --- timing -------------------------------------------------------------------------------------------------------------


class Clock:
    """Measures the seconds spent in each phase; phases may not overlap."""

    def __init__(self):
        self.phase = ""  # the phase that runs now
        self.seconds: dict[str, float] = {}
        self._split: dict[str, float] = {}
        self._started = time.perf_counter()

    def timed(self, phase: str, function: Callable, wait: Callable = lambda result: result) -> Callable:
        """A function that does the same and adds its time to `phase`. `wait` blocks until the result is ready."""

        def run(*args):
            started, self.phase = time.perf_counter(), phase
            try:
                return wait(function(*args))
            finally:
                self.phase = ""
                self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

        return run

    def split(self) -> dict[str, float]:
        """Seconds of each phase since the last split or lap."""
        spent = {phase: seconds - self._split.get(phase, 0.0) for phase, seconds in self.seconds.items()}
        self._split = dict(self.seconds)
        return {phase: seconds for phase, seconds in spent.items() if seconds}

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap: of each phase, of `other` (outside all phases), and `total`. Begins a new lap."""
        now = time.perf_counter()
        seconds, total = self.seconds, now - self._started
        self.seconds, self._split, self._started = {}, {}, now
        return seconds | {"other": total - sum(seconds.values()), "total": total}
