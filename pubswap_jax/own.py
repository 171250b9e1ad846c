"""Functions of the user's own that a field names as FILE.py:NAME."""

import hashlib
import importlib.util
import inspect
import pathlib
from collections.abc import Callable
from typing import Any


def names(value: str) -> bool:
    """Whether a field's value names a function of a file: 'rules.py:half_step'."""
    return pathlib.Path(value.rpartition(":")[0]).suffix == ".py"


def file_of(value: str) -> pathlib.Path:
    return pathlib.Path(value.rpartition(":")[0]).expanduser()


def digest(value: str) -> str:
    """SHA-256 of the file that a field's value names."""
    return hashlib.sha256(file_of(value).read_bytes()).hexdigest()


def load(field: str, value: str) -> Callable[[], Any]:
    """The function without arguments that `value` names. A mistake is a ValueError of one line."""
    file, name, said = file_of(value), value.rpartition(":")[2], f"config.{field}={value}"
    if not file.is_file():
        raise ValueError(f"{said}: no such file {file}")
    spec = importlib.util.spec_from_file_location(f"_own_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is a program, so any exception is a mistake in it
        place = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{said}: {file}{place}: {type(error).__name__}: {getattr(error, 'msg', None) or error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        there = [one for one, found in vars(module).items() if inspect.isfunction(found) and found.__module__ == spec.name]
        raise ValueError(f"{said}: {file} has no function {name!r}; it has {', '.join(there) or 'none'}")
    parameters = inspect.signature(function).parameters.values()
    if any(one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters):
        raise ValueError(f"{said}: a function without arguments expected, which returns what {field} needs")
    return function
