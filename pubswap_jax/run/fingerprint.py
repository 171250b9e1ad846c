"""Fingerprints of Python functions and data that a caller passes: a name, and a SHA-256 that changes with the code."""

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

PLAIN = (bool, int, float, str, bytes, type(None))


def name_of(thing: Any) -> str:
    """The name of a function, or of what a partial function or an object was made from."""
    if isinstance(thing, functools.partial):
        return name_of(thing.func)
    return getattr(thing, "__name__", type(thing).__name__)


def of_function(function: Any) -> str:
    """SHA-256 of a function's source, its defaults, and the plain values and functions that it closes over."""
    return hashlib.sha256("\n".join(_parts(function, set())).encode()).hexdigest()


def of_functions(record: Sequence[Any]) -> str:
    """One SHA-256 of a tuple whose entries are functions and plain values, such as an Aggregator."""
    return hashlib.sha256("\n".join(part for one in record for part in _parts(one, set())).encode()).hexdigest()


def of_rows(rows: Sequence[Mapping]) -> str:
    """SHA-256 of rows of questions."""
    return hashlib.sha256(json.dumps([dict(row) for row in rows], default=str).encode()).hexdigest()


def _parts(thing: Any, seen: set[int]) -> list[str]:
    if isinstance(thing, PLAIN):
        return [repr(thing)]
    if isinstance(thing, tuple):  # no list: a function may use one to count its calls
        return [f"{len(thing)} items", *(part for one in thing for part in _parts(one, seen))]
    if id(thing) in seen or not callable(thing):
        return [type(thing).__qualname__]
    seen.add(id(thing))
    if isinstance(thing, functools.partial):
        return [part for one in (thing.func, thing.args, tuple(sorted(thing.keywords.items()))) for part in _parts(one, seen)]
    function = inspect.unwrap(thing)
    parts = [_source(function), *_parts(getattr(function, "__defaults__", None), seen)]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            parts += _parts(cell.cell_contents, seen)
        except ValueError:  # a cell that is still empty: the function names itself
            parts.append("empty")
    return parts


def _source(function: Any) -> str:
    """The text to hash for a function: its source, else its byte code; for an object, its class's source."""
    try:
        return inspect.getsource(function if hasattr(function, "__code__") or inspect.isclass(function) else type(function))
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        if code is None:
            return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', name_of(function))}"
        return f"{code.co_code.hex()} {code.co_names} {[one for one in code.co_consts if isinstance(one, PLAIN)]}"
