"""A run's manifest, run.json: what the run was made of, and when a later start may resume it; and the lock of its folder.

A checkpoint's own manifest is another file, MANIFEST.json.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping

import jax

from pubswap_jax import own, settings, system
from pubswap_jax._version import __version__
from pubswap_jax.algorithm import drift
from pubswap_jax.devices import hosts
from pubswap_jax.fields import FIELDS, FREE, default_config
from pubswap_jax.questions.partition import counts
from pubswap_jax.run import checkpoint, given, reward
from pubswap_jax.run.assembly import Run
from pubswap_jax.run.earlier import RUN, as_now, described
from pubswap_jax.weights.basis import basis_digest, check_basis

LOCK = ".lock"
OWN = [field.name for field in FIELDS if field.own]  # fields that may name a file of the user's
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Locks the folder against other writers. The system releases the `flock` when the process ends, even if killed."""
    if not hosts.first():
        yield
        return
    with open(workdir / LOCK, "a") as file:
        try:
            trouble = system.lock(file)
        except BlockingIOError:
            raise ValueError(f"{workdir}: another process writes to it; wait for its end, or name another --workdir") from None
        if trouble:
            print(f"{workdir}: cannot be locked ({trouble}); see that no other process writes to it")
        yield


def agree(workdir: pathlib.Path, run: Run, fork: bool) -> dict:
    """The manifest of the run. Raises if the folder has a run.json of another run, unless `fork`."""
    ours = describe(run)
    same = {"base model (digest)": ours["base_sha256"], "frozen arrays (digest)": ours["basis_sha256"], "JAX": jax.__version__}
    hosts.agree(same | {"split of the questions": ours["split"]})
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
        given.agree(theirs.get("given", {}), ours["given"], workdir)
        reward.agree(theirs.get("rewards", []), ours["rewards"], workdir)
        changed = settings.differences(*(_binding(d["config"]) for d in (ours, theirs)))
        if ours["base_sha256"] != theirs["base_sha256"]:
            changed.append(f"the base model: {theirs['base_sha256'][:12]} before, {ours['base_sha256'][:12]} now")
        for name, sha in ours["own_sha256"].items():
            if theirs.get("own_sha256", {}).get(name, sha) != sha:
                changed.append(f"config.{name}={run.settings[name]}: the file is another one than before")
        if not changed and asks_others:
            changed.append("the validation and test questions: the files hold others than before")
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise ValueError(
                f"{workdir} holds a run of another config, {changed[0]}{more}; name another --workdir, or go on with --fork"
            )
    check_basis(str(path), theirs.get("basis_sha256", ""), ours["basis_sha256"])  # also with --fork: the rest is of no use then
    return ours


def record(workdir: pathlib.Path, described: Mapping) -> None:
    """Writes a run's manifest, as `agree` returned it, to run.json, atomically."""
    if hosts.first():
        staging = (workdir / RUN).with_suffix(".tmp")
        staging.write_text(json.dumps(described))
        os.replace(staging, workdir / RUN)


def describe(run: Run) -> dict:
    """What the run is made of, as the dict that becomes run.json."""
    topics, held = counts(run.data.split, run.data.train.problems)
    return {
        "config": json.loads(json.dumps(run.settings)),
        "base": str(run.policy.folder),
        "base_sha256": run.policy.digest,
        "basis_sha256": basis_digest(run.policy.base["basis"]),
        "base_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(run.policy.base)),
        "adapter_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(run.policy.adapter)),
        "split": run.data.split.manifest(),
        "own_sha256": {name: own.digest(run.settings[name]) for name in OWN if own.names(run.settings[name])},
        "asked_sha256": _digest(run.data.validation.problems, run.data.test.problems),
        "topics": topics,
        "held": held.tolist(),
        "questions": {
            "train": len(run.data.train.problems),
            "validation": len(run.data.validation.problems),
            "test": len(run.data.test.problems),
        },
        "topics_of": {
            "validation": [problem.topic for problem in run.data.validation.problems],
            "test": [problem.topic for problem in run.data.test.problems],
        },
        "rewards": reward.described(run.own.functions, run.own.weights) if run.own else [],
        "given": run.given.described(),
        "modules": drift.modules(run.policy.adapter),
        "notes": run.notes,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "pubswap_jax": __version__}  # its metadata may be missing
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _digest(*parts) -> str:
    asked = [[(problem.id, problem.prompt, problem.answer) for problem in part] for part in parts]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _binding(config: Mapping) -> dict:
    """The fields that a later start must have equal. A field newer than the run gets its default, which is what the run did."""
    complete = settings.flatten(default_config()) | as_now(config)
    return {name: value for name, value in complete.items() if not name.startswith(FREE)}
