"""Every regular expression of the verifier, run on the examples beside it."""

import ast
import importlib
import pathlib
import pkgutil
import re

import pytest

from pubswap_jax import verifier
from pubswap_jax.verifier.pattern import Pattern

LONGEST = 40  # characters of a regular expression that needs no examples
MODULES = sorted(module.name for module in pkgutil.iter_modules(verifier.__path__))
PATTERNS = {
    f"{module}.{name}": value
    for module in MODULES
    for name, value in vars(importlib.import_module(f"pubswap_jax.verifier.{module}")).items()
    if isinstance(value, Pattern)
}


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_finds_its_examples_and_not_its_counterexamples(name):
    pattern = PATTERNS[name]
    assert [text for text in pattern.matches if not pattern.finds(text)] == []
    assert [text for text in pattern.not_ if pattern.finds(text)] == []
    assert pattern.matches and (pattern.not_ or pattern.finds("")), (
        "only a pattern that is found everywhere has no counterexample"
    )


def test_a_long_regular_expression_has_examples():
    bare = []
    for path in pathlib.Path(verifier.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "re":
                parts = [n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                bare += [f"{path.name}:{node.lineno}"] if sum(map(len, parts)) > LONGEST else []
    assert bare == []


def test_by_is_how_the_code_applies_a_pattern():
    searched, matched = (Pattern("b", matches=["b"], not_=["a"], by=by) for by in (re.Pattern.search, re.Pattern.match))
    assert searched.finds("ab") and not matched.finds("ab") and matched.finds("ba")
    assert searched.sub("c", "ab") == "ac" and searched.split("abc") == ["a", "c"]
