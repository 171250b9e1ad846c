"""Loads the user's own functions, which a field of the config names as FILE.py:NAME."""

import hashlib
import importlib.util
import inspect
import pathlib
import types
from collections.abc import Callable
from typing import Any


def names(value: str) -> bool:
    """Whether a field's value names a function in the user's file, such as 'rules.py:half_step'."""
    return pathlib.Path(value.rpartition(":")[0]).suffix == ".py"


def file_of(value: str) -> pathlib.Path:
    return pathlib.Path(value.rpartition(":")[0]).expanduser()


def digest(value: str) -> str:
    """SHA-256 of the user's file that a field's value, FILE.py:NAME, names."""
    return hashlib.sha256(file_of(value).read_bytes()).hexdigest()


def load(field: str, value: str) -> Callable[[], Any]:
    """Loads the function that `value`, FILE.py:NAME, names. It takes no arguments. A mistake is a ValueError of one line."""
    file, name, said = file_of(value), value.rpartition(":")[2], f"config.{field}={value}"
    if not file.is_file():
        raise ValueError(f"{said}: no such file {file}")
    module = executed(file, said)
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{said}: {file} has no function {name!r}; it has {', '.join(functions_of(module)) or 'none'}")
    parameters = inspect.signature(function).parameters.values()
    if any(one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters):
        raise ValueError(f"{said}: a function without arguments expected, which returns what {field} needs")
    return function


def executed(file: pathlib.Path, said: str) -> types.ModuleType:
    """Runs a Python file and returns its module. An exception in it is a ValueError of one line that begins with `said`."""
    spec = importlib.util.spec_from_file_location(f"_own_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is a program, so any exception is a mistake in it
        place = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{said}: {file}{place}: {type(error).__name__}: {getattr(error, 'msg', None) or error}") from error
    return module


def functions_of(module: types.ModuleType) -> list[str]:
    """The names of the functions that a module defines itself."""
    return [name for name, found in vars(module).items() if inspect.isfunction(found) and found.__module__ == module.__name__]
