"""The run's checkpoints: orbax arrays under digests of our own, since one flipped bit restores silently and wrong without.

A checkpoint is a folder `round-000003` (three rounds are done) or `round-000003-step-000012` (and twelve steps of the fourth)
with the arrays, `notes.json` and `MANIFEST.json`. It is written under a hidden name, synced to the disk and then renamed: a
folder that bears its name is complete, whatever was killed and when.
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
LATE = 1.0  # seconds in which the writers of a failed save still print
_NAME = re.compile(r"round-(\d{6,})(?:-step-(\d{6,}))?")


class Checkpoint(NamedTuple):
    """A complete checkpoint on the disk: `round` rounds are done and `step` steps of the next one."""

    round: int
    step: int
    path: pathlib.Path


class NotSaved(OSError):
    """A checkpoint could not be written; the ones before it are as they were."""


def save(folder: str | os.PathLike, round: int, step: int, tree: PyTree, notes: dict) -> Checkpoint:
    """Writes arrays, all of them on this host, and notes (JSON) under their name once they are durable; all or nothing."""
    folder = pathlib.Path(folder).absolute()
    found = Checkpoint(round, step, folder / (f"round-{round:06d}" + (f"-step-{step:06d}" if step else "")))
    if found.path.exists() and not problem(found.path):
        return found  # the same position of the same run: the same bytes
    staging = folder / f".{found.path.name}.{uuid.uuid4().hex[:8]}"
    try:
        staging.mkdir(parents=True)
        arrays = jax.tree.map(np.asarray, tree)
        _check_space(staging, sum(x.nbytes for x in jax.tree.leaves(arrays)))
        with _one_error(), _checkpointer() as checkpointer:
            checkpointer.save(staging / ARRAYS, arrays)
            checkpointer.wait_until_finished()  # `save` alone returns before it fails
        (staging / NOTES).write_text(json.dumps(notes))
        (staging / MANIFEST).write_bytes(_manifest(_digests(staging)))
        _sync(staging)
        if found.path.exists():  # a corrupted one that `newest` passed over
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
    """The newest checkpoint whose bytes are what was written; `warn` gets a line that names the file for each passed over."""
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
    """The arrays of a checkpoint as numpy ones, with the structure, shapes and types of `template`."""
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
    """All arrays of a checkpoint as nested dicts of numpy arrays, for readers that have no template."""
    with _checkpointer() as checkpointer:
        stored = checkpointer.metadata(checkpoint.path / ARRAYS).item_metadata.tree
        template = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), stored)
        return checkpointer.restore(checkpoint.path / ARRAYS, template)


def notes(checkpoint: Checkpoint) -> dict:
    return json.loads((checkpoint.path / NOTES).read_text())


def prune(folder: str | os.PathLike, keep: int, best: int | None = None, reached: tuple[int, int] | None = None) -> None:
    """Removes all but the newest `keep` checkpoints and the one that ends round `best`, and what a killed process left.

    Those beyond (round, step) `reached` are no newer ones: they are damaged, were passed over, and will be written again.
    """
    found = [checkpoint for checkpoint in listed(folder) if reached is None or checkpoint[:2] <= reached]
    for checkpoint in found[:-keep]:
        if (checkpoint.round, checkpoint.step) != (best, 0):
            shutil.rmtree(checkpoint.path)
    for left in pathlib.Path(folder).glob(".round-*"):
        shutil.rmtree(left)


def problem(path: pathlib.Path) -> str:
    """What is wrong with a checkpoint's bytes, naming the file; empty where they are what was written."""
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
    """One that waits for no other process: the arrays are all here."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, active_processes={me}, barrier_sync_key_prefix="pubswap")
    return ocp.StandardCheckpointer(multiprocessing_options=alone) if jax.process_count() > 1 else ocp.StandardCheckpointer()


def _check_space(folder: pathlib.Path, size: int) -> None:
    """Raises before orbax begins what the disk cannot hold."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Holds back what is printed to stderr while a checkpoint is written, and drops it where an error is raised.

    Orbax writes each array in an asyncio task of its own: where the disk fills up, each one prints a traceback. The error that
    is raised says it once.
    """
    held = io.StringIO()
    for name in ("asyncio", "absl"):  # for good: a task reports its error when it is freed, which may be at the process's end
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
    """The manifest's exact bytes: they carry their own digest, so that no flipped bit of theirs goes unseen."""
    body = json.dumps(files, sort_keys=True, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return json.dumps({"files": json.loads(body), "sha256": digest}, indent=1, sort_keys=True).encode()


def _digests(folder: pathlib.Path) -> dict[str, list]:
    """file -> [bytes, SHA-256] of everything but the manifest."""
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
    """The first line of a library's message, in plain words where it is the disk."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines)
    for symptom, words in (("No space left", "the disk is full"), ("Read-only", "the disk is read-only")):
        if symptom in text:
            return words
    return lines[0][:200]
