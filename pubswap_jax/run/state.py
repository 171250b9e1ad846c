"""Run state: what a checkpoint contains, and when a later start may resume from it."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax

from pubswap_jax import settings
from pubswap_jax._version import __version__
from pubswap_jax.algorithm import drift
from pubswap_jax.devices import hosts
from pubswap_jax.fields import default_config
from pubswap_jax.questions.partition import counts
from pubswap_jax.run import checkpoint
from pubswap_jax.run.assembly import Run, base_digest
from pubswap_jax.run.earlier import RUN, described
from pubswap_jax.types import ClientState, ServerState

LOCK = ".lock"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
# Fields that may change when a run is resumed: they do not affect the results of a step.
FREE = ("federation.rounds", "checkpoint.", "log.", "verifier.", "compilation_cache")


class Best(NamedTuple):
    """The round with the best validation score; round 0 is the base model."""

    round: int
    score: float


class Standing(NamedTuple):
    """The state between two steps. At step 0 a round is about to begin; `clients` are those before the last averaging."""

    server: ServerState
    clients: ClientState
    step: int
    best: Best
    account: Mapping[str, list[int]]  # bytes counted by the gate since the round began

    @property
    def round(self) -> int:
        return int(self.server.round)


def beginning(run: Run) -> Standing:
    return Standing(run.server, run.algorithm.init_clients(run.server, None), 0, Best(0, -1.0), {})


def carries_moments(config) -> bool:
    """Whether a client keeps its optimizer's moments after the averaging."""
    return config.federation.moments == "keep" or not config.federation.average


def save(folder: pathlib.Path, run: Run, at: Standing, position: Mapping[str, int]) -> None:
    """Writes a checkpoint and removes old checkpoints."""
    notes = {"best": list(at.best), "journal": dict(position), "account": dict(at.account)}
    # Fetch leaf by leaf, not the whole tree: on a mesh, fetching replicates a leaf on every device.
    tree = jax.tree.map(hosts.fetch, _tree(run, at.server, at.clients, at.step))
    if hosts.first():
        checkpoint.save(folder, at.round, at.step, tree, notes)
        checkpoint.prune(folder, run.config.checkpoint.keep, at.best.round, (at.round, at.step))


def resume(folder: pathlib.Path, run: Run, warn: Callable[[str], None]) -> tuple[Standing, dict[str, int]] | None:
    """The state of the newest undamaged checkpoint and its journal position; None if there is no checkpoint."""
    found = checkpoint.newest(folder, warn) if hosts.first() else None
    if hosts.first() and found is None and checkpoint.listed(folder):
        raise ValueError(f"{folder}: no checkpoint in it is sound; name another --workdir, or move them away to begin anew")
    return load(found, run)


def load(found: checkpoint.Checkpoint | None, run: Run) -> tuple[Standing, dict[str, int]] | None:
    """Loads the checkpoint that the first process found, on all processes; None if it found none. Collective."""
    told = hosts.told(found and {"step": found.step} | checkpoint.notes(found))
    if told is None:
        return None
    first = beginning(run)
    template = _tree(run, first.server, first.clients, told["step"])
    tree = hosts.shared(found and checkpoint.load(found, template), template)
    # On one device, `place` keeps arrays uncommitted: committed arrays would make every program compile again.
    tree = jax.tree.map(lambda x, like: run.place(x, like.sharding), tree, template)
    return Standing(tree["server"], tree["clients"], told["step"], Best(*told["best"]), told["account"]), told["journal"]


def load_best(folder: pathlib.Path, at: Standing, run: Run) -> Standing:
    """The state at the end of the best round; `at` itself if the last round is the best."""
    if at.best.round == at.round:
        return at
    return load(_best(folder, at) if hosts.first() else None, run)[0]


def _best(folder: pathlib.Path, at: Standing) -> checkpoint.Checkpoint:
    found = next((c for c in checkpoint.listed(folder) if (c.round, c.step) == (at.best.round, 0)), None)
    trouble = "it is not there" if found is None else checkpoint.problem(found.path)
    if trouble:
        raise ValueError(f"the best round, {at.best.round}, cannot be read: {trouble}; the last one is round {at.round}")
    return found


def _tree(run: Run, server: ServerState, clients: ClientState, step: int) -> dict:
    """The arrays of a checkpoint. Leaves out moments that the next round will not use."""
    needed = step or carries_moments(run.config)
    return {"server": server, "clients": clients if needed else clients.replace(opt_state=())}


# --- when a run may be resumed ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Locks the folder against other writers. The system releases the `flock` when the process ends, even if killed."""
    if not hosts.first():
        yield
        return
    with open(workdir / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{workdir}: another process writes to it; wait for its end, or name another --workdir") from None
        except OSError as error:
            print(f"{workdir}: cannot be locked ({error.strerror}); see that no other process writes to it")
        yield


def agree(workdir: pathlib.Path, run: Run, fork: bool) -> dict:
    """The run's manifest. Raises if the folder holds a run with another manifest, unless `fork`."""
    ours = describe(run)
    hosts.agree({"base model (digest)": ours["base_sha256"], "split of the questions": ours["split"], "JAX": jax.__version__})
    path = workdir / RUN
    if not hosts.first() or not path.exists() or not checkpoint.listed(workdir / "checkpoints"):
        return ours
    theirs = described(workdir)
    asks_others = theirs.get("asked_sha256", ours["asked_sha256"]) != ours["asked_sha256"]
    if fork and asks_others:
        raise ValueError(
            f"{workdir}: --fork goes on with the same validation and test questions, else figures before and after could not "
            f"be compared; name another --workdir"
        )
    if not fork:
        changed = settings.differences(*(_binding(d["config"]) for d in (ours, theirs)))
        if ours["base_sha256"] != theirs["base_sha256"]:
            changed.append(f"the base model: {theirs['base_sha256'][:12]} before, {ours['base_sha256'][:12]} now")
        if not changed and asks_others:
            changed.append("the validation and test questions: the files hold others than before")
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise ValueError(
                f"{workdir} holds a run of another config, {changed[0]}{more}; name another --workdir, or go on with --fork"
            )
    return ours


def record(workdir: pathlib.Path, described: Mapping) -> None:
    """Writes the manifest that `agree` returned to run.json, atomically."""
    if hosts.first():
        staging = (workdir / RUN).with_suffix(".tmp")
        staging.write_text(json.dumps(described))
        os.replace(staging, workdir / RUN)


def describe(run: Run) -> dict:
    """The run's manifest as JSON, for the report and for a later start."""
    topics, held = counts(run.split, run.train.problems)
    return {
        "config": json.loads(json.dumps(settings.flatten(run.config))),
        "base": str(run.base),
        "base_sha256": base_digest(run.base),
        "base_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(run.params)),
        "split": run.split.manifest(),
        "asked_sha256": _digest(run.validation.problems, run.test.problems),
        "topics": topics,
        "held": held.tolist(),
        "questions": {
            "train": len(run.train.problems),
            "validation": len(run.validation.problems),
            "test": len(run.test.problems),
        },
        "topics_of": {
            "validation": [problem.topic for problem in run.validation.problems],
            "test": [problem.topic for problem in run.test.problems],
        },
        "modules": drift.modules(run.server.adapter),
        "notes": run.notes,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "pubswap_jax": __version__}  # its metadata may be missing
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _digest(*parts) -> str:
    asked = [[(problem.id, problem.prompt, problem.answer) for problem in part] for part in parts]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _binding(config: Mapping) -> dict:
    """The fields that must match. A field newer than the run gets its default, which is what the run did."""
    complete = settings.flatten(default_config()) | dict(config)
    return {name: value for name, value in complete.items() if not name.startswith(FREE)}
