"""Whatever a worker does, the pool keeps its deadlines and its size, and judges all other answers of the batch."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from pubswap_jax.verifier.pool import Pool


def processes_of_group(pgid: int) -> list[int]:
    """Living processes of a group."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(pgid) and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def left_of(pids) -> list[int]:
    """What lives on in these groups; the kernel takes a moment to end what was killed."""
    deadline = time.monotonic() + 10
    while (found := [one for pid in pids for one in processes_of_group(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


@pytest.fixture(scope="module")
def hostile():
    pool = Pool(2, "tests.hostile_judge:ready")
    yield pool
    pool.close()


@pytest.mark.parametrize("deed", ["hang", "exit", "segfault", "stop", "memory", "fork"])
def test_a_worker_that_misbehaves_costs_its_own_answer_only(hostile, deed):
    pairs = [("a", "a"), ("a", deed), ("a", "b"), ("c", "c")]
    assert hostile.run(pairs, 0.3) == ["correct", "timeout", "wrong", "correct"]
    assert len(set(hostile.pids())) == 2


def test_a_thousand_faults_hang_nothing(hostile):
    rng = random.Random(0)
    deeds = [rng.choice(["exit", "segfault", "memory"]) for _ in range(200)] + ["hang", "stop", "fork"] * 2
    rng.shuffle(deeds)
    pairs = [("a", word) for deed in deeds for word in (deed, "a")]
    found = hostile.run(pairs, 0.2)
    assert found == ["timeout", "correct"] * len(deeds)
    assert len(set(hostile.pids())) == 2


def test_what_a_killed_worker_forked_is_killed_too(hostile):
    hostile.run([("a", "a")] * 2, 1.0)
    before = hostile.pids()
    assert hostile.run([("a", "fork")] * 2, 0.3) == ["timeout"] * 2
    assert left_of(before) == []


def test_a_worker_cannot_fill_a_file(hostile, tmp_path):
    hostile.run([(str(tmp_path / "x"), "write")], 0.5)
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size == 0


def test_it_survives_the_death_of_all_its_processes(hostile):
    hostile.run([("a", "a")], 1.0)
    pids = [*hostile.pids(), hostile._nursery.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert left_of(pids) == []
    assert hostile.run([("a", "a"), ("a", "b")] * 3, 1.0) == ["correct", "wrong"] * 3


def test_any_thread_may_ask_and_gets_its_own_answers(hostile):
    found: dict[int, list[str]] = {}

    def ask(i: int) -> None:
        found[i] = hostile.run([("a", "a" if (i + j) % 2 else "b") for j in range(20)], 1.0)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: ["correct" if (i + j) % 2 else "wrong" for j in range(20)] for i in range(4)}


def test_a_closed_pool_leaves_no_process_and_opens_again():
    pool = Pool(1, "tests.hostile_judge:ready")
    pool.run([("a", "a")], 1.0)
    pids = [*pool.pids(), pool._nursery.pid]
    pool.close()
    assert left_of(pids) == []
    assert pool.run([("a", "a")], 1.0) == ["correct"]
    pool.close()


def test_workers_that_cannot_start_are_an_error(capfd):
    pool = Pool(1, "tests.no_such_module:ready")
    with pytest.raises(RuntimeError, match="do not start"):
        pool.run([("a", "a")], 1.0)
    pool.close()
    assert "ModuleNotFoundError" in capfd.readouterr().err


def test_pairs_that_no_worker_came_to_are_timeouts(monkeypatch):
    pool = Pool(1, "tests.hostile_judge:ready")

    def lose_the_nursery(batch):
        batch.results[batch.next()] = "correct"
        raise EOFError

    monkeypatch.setattr(pool, "_run", lose_the_nursery)
    assert pool.run([("a", "a")] * 6, 1.0) == ["correct"] * 4 + ["timeout"] * 2


@pytest.mark.slow
def test_ctrl_c_ends_a_script_without_a_main_guard_and_its_workers():
    script = textwrap.dedent("""
        import os, signal, threading
        from pubswap_jax.verifier.pool import Pool
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
        pool = Pool(2, "tests.hostile_judge:ready")
        pool.run([("a", "a")], 1.0)
        print(*pool.pids(), flush=True)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            pool.run([("a", "hang")] * 2, 60.0)
        except KeyboardInterrupt:
            print("interrupted", *pool.run([("a", "a")], 1.0), flush=True)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pids, last = done.stdout.splitlines()
    assert last == "interrupted correct"
    assert left_of([int(pid) for pid in pids.split()]) == []


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed():
    script = "from pubswap_jax.verifier.pool import Pool; import time; "
    script += 'p = Pool(1, "tests.hostile_judge:ready"); p.run([("a", "a")], 1.0)'
    script += "; print(*p.pids(), p._nursery.pid, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.wait()
    process.stdout.close()
    assert left_of(pids) == []
