"""The run's one writer: rows of JSON that survive a kill without duplicates or holes, a progress bar, TensorBoard and W&B.

A row is flat: `round`, `step` where it speaks of one, and names `phase/quantity` with a number, or a list with one number a
client. In a step's row both are counted from 0; a row without `step` speaks of a finished round, and its `round` is how many
are done. What people read counts from 1. Names that begin with `time/` are clocks: the rest of a resumed run's rows is equal
to the bit.
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
import tqdm


class Sink(NamedTuple):
    """Another place for the numbers: `write(global step, scalars)`; `close` sends what is still on its way."""

    write: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


class Journal:
    """Appends rows to `NAME.jsonl` files of a folder. A checkpoint stores `position()`; resuming cuts the files back to it."""

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

    def told(self) -> dict[str, int]:
        """Bytes of each file, whether or not they are on the disk."""
        return {name: file.tell() for name, file in self._files.items()}

    def position(self) -> dict[str, int]:
        """The same, once they are."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return self.told()

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class Nowhere:
    """The journal of a process that is not the first: it writes nothing."""

    def write(self, name: str, row: Mapping[str, object]) -> None:
        pass

    def told(self) -> dict[str, int]:
        return {}

    position = told

    def close(self) -> None:
        pass


def read(workdir: str | os.PathLike, name: str) -> list[dict]:
    """The rows of a file; a last one that a kill cut short is left out."""
    path = pathlib.Path(workdir) / f"{name}.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def row(round: int, step: int | None, phase: str, values: Mapping[str, object], present: np.ndarray | None = None) -> dict:
    """A row of numpy values: scalars, or [C], where an absent client's entry is null."""
    where = {"round": round} if step is None else {"round": round, "step": step}
    return where | {f"{phase}/{name}": _plain(value, present) for name, value in values.items()}


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def scalars(row: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a row, lists as their mean over the clients that took part."""
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


# --- where else the numbers go ------------------------------------------------------------------------------------------


def tensorboard(folder: str | os.PathLike, first_step: int) -> Sink:
    """Writes scalars for TensorBoard; what an earlier start wrote from `first_step` on is taken back."""
    writer = _package("tensorboardX", "log.tensorboard", "tensorboard").SummaryWriter(
        str(folder), purge_step=first_step, flush_secs=10
    )

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Sink(write, writer.close)


def wandb(project: str, workdir: str | os.PathLike, config: Mapping[str, object]) -> Sink:
    """Writes scalars to Weights & Biases; the run is named by its folder, and goes on where it stopped."""
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


# --- what is seen meanwhile ---------------------------------------------------------------------------------------------


class Progress:
    """A bar per round with reward, swaps, tokens/s and the time left; off a terminal nothing but the announced lines."""

    def __init__(self, total: int, done: int, visible: bool | None = None, quiet: bool = False):
        hidden = quiet or (None if visible is None else not visible)  # None: tqdm asks the stream whether it is a terminal
        self._quiet = quiet
        self._bar = tqdm.tqdm(total=total, initial=done, disable=hidden, unit="step", dynamic_ncols=True, leave=False)

    def step(self, round: int, reward: float, swapped: float, tokens_per_second: float) -> None:
        self._bar.set_description(f"round {round + 1}", refresh=False)
        self._bar.set_postfix_str(f"reward {reward:.2f} swapped {swapped:.2f} {tokens_per_second:.0f} tok/s", refresh=False)
        self._bar.update()

    def say(self, line: str) -> None:
        if not self._quiet:
            self._bar.write(line)

    def close(self) -> None:
        self._bar.close()


class Clock:
    """Seconds spent in each phase; phases may not overlap."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._split: dict[str, float] = {}
        self._started = time.perf_counter()

    def timed(self, phase: str, function: Callable, wait: Callable = lambda result: result) -> Callable:
        """The same function, its time booked; `wait` blocks until a result is there."""

        def run(*args):
            started = time.perf_counter()
            try:
                return wait(function(*args))
            finally:
                self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

        return run

    def split(self) -> dict[str, float]:
        """The seconds of each phase since the last split or lap."""
        spent = {phase: seconds - self._split.get(phase, 0.0) for phase, seconds in self.seconds.items()}
        self._split = dict(self.seconds)
        return {phase: seconds for phase, seconds in spent.items() if seconds}

    def lap(self) -> dict[str, float]:
        """The seconds of each phase since the last lap, what no phase claims as `other`, and the `total`."""
        now = time.perf_counter()
        seconds, total = self.seconds, now - self._started
        self.seconds, self._split, self._started = {}, {}, now
        return seconds | {"other": total - sum(seconds.values()), "total": total}
