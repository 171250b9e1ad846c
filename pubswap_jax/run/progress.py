"""A run's progress: a bar on a terminal; elsewhere a line at least every 30 seconds."""

import threading
import time
from collections.abc import Callable

import tqdm

EVERY = 30.0  # seconds between two lines, off a terminal


class Progress:
    """Shows a run's reward, swaps, groups of equal rewards, tokens/s and the time left. `doing` says what the run is busy with.

    Without a terminal, a step prints its line if no line was printed for `every` seconds. A thread prints a line during longer
    work, such as a compilation or an evaluation.
    """

    def __init__(
        self,
        total: int,
        done: int,
        visible: bool | None = None,
        quiet: bool = False,
        doing: Callable[[], str] = lambda: "working",
        every: float = EVERY,
    ):
        hidden = quiet or (None if visible is None else not visible)  # None: tqdm hides the bar unless the stream is a terminal
        self._quiet, self._doing, self._every = quiet, doing, every
        self._total, self._done, self._here = total, done, 0  # `_here`: steps since this start
        self._begun = self._printed = time.monotonic()
        self._ended = threading.Event()
        self._bar = tqdm.tqdm(total=total, initial=done, disable=hidden, unit="step", dynamic_ncols=True, leave=False)
        if self._bar.disable and not quiet:
            threading.Thread(target=self._tick, daemon=True).start()

    def step(self, round: int, reward: float, swapped: float, tokens_per_second: float, flat: float = 0.0) -> None:
        """Counts a finished step. `flat`: share of groups whose responses are all right or all wrong."""
        self._done, self._here = self._done + 1, self._here + 1
        self._bar.set_description(f"round {round + 1}", refresh=False)
        self._bar.set_postfix_str(f"reward {reward:.2f} swapped {swapped:.2f} {tokens_per_second:.0f} tok/s", refresh=False)
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._printed >= self._every:
            self.say(f"step {self._done} of {self._total}: reward {reward:.2f}, flat groups {flat:.2f}, {self._left()} left")

    def say(self, line: str) -> None:
        if not self._quiet:
            self._printed = time.monotonic()
            self._bar.write(line)

    def close(self) -> None:
        self._ended.set()
        self._bar.close()

    def _left(self) -> str:
        seconds = (time.monotonic() - self._begun) / self._here * (self._total - self._done)
        return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"

    def _tick(self) -> None:
        while not self._ended.wait(max(self._printed + self._every - time.monotonic(), 0.05)):
            if time.monotonic() - self._printed >= self._every:
                self.say(f"step {self._done} of {self._total} done, {time.monotonic() - self._begun:.0f} s: {self._doing()}")
