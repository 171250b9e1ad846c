"""Where a run stands: what a checkpoint holds, and on which terms a later start goes on from it."""

import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from pubswap_jax import bubbles, checkpoint, drift, processes, settings
from pubswap_jax._version import __version__
from pubswap_jax.assembly import Run, base_digest
from pubswap_jax.types import ClientState, ServerState

RUN = "run.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")
# What may change between two starts of a run: it says how long and how loud, not what happens.
FREE = ("federation.rounds", "checkpoint.", "log.", "verifier.")


class Best(NamedTuple):
    """The best round by the validation questions; round 0 is the base model."""

    round: int
    score: float


class Standing(NamedTuple):
    """Between two steps. At step 0 a round is about to begin, and `clients` are as they were before the last averaging."""

    server: ServerState
    clients: ClientState
    step: int
    best: Best
    account: Mapping[str, list[int]]  # the gate's bytes since the round began

    @property
    def round(self) -> int:
        return int(self.server.round)


def beginning(run: Run) -> Standing:
    return Standing(run.server, run.algorithm.init_clients(run.server, None), 0, Best(0, -1.0), {})


def carries_moments(config) -> bool:
    """Whether a client's optimizer outlives the averaging."""
    return config.federation.moments == "keep" or not config.federation.average


def save(folder: pathlib.Path, run: Run, at: Standing, position: Mapping[str, int]) -> None:
    """Writes a checkpoint and removes those that are no longer needed."""
    notes = {"best": list(at.best), "journal": dict(position), "account": dict(at.account)}
    # Leaf by leaf: on a mesh each is whole on every device for a moment.
    tree = jax.tree.map(processes.fetch, _tree(run, at.server, at.clients, at.step))
    if processes.first():
        checkpoint.save(folder, at.round, at.step, tree, notes)
        checkpoint.prune(folder, run.config.checkpoint.keep, at.best.round)


def resume(folder: pathlib.Path, run: Run, warn: Callable[[str], None]) -> tuple[Standing, dict[str, int]] | None:
    """The newest sound checkpoint and the journal's position there; None where there is none."""
    return load(checkpoint.newest(folder, warn) if processes.first() else None, run)


def load(found: checkpoint.Checkpoint | None, run: Run) -> tuple[Standing, dict[str, int]] | None:
    """What the first process found, on all of them."""
    told = processes.told(found and {"step": found.step} | checkpoint.notes(found))
    if told is None:
        return None
    first = beginning(run)
    template = _tree(run, first.server, first.clients, told["step"])
    tree = processes.shared(found and checkpoint.load(found, template), template)
    # On one device nothing is bound to it: programs compiled for unbound arrays would be compiled again.
    tree = jax.tree.map(lambda x, like: run.place(x, like.sharding), tree, template)
    return Standing(tree["server"], tree["clients"], told["step"], Best(*told["best"]), told["account"]), told["journal"]


def load_best(folder: pathlib.Path, at: Standing, run: Run) -> Standing:
    """The standing at the end of the best round, `at` itself where that is the last one."""
    if at.best.round == at.round:
        return at
    return load(_best(folder, at) if processes.first() else None, run)[0]


def _best(folder: pathlib.Path, at: Standing) -> checkpoint.Checkpoint:
    found = next((c for c in checkpoint.listed(folder) if (c.round, c.step) == (at.best.round, 0)), None)
    trouble = "it is not there" if found is None else checkpoint.problem(found.path)
    if trouble:
        raise ValueError(f"the best round, {at.best.round}, cannot be read: {trouble}; the last one is round {at.round}")
    return found


def _tree(run: Run, server: ServerState, clients: ClientState, step: int) -> dict:
    """Moments that the next round will not use are not written."""
    needed = step or carries_moments(run.config)
    return {"server": server, "clients": clients if needed else clients.replace(opt_state=())}


# --- on which terms -----------------------------------------------------------------------------------------------------


def agree(workdir: pathlib.Path, run: Run, fork: bool) -> None:
    """Writes what the run is made of; raises where the folder holds a run made of something else, unless `fork`."""
    ours = describe(run)
    processes.agree(
        {"base model (digest)": ours["base_sha256"], "split of the questions": ours["split"], "JAX": jax.__version__}
    )
    if not processes.first():
        return
    path = workdir / RUN
    if path.exists() and checkpoint.listed(workdir / "checkpoints") and not fork:
        theirs = json.loads(path.read_text())
        changed = settings.differences(*(_binding(d["config"]) for d in (ours, theirs)))
        if ours["base_sha256"] != theirs["base_sha256"]:
            changed.append(f"the base model: {theirs['base_sha256'][:12]} before, {ours['base_sha256'][:12]} now")
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise ValueError(
                f"{workdir} holds a run of another config, {changed[0]}{more}; name another --workdir, or go on with --fork"
            )
    staging = path.with_suffix(".tmp")
    staging.write_text(json.dumps(ours))
    os.replace(staging, path)


def describe(run: Run) -> dict:
    """What the report and a later start need to know of a run, as JSON."""
    topics, counts = bubbles.counts(run.split, run.train.problems)
    return {
        "config": json.loads(json.dumps(settings.flatten(run.config))),
        "base": str(run.base),
        "base_sha256": base_digest(run.base),
        "base_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(run.params)),
        "split": run.split.manifest(),
        "topics": topics,
        "held": counts.tolist(),
        "questions": {
            "train": len(run.train.problems),
            "validation": len(run.validation.problems),
            "test": len(run.test.problems),
        },
        "modules": drift.modules(run.server.lora),
        "notes": run.notes,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"python": platform.python_version(), "pubswap_jax": __version__}  # the source tree needs no install
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _binding(config: Mapping) -> dict:
    return {name: value for name, value in config.items() if not name.startswith(FREE)}
