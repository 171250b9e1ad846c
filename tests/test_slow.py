"""The slow tests: three thirds of them are all of them, and a third can be run by hand."""

import types

import conftest
import pytest


def left(monkeypatch, third):
    """The names of twelve tests, half of them slow, that stay when this third is asked for."""
    hook = types.SimpleNamespace(pytest_deselected=lambda items: None)
    item = lambda name, slow: types.SimpleNamespace(nodeid=name, get_closest_marker=lambda mark: slow or None)  # noqa: E731
    items = [item(f"tests/test_{name}.py::test", name in "abcdef") for name in "abcdefghijkl"]
    monkeypatch.setenv("PUBSWAP_SLOW_THIRD", third)
    conftest.pytest_collection_modifyitems(types.SimpleNamespace(hook=hook), items)
    return [one.nodeid[11] for one in items]


def test_three_thirds_are_all_slow_tests_and_the_others_stay(monkeypatch):
    thirds = [left(monkeypatch, third) for third in "012"]
    assert thirds == [[*"bcde", *"ghijkl"], [*"a", *"ghijkl"], [*"f", *"ghijkl"]]
    assert left(monkeypatch, "") == [*"abcdefghijkl"]
    with pytest.raises(pytest.UsageError, match="PUBSWAP_SLOW_THIRD=3: 0, 1 or 2 expected"):
        left(monkeypatch, "3")
