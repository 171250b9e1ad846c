"""Checkpoints on disk: saves and loads folders of arrays, with a SHA-256 digest of every file. state.py says what is saved.

Orbax alone would restore a flipped bit without an error.

A checkpoint is a folder with the arrays, `notes.json` and `MANIFEST.json`. `round-000003` means that three rounds are done;
`round-000003-step-000012` means three rounds and twelve steps of the fourth. The folder is written under a hidden name, synced
to disk and then renamed, so a folder with a final name is complete even if the process was killed.
"""

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from pubswap_jax.files import sync_path
from pubswap_jax.types import PyTree

MANIFEST, NOTES, ARRAYS = "MANIFEST.json", "notes.json", "arrays"
LATE = 1.0  # seconds to wait for the last tracebacks of a failed save's writers
_NAME = re.compile(r"round-(\d{6,})(?:-step-(\d{6,}))?")


class Checkpoint(NamedTuple):
    """A complete checkpoint on disk, taken after `round` whole rounds and `step` steps of the round that follows them."""

    round: int
    step: int
    path: pathlib.Path


class NotSaved(OSError):
    """Raised when a checkpoint could not be written. Earlier checkpoints are unchanged."""


def save(folder: str | os.PathLike, round: int, step: int, tree: PyTree, notes: dict) -> Checkpoint:
    """Writes a checkpoint atomically. All arrays must be on this host; `notes` is JSON."""
    folder = pathlib.Path(folder).absolute()
    found = Checkpoint(round, step, folder / (f"round-{round:06d}" + (f"-step-{step:06d}" if step else "")))
    if found.path.exists() and not problem(found.path):
        return found  # a run is deterministic: the same position has the same bytes
    staging = folder / f".{found.path.name}.{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        arrays = jax.tree.map(np.asarray, tree)
        _check_space(staging, sum(x.nbytes for x in jax.tree.leaves(arrays)))
        with _one_error(), _checkpointer() as checkpointer:
            checkpointer.save(staging / ARRAYS, arrays)
            checkpointer.wait_until_finished()  # `save` is asynchronous: without the wait, its errors would be lost
        (staging / NOTES).write_text(json.dumps(notes))
        (staging / MANIFEST).write_bytes(_manifest(_digests(staging)))
        _sync(staging)
        if found.path.exists():  # a damaged checkpoint that `newest` skipped
            shutil.rmtree(found.path)
        staging.rename(found.path)
        sync_path(folder)
    except Exception as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise NotSaved(
            f"{found.path}: not saved, {_reason(error)}; older rounds are intact, run the same command to go on"
        ) from error
    return found


def newest(folder: str | os.PathLike, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest undamaged checkpoint. `warn` gets one line for each damaged checkpoint, with the damaged file's name."""
    for checkpoint in reversed(listed(folder)):
        trouble = problem(checkpoint.path)
        if not trouble:
            return checkpoint
        warn(f"{checkpoint.path.name} is damaged and was passed over: {trouble}")
    return None


def listed(folder: str | os.PathLike) -> list[Checkpoint]:
    """The checkpoints of a run, oldest first."""
    matches = ((path, _NAME.fullmatch(path.name)) for path in pathlib.Path(folder).absolute().glob("round-*"))
    return sorted(Checkpoint(int(match[1]), int(match[2] or 0), path) for path, match in matches if match)


def load(checkpoint: Checkpoint, template: PyTree) -> PyTree:
    """The arrays of a checkpoint as numpy arrays, with the structure, shapes and dtypes of `template`."""
    abstract = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), template)
    try:
        with _checkpointer() as checkpointer:
            tree = checkpointer.restore(checkpoint.path / ARRAYS, abstract)
        for found, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(abstract), strict=True):
            if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
                raise ValueError(f"{found.dtype}{list(found.shape)} where {wanted.dtype}{list(wanted.shape)} is expected")
        return tree
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint.path}: holds other arrays than this config's: {_reason(error)}") from error


def arrays(checkpoint: Checkpoint) -> dict:
    """All arrays of a checkpoint as nested dicts of numpy arrays, for readers without a template."""
    with _checkpointer() as checkpointer:
        stored = checkpointer.metadata(checkpoint.path / ARRAYS).item_metadata.tree
        template = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), stored)
        return checkpointer.restore(checkpoint.path / ARRAYS, template)


def notes(checkpoint: Checkpoint) -> dict:
    return json.loads((checkpoint.path / NOTES).read_text())


def prune(folder: str | os.PathLike, keep: int, best: int | None = None, reached: tuple[int, int] | None = None) -> None:
    """Deletes old checkpoints: all but the newest `keep` and the one that ends round `best`; also a killed process's leftovers.

    Checkpoints after (round, step) `reached` were found damaged. They do not count as newest and will be overwritten.
    """
    found = [checkpoint for checkpoint in listed(folder) if reached is None or checkpoint[:2] <= reached]
    for checkpoint in found[:-keep]:
        if (checkpoint.round, checkpoint.step) != (best, 0):
            shutil.rmtree(checkpoint.path)
    for left in pathlib.Path(folder).glob(".round-*"):
        shutil.rmtree(left)


def problem(path: pathlib.Path) -> str:
    """Describes damage to a checkpoint, with the file's name; empty if all files match MANIFEST.json."""
    try:
        raw = (path / MANIFEST).read_bytes()
        expected = json.loads(raw)["files"]
        if raw != _manifest(expected):
            return f"{MANIFEST} was changed"
        actual = _digests(path)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} was changed"
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} does not belong to it"
        if expected[name] != actual[name]:
            return f"{name} was changed"
    return ""


def _checkpointer() -> ocp.StandardCheckpointer:
    """A checkpointer for this process alone: the default one waits for all processes, but only this one holds the arrays."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, active_processes={me}, barrier_sync_key_prefix="pubswap")
    return ocp.StandardCheckpointer(multiprocessing_options=alone) if jax.process_count() > 1 else ocp.StandardCheckpointer()


def _check_space(folder: pathlib.Path, size: int) -> None:
    """Raises if the disk has less than `size` bytes free, before orbax writes half a checkpoint."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Buffers stderr while a checkpoint is written, and discards the buffer if an error is raised.

    Orbax writes each array in its own asyncio task. If the disk is full, every task prints a traceback; the raised error
    already reports the failure once.
    """
    held = io.StringIO()
    for name in ("asyncio", "absl"):  # never removed: a task logs its error when freed, perhaps at exit
        logging.getLogger(name).addFilter(_not_of_orbax)
    with contextlib.redirect_stderr(held):
        try:
            yield
        except Exception:
            time.sleep(LATE)
            raise
    sys.stderr.write(held.getvalue())


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and ".orbax-checkpoint-tmp" in str(record.exc_info[1]))


def _manifest(files: dict[str, list]) -> bytes:
    """The exact bytes of MANIFEST.json: the digests of all files, and one of themselves, so that a flipped bit is found."""
    body = json.dumps(files, sort_keys=True, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({"files": json.loads(body), "sha256": digest}, indent=1, sort_keys=True).encode()


def _digests(folder: pathlib.Path) -> dict[str, list]:
    """{file: [size in bytes, SHA-256]} of every file of a checkpoint but MANIFEST.json."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return found


def _sync(folder: pathlib.Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync_path(path)


def _reason(error: Exception) -> str:
    """The first line of a library's error message; a full or read-only disk is described in plain words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines)
    for symptom, words in (("No space left", "the disk is full"), ("Read-only", "the disk is read-only")):
        if symptom in text:
            return words
    return lines[0][:200]
