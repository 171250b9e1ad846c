"""The combinations of settings that change what a checkpoint has to hold, and what must be equal after a kill."""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from pubswap_jax import settings
from pubswap_jax.run import checkpoint, journal

VALUES = {
    "federation.moments": ("reset", "keep", "average"),
    "federation.average": (True, False),
    "federation.participants": (0, 2),
    "federation.weights": ("uniform", "size"),
    "checkpoint.steps": (0, 1),
    "federation.swap_unit": ("step", "extra", "round"),
}
Combination = dict[str, object]


def changed(config: ConfigDict, combination: Combination) -> ConfigDict:
    """A copy of the config with the combination's values; a ValueError where the settings' check refuses it."""
    config = config.copy_and_resolve_references()
    for name, value in combination.items():
        settings.override(config, name, str(value))
    settings.check(config)
    return config


def allowed(config: ConfigDict) -> list[Combination]:
    """Every combination that the settings' check accepts, in one order."""
    found = []
    for values in itertools.product(*VALUES.values()):
        combination = dict(zip(VALUES, values, strict=True))
        try:
            changed(config, combination)
        except ValueError:
            continue
        found.append(combination)
    return found


def pairs(combination: Combination) -> set:
    """The pairs of (field, value) that a combination covers."""
    return set(itertools.combinations(sorted(combination.items(), key=lambda item: item[0]), 2))


def pairwise(combinations: Sequence[Combination]) -> list[Combination]:
    """A few of the combinations that together cover every pair of values that any of them covers (greedy)."""
    missing, chosen = set().union(*map(pairs, combinations)), []
    while missing:
        best = max(combinations, key=lambda combination: len(pairs(combination) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def name_of(combination: Combination) -> str:
    return " ".join(f"{name.partition('.')[2]}={value}" for name, value in combination.items())


def outcome(workdir: pathlib.Path) -> dict[str, str]:
    """SHA-256 of all that must be equal: the newest checkpoint's arrays, all rows but the clocks, the exported adapters."""
    from experiments.kill_and_resume.study import arrays_digest

    newest = checkpoint.newest(workdir / "checkpoints", print)
    rows = {name: journal.read(workdir, name) for name in ("metrics", "evaluations", "rollouts")}
    rows["metrics"] = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows["metrics"]]
    found = {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in rows.items()}
    found |= {"arrays": arrays_digest(newest.path), "best": str(checkpoint.notes(newest)["best"]), "round": str(newest.round)}
    return found | {"exported": exported(workdir)}


def exported(workdir: pathlib.Path) -> str:
    """The digest of all exported adapters, with their names."""
    total = hashlib.sha256()
    for path in sorted((workdir / "export").rglob("*.safetensors")):
        total.update(f"{path.relative_to(workdir)} ".encode() + path.read_bytes())
    return total.hexdigest()
