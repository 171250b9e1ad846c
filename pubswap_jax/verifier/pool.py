"""Pool of killable worker processes. The pool enforces the deadline: it kills and replaces a worker that misses the deadline.

The nursery is a separate interpreter that never imports JAX. It forks warm workers, so replacing one takes milliseconds.
The pool does not depend on `__main__`, on signals or on the calling thread.
"""

import atexit
import contextlib
import itertools
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from pubswap_jax.verifier.worker import HEADER, ORDER, STATUSES, receive, request

RECYCLE = 5000  # answers after which a worker is replaced
ATTEMPTS = 4  # nurseries started for one batch before its remaining answers count as timeouts
START = 60.0  # seconds to wait for a new worker; the first worker waits until the nursery has imported sympy
CODES = dict(enumerate(STATUSES))


class _Worker:
    """One worker process and the pool's end of its socket."""

    def __init__(self, connection: socket.socket, pid: int):
        self.connection, self.pid, self.done, self.task, self.due = connection, pid, 0, -1, 0.0

    def hung_up(self) -> bool:
        """Whether the worker's end of the connection is closed, which happens when its process dies."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


class _Batch:
    """The pairs of one call of `Pool.run`, drawn when a worker is free, and their results so far."""

    def __init__(self, source: Iterator[tuple[str, str]], timeout: float):
        self.source, self.timeout = source, timeout
        self.pairs: list[tuple[str, str]] = []
        self.results: dict[int, str] = {}
        self.again: list[int] = []  # drawn before a nursery died, and not yet judged

    def next(self) -> int:
        """The index of the next pair for a worker to judge; -1 if there is none."""
        if self.again:
            return self.again.pop()
        pair = next(self.source, None)
        if pair is None:
            return -1
        self.pairs.append(pair)
        return len(self.pairs) - 1


class Pool:
    """`run(pairs, timeout)` judges pairs of canonical strings. Any thread may call `run`; concurrent calls run in turn."""

    def __init__(self, size: int, judge: str = "pubswap_jax.verifier.symbolic:warm_judge"):
        self.size, self.judge = size, judge
        self._lock = threading.Lock()
        self._nursery: subprocess.Popen | None = None
        self._link: socket.socket | None = None
        self._workers: list[_Worker] = []
        self._owner = os.getpid()

    def run(self, pairs: Iterable[tuple[str, str]], timeout: float) -> list[str]:
        """The status of each pair; `timeout` if a worker missed its deadline, crashed or ran out of memory.

        `pairs` is advanced only when a worker is free, so the caller prepares a pair while the other workers judge theirs.
        """
        if not (hasattr(os, "fork") and hasattr(socket, "send_fds")):
            raise ValueError(
                "the verifier forks its workers, which this system cannot; use Linux or macOS, on Windows through WSL"
            )
        source = iter(pairs)
        first = next(source, None)
        if first is None:
            return []
        batch = _Batch(itertools.chain([first], source), timeout)
        with self._lock:
            for _ in range(ATTEMPTS):
                try:
                    self._run(batch)
                    break
                except (OSError, EOFError):  # the nursery was killed: start another one and continue
                    self._stop()
                except BaseException:  # Ctrl-C: stop the workers, or the next batch would read this batch's answers
                    self._stop()
                    raise
            else:
                if not batch.results:
                    raise RuntimeError(
                        f"the verifier's workers do not start: see what `import {self.judge.partition(':')[0]}` says"
                    )
                batch.pairs.extend(batch.source)  # pairs that no worker received
        return [batch.results.get(i, "timeout") for i in range(len(batch.pairs))]

    def pids(self) -> list[int]:
        """The process ids of the running workers."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """Stops all processes. The next `run` starts new ones."""
        if self._owner != os.getpid():  # in a fork of this process, the workers belong to the parent
            return
        with self._lock:
            self._stop()

    def _run(self, batch: "_Batch") -> None:
        """Judges the pairs of a batch that have no result yet, and replaces workers that die or miss their deadline."""
        self._start()
        batch.again = [i for i in range(len(batch.pairs)) if i not in batch.results]
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.connection, selectors.EVENT_READ, worker)
                self._give(worker, batch)
            while any(worker.task >= 0 for worker in self._workers):
                nearest = min(worker.due for worker in self._workers if worker.task >= 0)
                events = selector.select(max(0.0, nearest - time.monotonic()))
                ready = [key.data for key, _ in events]
                late = [w for w in self._workers if w.task >= 0 and w.due <= time.monotonic() and w not in ready]
                for worker in ready + late:
                    status = self._answer(worker) if worker in ready else ""
                    if worker.task >= 0:
                        batch.results[worker.task] = status or "timeout"
                    if status in ("", "timeout") or worker.done >= RECYCLE:  # after sending `timeout`, the worker exits
                        selector.unregister(worker.connection)
                        self._replace(worker)
                        selector.register(worker.connection, selectors.EVENT_READ, worker)
                    self._give(worker, batch)

    def _give(self, worker: _Worker, batch: "_Batch") -> None:
        """Sends the next pair to a free worker, if there is one, and starts its deadline."""
        worker.task = batch.next()
        if worker.task >= 0:
            worker.due = time.monotonic() + batch.timeout
            with contextlib.suppress(OSError):  # a dead worker is noticed by `_answer`: its stream ends
                worker.connection.sendall(request(*batch.pairs[worker.task], batch.timeout))

    def _answer(self, worker: _Worker) -> str:
        """The status that a worker sent; empty if it hung up or sent an unknown code."""
        worker.done += 1
        try:
            return CODES.get(receive(worker.connection, 1)[0], "")
        except (OSError, EOFError):
            return ""

    def _start(self) -> None:
        """Starts the nursery and the workers that are missing."""
        if self._owner != os.getpid():  # in a fork of this process, the workers belong to the parent
            self._nursery, self._link, self._workers, self._owner = None, None, [], os.getpid()
        if self._nursery is None or self._nursery.poll() is not None:
            self._stop()
            self._link, theirs = socket.socketpair()
            root = str(pathlib.Path(__file__).resolve().parents[2])  # the folder that contains the package
            command = [sys.executable, "-m", "pubswap_jax.verifier.worker", str(theirs.fileno()), self.judge]
            self._nursery = subprocess.Popen(
                command, cwd=root, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
            theirs.close()
        for worker in self._workers:
            if worker.hung_up():  # killed from outside since the last batch
                self._replace(worker)
        while len(self._workers) < self.size:
            self._workers.append(_Worker(*self._order(0)))

    def _replace(self, worker: _Worker) -> None:
        """Has the nursery kill a worker and fork another one in its place."""
        worker.connection.close()
        try:
            worker.connection, worker.pid = self._order(worker.pid)
        except (OSError, EOFError):  # the nursery died too
            self._nursery.kill()
            raise
        worker.done = 0

    def _order(self, dead: int) -> tuple[socket.socket, int]:
        """(socket, pid) of a new worker. The nursery first kills and reaps the worker whose pid is `dead`, unless it is 0."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._link, [ORDER.pack(dead)], [theirs.fileno()])
            ours.settimeout(START)
            pid = HEADER.unpack(receive(ours, HEADER.size))[0]
            ours.settimeout(None)
        except BaseException:
            ours.close()
            raise
        return ours, pid

    def _stop(self) -> None:
        """Kills the workers, then the nursery."""
        for worker in self._workers:
            worker.connection.close()
            with contextlib.suppress(OSError):
                os.killpg(worker.pid, signal.SIGKILL)  # safe: the nursery has not reaped it, so the pid is not reused
        self._workers = []
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._nursery is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nursery.wait(2.0)
            self._nursery.kill()
            self._nursery.wait()
            self._nursery = None


_pool: Pool | None = None
_pool_lock = threading.Lock()


def shared() -> Pool:
    """The pool of this process, with `PUBSWAP_VERIFY_WORKERS` workers (default: one per core, at most 8), started by `run`."""
    global _pool
    with _pool_lock:
        if _pool is None:
            set_workers(int(os.environ.get("PUBSWAP_VERIFY_WORKERS") or min(os.cpu_count() or 1, 8)))
        return _pool


def set_workers(size: int) -> None:
    """Replaces the shared pool by a pool of `size` workers."""
    global _pool
    if size < 1:
        raise ValueError(f"workers must be at least 1, got {size}")
    close()
    _pool = Pool(size)


def close() -> None:
    """Stops the shared pool's processes. The next call of `score` starts new ones."""
    if _pool is not None:
        _pool.close()


atexit.register(close)
