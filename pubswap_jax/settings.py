"""Configs: loads them from a file, changes fields by flags, checks them before a model or data is loaded, and compares two."""

import ast
import difflib
import importlib
import importlib.util
import math
import numbers
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from pubswap_jax import checks, idle, own
from pubswap_jax.field_table import FIELDS, Field
from pubswap_jax.fields import field_named

SHARED = "common.py"  # a file of this name has what the configs of its folder share; it is no config


def load(spec: str) -> ConfigDict:
    """Loads the config that `spec` names: `math`, `math:preset`, `path/to/config.py` or `path/to/config.py:preset`."""
    name, _, preset = spec.partition(":")
    file = config_file(name)
    try:
        module = _module(file)
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


def config_file(name: str) -> pathlib.Path:
    """The file of a config, given by its path or, for a config of the package, by its name alone."""
    file, ours = pathlib.Path(name), _shipped()
    if file.suffix == ".py" and file.is_file():
        return file
    if name in ours:
        return ours[name]
    raise ValueError(f"--config={name}: {'not a Python file' if file.is_file() else _no_file(file, list(ours))}")


def _shipped() -> dict[str, pathlib.Path]:
    """{name: file} of the package's configs. They lie inside an installed package, and beside the package in a clone."""
    package = pathlib.Path(__file__).parent
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return {file.stem: file for file in _configs_in(folder) if "def get_config(" in file.read_text()}


def _module(file: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def beside(config_file: str, name: str) -> types.ModuleType:
    """Imports the file `name` in the folder of `config_file`: code that the configs of one folder share.

    A config cannot import its neighbour by name, since it is loaded by its path, from any folder, or as part of a package.
    """
    file = pathlib.Path(config_file).with_name(name)
    if not file.is_file():
        raise ValueError(f"it needs {name} in its folder, and there is no {file}")
    try:
        return _module(file)
    except SyntaxError as error:
        raise ValueError(f"{file}:{error.lineno}: {error.msg}") from error


def _no_file(file: pathlib.Path, ours: list[str]) -> str:
    """Says why `file` is not a config file, and lists or suggests configs."""
    if file.is_dir():
        siblings = sorted(str(other) for other in _configs_in(file))
        return f"a folder; name a config file{'' if not siblings else ': ' + ', '.join(siblings[:12])}"
    siblings = sorted(str(other) for folder in {file.parent, pathlib.Path("configs")} for other in _configs_in(folder))
    if file.suffix == ".py" and siblings:
        return f"no such file{nearest(str(file), siblings)}"
    return (
        f"no such file{nearest(file.stem, ours)}; or give the path of a Python file whose get_config() changes "
        f"pubswap_jax.fields.default_config()"
    )


def _configs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.glob("*.py") if file.name not in (SHARED, "__init__.py"))


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets the field `name` (dotted) from a flag's text. A ValueError names the nearest field or the expected type."""
    known = [field.name for field in FIELDS]
    if name.startswith("data.fields."):
        config.data.fields[name.removeprefix("data.fields.")] = _literal(text)
        return
    if name not in known or name == "data.fields":
        raise ValueError(f"--config.{name}: no such field{nearest_field(name)}")
    section, _, leaf = name.rpartition(".")
    (config[section] if section else config)[leaf] = _converted(name, text, type(value_of(config, name)))


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config with these fields set, {dotted name: value}. It is not checked."""
    other = config.copy_and_resolve_references()
    for name, value in changes.items():
        override(other, name, str(value))
    return other


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
    trouble = next(filter(None, (_trouble(field, flat[field.name]) for field in FIELDS)), "")
    trouble = trouble or checks.together(flat) or ("" if trained else idle.without_effect(flat))
    if trouble:
        raise ValueError(f"config.{trouble}")
    for field in FIELDS:
        if field.own and own.names(flat[field.name]) and not trained:
            own.load(field.name, flat[field.name])


def _trouble(field: Field, value: Any) -> str:
    """One line about a value of the wrong type, outside the bounds or not among the choices; empty if the value is allowed."""
    kind = _KINDS[type(field.default)]
    if not isinstance(value, kind.types) or isinstance(value, bool) != (kind.types is bool):
        return f"{field.name}={value!r}: {kind.words} expected"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{field.name}={value}: a finite number expected"
    if field.choices and value not in field.choices and not (field.own and own.names(value)):
        more = "; or FILE.py:NAME, a function of yours" if field.own else ""
        return f"{field.name}={value}: {nearest(str(value), field.choices, '')}{more}"
    if (field.least is not None and value < field.least) or (field.most is not None and value > field.most):
        return f"{field.name}={value}: {field.least} {'or more' if field.most is None else f'to {field.most}'} expected"
    return ""


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


def value_of(config: ConfigDict, name: str) -> Any:
    """Looks up a field in a config by its dotted name, such as 'training.lr'."""
    section, _, leaf = name.rpartition(".")
    return (config[section] if section else config)[leaf]


def chosen(config: ConfigDict, name: str) -> Any:
    """The function that a field's value names, by the table of fields; None for a value that stands for no function.

    The module of the function is loaded here. Where the table gives a factory, the factory's result is returned.
    """
    field, value = field_named(name), value_of(config, name)
    assert isinstance(field.choices, Mapping), f"{name} has no choices that stand for functions"
    if field.own and own.names(value):
        return own.load(name, value)()
    if value not in field.choices:
        raise ValueError(f"config.{name}={value}: {nearest(str(value), field.choices, '')}")
    return made(config, field.choices[value]) if field.choices[value] else None


def made(config: ConfigDict, reference: str) -> Any:
    """The function "module:function", or what the factory "module:factory(field, ...)" returns for the values of the fields."""
    module, _, call = reference.partition(":")
    function, is_factory, given = call.rstrip(")").partition("(")
    found = getattr(importlib.import_module(f"pubswap_jax.{module}"), function)
    return found(*(value_of(config, other) for other in given.split(", ") if other)) if is_factory else found


def targets(config: ConfigDict) -> tuple[str, ...]:
    """The names of the layers that get an adapter. A ValueError names the first unknown layer."""
    if trouble := checks.targets(config.model.lora_targets):
        raise ValueError(f"config.{trouble}")
    return checks.layers(config.model.lora_targets)


def flatten(config: ConfigDict) -> dict[str, Any]:
    """A config as one flat dict, {dotted name: value}. `data.fields` stays one value, a dict."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict) and name != "fields":
            flat |= {f"{name}.{inner}": found for inner, found in flatten(value).items()}
        else:
            flat[name] = value.to_dict() if isinstance(value, ConfigDict) else value
    return flat


def differences(ours: dict, theirs: dict) -> list[str]:
    """Compares two configs: one line for each field whose values differ. `theirs` is the earlier config."""
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return [f"{name}: {theirs.get(name)!r} before, {ours.get(name)!r} now" for name in names]


def nearest_field(name: str) -> str:
    """End of an error message about an unknown field: the nearest field, also by the names of other tools."""
    meant = field_called(name)
    return f"; did you mean {meant}?" if meant else nearest(name, [field.name for field in FIELDS])


def field_called(name: str) -> str:
    """The field that a user means by `name`: what other tools call it, or the only field with this last part; else empty."""
    named = [field.name for field in FIELDS if field.name.split(".")[-1] == name.split(".")[-1]]
    return checks.field_of(name) or (named[0] if len(named) == 1 else "")


def nearest(name: str, known: Iterable[str], lead: str = "; ", write: Callable[[str], str] = str) -> str:
    """End of an error message about an unknown name: the nearest known name, or the first twelve known names."""
    known = list(known)
    # Comparing whole names is not enough: often only the section of a dotted name is wrong, so compare its last part too.
    close = difflib.get_close_matches(name, known, n=1) or [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
    close = close or [k for k in known if difflib.get_close_matches(name.split(".")[-1], [k.split(".")[-1]])]
    return f"{lead}did you mean {write(close[0])}?" if close else f"{lead}there are {', '.join(map(write, known[:12]))}"
