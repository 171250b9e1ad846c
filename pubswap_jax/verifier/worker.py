"""The nursery and its workers: processes that know sympy, never saw JAX, and may be killed at any moment.

`pool.py` runs it as `python -m pubswap_jax.verifier.worker FD module:factory`. The nursery imports sympy once and forks a warm
worker at every order; it never reads an answer itself. A worker answers one status byte a request; nothing is unpickled.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable

STATUSES = ("wrong", "correct", "unparsed", "refused", "timeout")  # those of types.py, which loads JAX
HEADER = struct.Struct("!I")
ORDER = struct.Struct("!i")  # pid to bury, or 0
MEMORY = 1 << 30  # bytes of address space
GRACE = 5.0  # seconds past the deadline after which an orphaned worker ends itself
CODES = {status: bytes([code]) for code, status in enumerate(STATUSES)}


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or EOFError."""
    parts = []
    while size:
        part = connection.recv(min(size, 65536))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def request(gold: str, answer: str, deadline: float) -> bytes:
    body = json.dumps([gold, answer, deadline]).encode()
    return HEADER.pack(len(body)) + body


def _confine() -> None:
    """Its own process group, no files, no children where the system honours that, bounded memory."""
    os.setsid()
    for name, limit in (("AS", MEMORY), ("FSIZE", 0), ("CORE", 0), ("NPROC", 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (bound, bound))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.setrecursionlimit(3000)


def work(connection: socket.socket, judge: Callable[[str, str], str]) -> None:
    """Answers requests until the other side hangs up. Out of memory is said before the end, for the heap is spent."""
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
    """Forks a worker for each socket received; kills and buries the one it replaces first, so no pid is used twice."""
    gc.freeze()  # else a worker's collections write to every page that it shares with the nursery
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
    """Kills a worker with all that it forked, and waits for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may have died before it had a group
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it hangs up
    with socket.socket(fileno=int(sys.argv[1])) as link:
        module, _, name = sys.argv[2].partition(":")
        nurse(link, getattr(importlib.import_module(module), name)())


if __name__ == "__main__":
    main()
