"""Stops a run within seconds of a signal, and saves its last completed step."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

PATIENCE = 2.0  # seconds that a run has to reach its next `check`
OVER = b"\0"  # ends the listener; no signal has the number 0
NOTHING = "stopped before there was anything to save"


class Stopped(Exception):
    """Raised by `check` to stop a run between two computations."""


class Stop:
    """Stops a run after a signal: `check` then raises Stopped. A second signal ends the process at once.

    Python runs no signal handler inside a compilation or a long program. If the run does not reach its next `check` in time, a
    thread runs the last offered `save`, prints `farewell` and ends the process. The current step is lost.
    """

    def __init__(self, farewell: str, gathered: Callable | None = None, patience: float = PATIENCE):
        """`gathered` collects a value from every process, so that all processes stop at the same `check`; None: one process.

        `patience`: seconds after a signal within which the run must reach a `check`; then a thread saves.
        """
        self._farewell, self._gathered = farewell, gathered
        self._asked, self._save = 0, None  # number of the signal received, by any process; 0: none
        self._timer = threading.Timer(patience, self._end)
        self._timer.daemon = True
        self._ending = threading.RLock()  # taken once and kept by the thread that ends the run

    @contextlib.contextmanager
    def listening(self, *signals: signal.Signals) -> Iterator[None]:
        """A context in which the given signals stop the run. Call it from the main thread only."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        thread = threading.Thread(target=self._wait, args=(reading, set(signals)), daemon=True)
        thread.start()
        outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # a Python handler would wait for the main thread
        before = {number: signal.signal(number, lambda *_: None) for number in signals}
        try:
            yield
        finally:
            self._ending.acquire()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(outer)
            os.write(writing, OVER)
            os.close(writing)
            self._timer.cancel()
            thread.join()  # an unjoined thread may free offered arrays during interpreter exit, which aborts
            self._save = None

    def check(self) -> None:
        asked = max(self._gathered(self._asked) if self._gathered else [self._asked])
        if asked:
            self._asked = asked
            self._ending.acquire()
            raise Stopped

    @property
    def status(self) -> int:
        """The exit status after the signal: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self._asked

    def offer(self, save: Callable[[], None]) -> None:
        """Sets the function that saves the last completed step. Another thread may call it at any time."""
        self._save = save

    @property
    def offered(self) -> bool:
        """Whether a `save` function has been offered."""
        return self._save is not None

    def _wait(self, reading: int, signals: set[int]) -> None:
        with open(reading, "rb", buffering=0) as pipe:
            for number in iter(lambda: pipe.read(1), OVER):
                if number[0] not in signals:
                    continue
                if self._asked:
                    os._exit(128 + number[0])
                self._asked = number[0]
                if not self._gathered:
                    self._timer.start()

    def _end(self) -> None:
        if not self._ending.acquire(blocking=False):
            return
        status = 2
        try:
            if self._save:
                self._save()
            status = self.status
            print(self._farewell if self._save else NOTHING, flush=True)
        except Exception as error:
            if status == 2:
                print(f"pubswap_jax: {error}", file=sys.stderr, flush=True)
        finally:  # also after an error: `_ending` stays taken, so the main thread could not end the run
            os._exit(status)
