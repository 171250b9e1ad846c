"""Configs: loading from a file, overriding by flags, checking before a model or data is loaded, comparing two configs."""

import ast
import difflib
import importlib.util
import math
import numbers
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from pubswap_jax import checks
from pubswap_jax.fields import FIELDS


def load(spec: str) -> ConfigDict:
    """`path/to/config.py` or `path/to/config.py:preset` -> its config."""
    path, _, preset = spec.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"--config={path}: {_no_file(file)}")
    module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        presets = getattr(module, "PRESETS", {})
        if preset and preset not in presets:
            raise ValueError(f"there is no preset {preset!r}{nearest(preset, presets)}")
        config = module.get_config(preset) if preset else module.get_config()
        if not isinstance(config, ConfigDict):
            raise ValueError(
                f"get_config must return a ConfigDict, as pubswap_jax.fields.default_config() does, not {type(config).__name__}"
            )
        return config
    except Exception as error:  # a config file is a program, so any exception is a mistake in the file
        place = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--config={spec}: {file}{place}: {kind}{getattr(error, 'msg', None) or error}") from error


def _no_file(file: pathlib.Path) -> str:
    """Says why `file` is not a config file, and lists or suggests config files."""
    if file.is_dir():
        siblings = sorted(str(other) for other in file.glob("*.py"))
        return f"a folder; name a config file{'' if not siblings else ': ' + ', '.join(siblings[:12])}"
    siblings = sorted(str(other) for folder in {file.parent, pathlib.Path("configs")} for other in folder.glob("*.py"))
    if siblings:
        return f"no such file{nearest(str(file), siblings)}"
    return (
        f"no such file, and no configs/ folder in {pathlib.Path.cwd()}; run from the repository's folder, or give the path of "
        f"a Python file whose get_config() changes pubswap_jax.fields.default_config()"
    )


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets the field `name` (dotted) from a flag's text. A ValueError names the nearest field or the expected type."""
    known = [field.name for field in FIELDS]
    if name.startswith("data.fields."):
        config.data.fields[name.removeprefix("data.fields.")] = _literal(text)
        return
    if name not in known or name == "data.fields":
        raise ValueError(f"--config.{name}: no such field{nearest_field(name)}")
    section, _, leaf = name.rpartition(".")
    owner = config[section] if section else config
    owner[leaf] = _converted(name, text, type(owner[leaf]))


def _converted(name: str, text: str, kind: type):
    words = {"true": True, "false": False}
    value = text if kind is str else words.get(text.lower(), _literal(text))
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"--config.{name}={text}: {_KINDS[kind].words} expected")
    return value


def _literal(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check(config: ConfigDict, trained: bool = False) -> None:
    """Raises a ValueError that names the first invalid field and the expected values.

    With `trained`, settings without effect are accepted: configs of existing runs may have them, since earlier versions did not
    check.
    """
    flat = flatten(config)
    unknown = sorted(set(flat) - {field.name for field in FIELDS})
    if unknown:
        raise ValueError(f"config.{unknown[0]}: no such field{nearest_field(unknown[0])}")
    missing = [field.name for field in FIELDS if field.name not in flat]
    if missing:
        raise ValueError(f"config.{missing[0]}: missing; begin a config file with pubswap_jax.fields.default_config()")
    for field in FIELDS:
        expected = _KINDS[type(field.default)]
        if not isinstance(flat[field.name], expected.types) or isinstance(flat[field.name], bool) != (expected.types is bool):
            raise ValueError(f"config.{field.name}={flat[field.name]!r}: {expected.words} expected")
    for name, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"config.{name}={value}: a finite number expected")
    for field in FIELDS:
        if field.choices and flat[field.name] not in field.choices:
            raise ValueError(f"config.{field.name}={flat[field.name]}: {nearest(str(flat[field.name]), field.choices, '')}")
    for names, least in _LEAST:
        for name in names.split():
            if flat[name] < least:
                raise ValueError(f"config.{name}={flat[name]}: {least} or more expected")
    for name, lowest, highest in _WITHIN:
        if not lowest <= flat[name] <= highest:
            raise ValueError(f"config.{name}={flat[name]}: {lowest} to {highest} expected")
    group, prompts, part = flat["training.group"], flat["training.prompts"], flat["training.microbatch"]
    if group < 2:
        raise ValueError(f"config.training.group={group}: at least 2 expected, since advantages compare responses")
    if part and prompts % part:
        raise ValueError(f"config.training.microbatch={part}: it must divide config.training.prompts={prompts}")
    clients, some = flat["federation.num_clients"], flat["training.client_microbatch"]
    if some and clients % some:
        raise ValueError(f"config.training.client_microbatch={some}: it must divide config.federation.num_clients={clients}")
    if flat["training.kl_in"] == "reward" and flat["training.kl"] != "k1":
        raise ValueError(
            f"config.training.kl_in=reward: config.training.kl=k1 expected, not {flat['training.kl']}; in the reward k1 alone "
            "has the gradient of the KL divergence"
        )
    if flat["federation.participants"] > clients:
        raise ValueError(f"config.federation.participants={flat['federation.participants']}: there are {clients} clients")
    trouble = checks.targets(flat["model.lora_targets"]) or ("" if trained else checks.without_effect(flat))
    if trouble:
        raise ValueError(f"config.{trouble}")


def check_packages(config: ConfigDict) -> None:
    """Raises a ValueError if training needs a package that is not installed."""
    trouble = checks.missing_package(flatten(config))
    if trouble:
        raise ValueError(f"config.{trouble}")


class _Kind(NamedTuple):
    types: Any
    words: str


_KINDS = {
    bool: _Kind(bool, "True or False"),
    int: _Kind(numbers.Integral, "a whole number"),
    float: _Kind(numbers.Real, "a number"),
    str: _Kind(str, "a text"),
    ConfigDict: _Kind(dict, "columns by name"),
}


_LEAST = (
    ("model.lora_rank federation.num_clients federation.rounds federation.steps training.prompts training.inner_epochs", 1),
    ("training.max_new_tokens evaluation.every evaluation.samples evaluation.batch checkpoint.keep data.max_prompt_tokens", 1),
    ("data.validation mesh.client mesh.data mesh.model", 1),
    ("data.test data.max_questions federation.participants federation.swap_period training.warmup training.microbatch", 0),
    ("evaluation.top_k training.clip_high training.dual_clip training.swap_weight training.prox_coef training.kl_coef", 0),
    ("training.client_microbatch training.lr training.clip_norm checkpoint.steps verifier.workers", 0),
    ("training.weight_decay training.truncation_buffer training.importance_cap", 0),
    ("log.transcripts", -1),
    ("training.temperature evaluation.temperature verifier.timeout data.alpha model.lora_alpha", 1e-6),
)


_WITHIN = (
    ("seed", 0, 2**32 - 1),
    ("evaluation.seed", 0, 2**32 - 1),
    ("evaluation.top_p", 1e-6, 1),
    ("evaluation.min_p", 0, 1),
    ("training.clip_low", 0, 1),
    ("data.public", 0, 1),
)


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{dotted name: value}. `data.fields` stays one value, a dict."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict) and name != "fields":
            flat |= {f"{name}.{inner}": found for inner, found in flatten(value).items()}
        else:
            flat[name] = value.to_dict() if isinstance(value, ConfigDict) else value
    return flat


def differences(ours: dict, theirs: dict) -> list[str]:
    """One line for each field whose values differ. `theirs` is the earlier config."""
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return [f"{name}: {theirs.get(name)!r} before, {ours.get(name)!r} now" for name in names]


def nearest_field(name: str) -> str:
    """Like `nearest`, among the fields and the names that other tools use for them."""
    meant = field_called(name)
    return f"; did you mean {meant}?" if meant else nearest(name, [field.name for field in FIELDS])


def field_called(name: str) -> str:
    """The field that other tools call `name`, or the only field with the same last part; else empty."""
    named = [field.name for field in FIELDS if field.name.split(".")[-1] == name.split(".")[-1]]
    return checks.field_of(name) or (named[0] if len(named) == 1 else "")


def nearest(name: str, known: Iterable[str], lead: str = "; ") -> str:
    known = list(known)
    # Comparing whole names is not enough: often only the section of a dotted name is wrong, so compare its last part too.
    close = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
    close = close or [k for k in known if difflib.get_close_matches(name.split(".")[-1], [k.split(".")[-1]])]
    return f"{lead}did you mean {close[0]}?" if close else f"{lead}there are {', '.join(known[:12])}"
