"""Checkpoints: what is restored is what was saved to the bit, and damage of any kind is seen."""

import errno
import os
import random
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pubswap_jax.run import checkpoint
from pubswap_jax.types import ClientState, ServerState


def state(scale=1.0):
    adapter = {"layer": {"a": jnp.arange(6.0).reshape(2, 3) * scale, "b": jnp.full((3, 2), 1 / 3)}}
    clients = jax.vmap(lambda i: ClientState(i, adapter, optax.scale_by_adam().init(adapter), i, i))(jnp.arange(3))
    return {"server": ServerState(adapter, (), jnp.zeros((), jnp.int32)), "clients": clients}


def test_what_comes_back_is_what_was_saved(tmp_path):
    saved = checkpoint.save(tmp_path, 2, 5, state(), {"metrics": 17})
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found == saved and (found.round, found.step) == (2, 5) and checkpoint.notes(found) == {"metrics": 17}
    restored = checkpoint.load(found, state(scale=0.0))
    assert jax.tree.structure(restored) == jax.tree.structure(state())
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(state()), strict=True):
        assert one.dtype == other.dtype and np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_arrays_of_another_config_are_refused_by_name(tmp_path):
    found = checkpoint.save(tmp_path, 1, 0, state(), {})
    with pytest.raises(ValueError, match="round-000001: holds other arrays"):
        checkpoint.load(found, {"server": state()["server"], "other": jnp.zeros(3)})


def test_every_one_of_a_hundred_random_corruptions_is_seen(tmp_path):
    pristine = checkpoint.save(tmp_path / "pristine", 1, 0, state(), {"round": 1}).path
    older = checkpoint.save(tmp_path / "run", 1, 0, state(), {"round": 1})
    victim = tmp_path / "run" / "round-000002"
    chance = random.Random(0)
    for _ in range(100):
        shutil.rmtree(victim, ignore_errors=True)
        shutil.copytree(pristine, victim)
        harmed = _corrupt(victim, chance)
        lines = []
        assert checkpoint.newest(tmp_path / "run", lines.append) == older
        assert len(lines) == 1 and "round-000002" in lines[0] and harmed in lines[0]


def _corrupt(folder, chance):
    """Flips a bit, cuts, removes or adds a file; returns the name that the message must hold."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    file, kind = chance.choice(files), chance.choice(["flip", "flip", "flip", "cut", "remove", "add"])
    data = bytearray(file.read_bytes())
    if kind == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
    elif kind == "cut":
        file.write_bytes(data[: chance.randrange(len(data))])
    elif kind == "remove":
        file.unlink()
    else:
        file = file.with_name("left.tmp")
        file.write_text("left behind")
    return file.name


def test_a_process_killed_while_it_saves_leaves_the_older_round_and_no_litter(tmp_path, monkeypatch):
    older = checkpoint.save(tmp_path, 1, 0, state(), {})

    class Killed(BaseException):
        pass

    def kill(path):
        raise Killed

    monkeypatch.setattr(checkpoint, "_sync", kill)
    with pytest.raises(Killed):
        checkpoint.save(tmp_path, 2, 0, state(), {})
    monkeypatch.undo()
    assert list(tmp_path.glob(".round-000002.*")), "the half-written folder is there, as after kill -9"
    assert checkpoint.newest(tmp_path, pytest.fail) == older
    checkpoint.prune(tmp_path, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000001"]


def test_no_round_bears_its_name_before_its_bytes_are_synced(tmp_path, monkeypatch):
    synced = []
    real = checkpoint.sync_path
    monkeypatch.setattr(checkpoint, "sync_path", lambda path: (synced.append(path), real(path)))
    rename = os.rename

    def watched(source, target, **kwargs):
        files = {p.relative_to(source) for p in source.rglob("*")}
        assert files <= {p.relative_to(source) for p in synced if p.is_relative_to(source)}
        return rename(source, target, **kwargs)

    monkeypatch.setattr(type(tmp_path), "rename", watched)
    saved = checkpoint.save(tmp_path, 1, 0, state(), {})
    assert saved.path.is_dir() and synced[-1] == tmp_path


@pytest.mark.parametrize("code, words", [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the disk is read-only")])
def test_a_failing_disk_is_named_and_older_rounds_stay(tmp_path, monkeypatch, code, words):
    older = checkpoint.save(tmp_path, 1, 0, state(), {})

    def fail(path):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(checkpoint, "_sync", fail)
    with pytest.raises(checkpoint.NotSaved, match=f"round-000002: not saved, {words}; older rounds are intact"):
        checkpoint.save(tmp_path, 2, 0, state(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["round-000001"]
    assert checkpoint.newest(tmp_path, pytest.fail) == older


def test_a_full_disk_of_one_megabyte(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        older = checkpoint.save(tmp_path, 1, 0, state(), {})
        large = {"x": np.random.default_rng(0).normal(size=1 << 18)}
        with pytest.raises(checkpoint.NotSaved, match="the disk is full"):
            checkpoint.save(tmp_path, 2, 0, large, {})
        assert checkpoint.newest(tmp_path, pytest.fail) == older
        assert checkpoint.save(tmp_path, 2, 0, state(), {}).round == 2
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_damaged_round_is_written_again_in_its_place(tmp_path):
    saved = checkpoint.save(tmp_path, 1, 0, state(), {"n": 1})
    (saved.path / checkpoint.NOTES).write_text("{}")
    checkpoint.save(tmp_path, 1, 0, state(), {"n": 2})
    assert checkpoint.notes(checkpoint.newest(tmp_path, pytest.fail)) == {"n": 2}


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    positions = [(1, 0), (2, 0), (2, 7), (3, 0), (3, 5)]
    for round, step in positions:
        checkpoint.save(tmp_path, round, step, {"x": jnp.ones(2)}, {})
    assert [(c.round, c.step) for c in checkpoint.listed(tmp_path)] == positions
    checkpoint.prune(tmp_path, keep=2, best=1)
    assert [(c.round, c.step) for c in checkpoint.listed(tmp_path)] == [(1, 0), (3, 0), (3, 5)]
    checkpoint.prune(tmp_path, keep=1, best=1, reached=(3, 0))  # (3, 5) was passed over as damaged: it is no newer one
    assert [(c.round, c.step) for c in checkpoint.listed(tmp_path)] == [(1, 0), (3, 0), (3, 5)]
    assert checkpoint.newest(tmp_path / "nothing here", pytest.fail) is None


FULL = """
import sys
import numpy as np
from pubswap_jax.run import checkpoint
if sys.argv[2] == "unforeseen":
    checkpoint._check_space = lambda *_: None
large = {f"x{i}": np.random.default_rng(i).normal(size=1 << 16) for i in range(20)}
try:
    checkpoint.save(sys.argv[1], 2, 0, large, {})
except OSError as error:
    print(error, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["foreseen", "unforeseen"])
def test_a_full_disk_is_one_line_on_stderr(tmp_path, how):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        run = subprocess.run([sys.executable, "-c", FULL, tmp_path, how], capture_output=True, text=True, check=True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert run.stderr.splitlines() == [
        f"{tmp_path}/round-000002: not saved, the disk is full; older rounds are intact, run the same command to go on"
    ]


def test_arrays_are_read_without_a_template(tmp_path):
    found = checkpoint.save(tmp_path, 1, 0, state(), {})
    arrays = checkpoint.arrays(found)
    np.testing.assert_array_equal(arrays["server"]["adapter"]["layer"]["a"], state()["server"].adapter["layer"]["a"])
    assert arrays["clients"]["adapter"]["layer"]["b"].shape == (3, 3, 2)
