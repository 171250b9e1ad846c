"""Services of the operating system that not every system has: file locks and the peak of memory."""

import sys
from typing import IO


def lock(file: IO) -> str:
    """Locks an open file against other processes until this process ends, even by a kill.

    Returns why the file could not be locked, or an empty text. Raises BlockingIOError if another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:
        return "this system has no fcntl"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        return str(error.strerror)
    return ""


def peak_bytes() -> int | None:
    """The largest memory of this process so far; None if the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
