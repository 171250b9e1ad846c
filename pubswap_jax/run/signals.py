"""Ending a run on a signal: in good order where it can be, and within seconds in any case, with what it has reached saved."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

PATIENCE = 2.0  # seconds that a run has to come to a place where it can end
OVER = b"\0"  # no signal's number
NOTHING = "stopped before there was anything to save"


class Stopped(Exception):
    """Raised by `check` to end a run in good order."""


class Stop:
    """`check` raises Stopped once a signal has asked for it. A second signal ends at once.

    Python hears no signal inside of a compilation or a long program. Where the run does not come to its next `check` in time,
    a thread of ours saves what was last offered, which leaves out the step under way, and ends the process with `farewell`.
    """

    def __init__(self, farewell: str, gathered: Callable | None = None, patience: float = PATIENCE):
        """`gathered` gives every process's value: several stop at the same place, whichever was asked, and wait for it."""
        self._farewell, self._gathered = farewell, gathered
        self._asked, self._save = 0, None  # the number of the signal that asked for the end, in any process
        self._timer = threading.Timer(patience, self._end)
        self._timer.daemon = True
        self._ending = threading.RLock()  # taken for good by who ends the run: the main thread, or ours

    @contextlib.contextmanager
    def listening(self, *signals: signal.Signals) -> Iterator[None]:
        """Meanwhile these signals ask for the end; only the main thread may call this."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        thread = threading.Thread(target=self._wait, args=(reading, set(signals)), daemon=True)
        thread.start()
        outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # told at once, whatever the main thread is at
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
            thread.join()  # else it might free the arrays of what was offered while the interpreter ends, which aborts
            self._save = None

    def check(self) -> None:
        asked = max(self._gathered(self._asked) if self._gathered else [self._asked])
        if asked:
            self._asked = asked
            self._ending.acquire()
            raise Stopped

    @property
    def status(self) -> int:
        """The exit status of a process that the signal ended: 143 after SIGTERM, 130 after Ctrl-C."""
        return 128 + self._asked

    def offer(self, save: Callable[[], None]) -> None:
        """What has been reached: `save` may be called at any time from now on, and from another thread."""
        self._save = save

    @property
    def offered(self) -> bool:
        """Whether there is anything to save."""
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
        finally:  # whatever it was, the main thread cannot end any more
            os._exit(status)
