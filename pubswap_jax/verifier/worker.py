"""The nursery (a fork server) and its workers: processes that import sympy, never JAX, and may be killed at any moment.

`pool.py` starts the nursery as `python -m pubswap_jax.verifier.worker FD module:factory`. The nursery imports sympy once, forks
a warm worker for each order, and never reads an answer. A worker sends one status byte per request. Nothing is unpickled.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable

try:
    import resource
except ImportError:  # a system without memory limits
    resource = None  # type: ignore[assignment]

STATUSES = ("wrong", "correct", "unparsed", "refused", "timeout")  # as in types.py, whose import loads JAX
HEADER = struct.Struct("!I")
ORDER = struct.Struct("!i")  # pid of the worker to kill and reap, or 0
MEMORY = 1 << 30  # bytes of address space
GRACE = 5.0  # seconds after the deadline at which an orphaned worker ends itself
CODES = {status: bytes([code]) for code, status in enumerate(STATUSES)}


def receive(connection: socket.socket, size: int) -> bytes:
    """Reads exactly `size` bytes from a socket. Raises EOFError if the stream ends before."""
    parts = []
    while size:
        part = connection.recv(min(size, 65536))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def request(gold: str, answer: str, deadline: float) -> bytes:
    """The message that asks a worker to judge a pair within `deadline` seconds."""
    body = json.dumps([gold, answer, deadline]).encode()
    return HEADER.pack(len(body)) + body


def _confine() -> None:
    """Confines this process: own process group, no file writes, no child processes (not on all systems), bounded memory."""
    os.setsid()
    for name, limit in (("AS", MEMORY), ("FSIZE", 0), ("CORE", 0), ("NPROC", 0)):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:  # `main` says so
            continue
        hard = resource.getrlimit(kind)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (bound, bound))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.setrecursionlimit(3000)


def work(connection: socket.socket, judge: Callable[[str, str], str]) -> None:
    """A worker's loop: answers requests until the other side hangs up.

    On MemoryError it sends `timeout` and returns, so that the process ends.
    """
    _confine()
    connection.sendall(HEADER.pack(os.getpid()))
    while True:
        try:
            gold, answer, deadline = json.loads(receive(connection, HEADER.unpack(receive(connection, HEADER.size))[0]))
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, deadline + GRACE)
        try:
            status = judge(gold, answer)
        except MemoryError:
            connection.sendall(CODES["timeout"])
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.sendall(CODES[status])


def nurse(link: socket.socket, judge: Callable[[str, str], str]) -> None:
    """The nursery's loop: forks a worker for each socket received.

    First it kills and reaps the replaced worker, so that no other process has got its pid by then.
    """
    gc.freeze()  # otherwise garbage collection in a worker writes to every page shared with the nursery
    while True:
        message, files, _, _ = socket.recv_fds(link, ORDER.size, 1)
        if not message:
            return
        (dead,) = ORDER.unpack(message)
        if dead:
            _bury(dead)
        if not files:
            continue
        child = os.fork()
        if child == 0:
            link.close()
            with socket.socket(fileno=files[0]) as connection:
                try:
                    work(connection, judge)
                finally:
                    os._exit(0)
        os.close(files[0])


def _bury(pid: int) -> None:
    """Kills a worker and all processes that it forked, and reaps the worker."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # the worker may not have created its process group yet
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def main() -> None:
    """Runs the nursery: arguments are the file descriptor of its socket and module:factory of the judge."""
    if resource is None:
        print(
            "verifier: this system limits no memory; one hostile answer can use all of it until its deadline",
            file=sys.stderr,
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C: it closes the link, which ends `nurse`
    with socket.socket(fileno=int(sys.argv[1])) as link:
        module, _, name = sys.argv[2].partition(":")
        nurse(link, getattr(importlib.import_module(module), name)())


if __name__ == "__main__":
    main()
