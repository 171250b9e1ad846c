"""Services of the operating system: what happens with them, and on a system that lacks them."""

import errno
import os
import subprocess
import sys

import pytest
from test_main import smoke

from pubswap_jax import system
from pubswap_jax.verifier import pool

HIDDEN = ("fcntl", "resource")


def test_a_lock_keeps_another_process_out(tmp_path):
    with open(tmp_path / "lock", "a") as ours, open(tmp_path / "lock", "a") as theirs:
        assert system.lock(ours) == ""
        with pytest.raises(BlockingIOError):
            system.lock(theirs)


def test_a_folder_without_locks_says_why(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with open(tmp_path / "lock", "a") as ours:
        assert system.lock(ours) == "No locks available"


def test_the_peak_of_memory_grows_with_what_is_held():
    before = system.peak_bytes()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])  # touch every page
    assert 1 << 20 < before <= system.peak_bytes() < 1 << 40


def test_without_the_modules_nothing_is_locked_or_measured(tmp_path, monkeypatch):
    for name in HIDDEN:
        monkeypatch.setitem(sys.modules, name, None)
    with open(tmp_path / "lock", "a") as ours, open(tmp_path / "lock", "a") as theirs:
        assert system.lock(ours) == system.lock(theirs) == "this system has no fcntl"
    assert system.peak_bytes() is None


@pytest.mark.parametrize("module, name", [("os", "fork"), ("socket", "send_fds")])
def test_a_system_that_cannot_fork_is_named_before_anything_starts(module, name, monkeypatch):
    monkeypatch.delattr(sys.modules[module], name)
    with pytest.raises(ValueError, match="the verifier forks its workers, which this system cannot; use Linux or macOS"):
        pool.Pool(1).run([("1", "2")], 1.0)


@pytest.mark.slow
def test_a_run_on_a_system_without_locks_and_memory_limits(tmp_path):
    """The whole program in processes that find no fcntl and no resource: it says what is missing, and trains."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in HIDDEN:
        (hidden / f"{name}.py").write_text(f"raise ImportError({name!r} + ' is hidden')")
    path = os.pathsep.join([str(hidden), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pubswap_jax.main", *smoke(tmp_path)]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": path}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "cannot be locked (this system has no fcntl)" in said.stdout and "round 1 of 1 saved" in said.stdout
    assert "verifier: this system limits no memory" in said.stderr
