"""Small file helpers that every folder may import."""

import os
import pathlib


def bytes_text(count: float) -> str:
    """A number of bytes for a reader: 1536 -> '1.5 kB'."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def sync_path(path: pathlib.Path) -> None:
    """Calls fsync on a file, or on a folder to make its new names durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
