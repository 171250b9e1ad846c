"""The config of an earlier run, read from its run.json without importing JAX, for commands that get only `--workdir`."""

import json
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from pubswap_jax import settings
from pubswap_jax.fields import FIELDS, FREE, default_config

RUN = "run.json"
# Fields that may differ from the run's config when its adapters are evaluated or exported: none of them shaped the adapters.
ANYWHERE = ("model.path", "model.revision", "mesh.", "verifier.", "log.", "compilation_cache")
ALLOWED = {
    "eval": (*ANYWHERE, "data.path", "data.test", "data.fields", "data.max_prompt_tokens", "evaluation."),
    "export": (*ANYWHERE, "data.path"),
    "flexmerge": (*ANYWHERE, "data.path", "evaluation.", "merge."),
    "route": (*ANYWHERE, "data.path", "evaluation.", "route."),
}


def described(workdir: pathlib.Path) -> dict:
    """The contents of the run.json in `workdir`, which an earlier start of the run wrote."""
    path = workdir / RUN
    if not path.exists():
        raise ValueError(f"{workdir}: no {RUN} in it; give the --workdir of a run, or train one first")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not what a run wrote there: {error}") from None


def shared_model(config: Mapping) -> str:
    """What a run calls the model that its clients share, in words: FedGRPO's clients average none."""
    return "server's policy" if config.get("federation.method") == "fedgrpo" else "averaged model"


def config_of(workdir: pathlib.Path) -> tuple[ConfigDict, str]:
    """The run's config, and a warning about fields in run.json that this version does not have (empty if there are none).

    Fields that are newer than the run get their defaults.
    """
    flat = described(workdir).get("config")
    if not isinstance(flat, dict):
        raise ValueError(f"{workdir / RUN}: no config in it; give the --workdir of a run, or train one first")
    flat = as_now(flat)
    config, known = default_config(), [field.name for field in FIELDS]
    for name in known:
        if name in flat:
            section, _, leaf = name.rpartition(".")
            value = ConfigDict(flat[name]) if name == "data.fields" else flat[name]
            (config[section] if section else config)[leaf] = value
    gone = sorted(set(flat) - set(known))
    return config, f"{workdir / RUN}: fields that this version does not have are left out: {', '.join(gone)}" if gone else ""


def as_now(flat: Mapping) -> dict:
    """Translates fields of a run by an earlier version: values that were renamed get today's names."""
    # Before model.warmup existed, an empty model.system left the chat template's own prompt in place.
    old = "model.warmup" not in flat and flat.get("model.system") == ""
    return dict(flat) | ({"model.system": "default"} if old else {})


def allow(mode: str, name: str, workdir: pathlib.Path) -> None:
    """Raises if `mode` may not change the field `name` of the run in `workdir`, whose value must stay the run's own."""
    if not name.startswith(ALLOWED[mode]):
        may = ", ".join(prefix + "*" if prefix.endswith(".") else prefix for prefix in ALLOWED[mode])
        raise ValueError(
            f"--config.{name}: --mode={mode} takes it from {workdir / RUN}, since it made the run what it is; leave it out "
            f"(what may be given: {may})"
        )


def agree(config: Mapping, base_sha256: str, workdir: pathlib.Path, mode: str) -> None:
    """Raises if the fields of `config`, or the base model, are not those of the run in `workdir`: it would be misread."""
    theirs = described(workdir)
    made = {name: value for name, value in config.items() if not name.startswith(FREE + ALLOWED[mode])}
    before = settings.flatten(config_of(workdir)[0])
    changed = settings.differences(made, {name: before[name] for name in made})
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise ValueError(
            f"{workdir} holds a run of another config, {changed[0]}{more}; leave out --config and its flags: --workdir alone "
            f"takes the run's own config"
        )
    if theirs["base_sha256"] != base_sha256:
        raise ValueError(
            f"{workdir}: the base model: {theirs['base_sha256'][:12]} before, {base_sha256[:12]} now; give the "
            f"--config.model.path of the base that the run was trained on"
        )
