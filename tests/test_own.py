"""A user's function by its file and name: what loads, and the one line of every mistake."""

import hashlib

import pytest

from pubswap_jax import own


def test_a_value_names_a_file_only_with_its_ending():
    assert own.names("rules.py:half") and own.names("~/a b/rules.py:half") and own.names("rules.py:")
    assert not any(map(own.names, ("mean", "rules.py", "rules:half", "")))


def test_the_function_and_the_digest_are_those_of_the_file(tmp_path):
    file = tmp_path / "rules.py"
    file.write_text("def one(x=1):\n    return x + 1\n")
    assert own.load("federation.aggregate", f"{file}:one")() == 2
    assert own.digest(f"{file}:one") == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (None, "one", "no such file"),
        ("def one(", "one", r"rules.py:1: SyntaxError"),
        ("import nowhere_at_all", "one", "ModuleNotFoundError: No module named"),
        ("def two(): pass", "one", "has no function 'one'; it has two"),
        ("one = 3", "one", "has no function 'one'; it has none"),
        ("def one(uploads): pass", "one", "a function without arguments expected"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(tmp_path, code, name, message):
    file = tmp_path / "rules.py"
    if code is not None:
        file.write_text(code)
    with pytest.raises(ValueError, match=message) as caught:
        own.load("federation.aggregate", f"{file}:{name}")
    assert str(caught.value).startswith("config.federation.aggregate=") and "\n" not in str(caught.value)
