"""A signal ends a run in good order, or by force once it has waited; a second one at once. All is as before after the run."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from pubswap_jax.run.signals import Stop, Stopped

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEAD = """
import os, signal, sys, time
from pubswap_jax.run.signals import Stop, Stopped
stop = Stop("farewell", patience=0.2)
def ask(): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.05)
"""


def ended(body):
    """The output and status of a process that does this while it listens for SIGTERM."""
    code = f"{HEAD}\nwith stop.listening(signal.SIGTERM):\n{textwrap.indent(textwrap.dedent(body), '    ')}\nprint('after')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.split() + done.stderr.split(), done.returncode


@pytest.mark.slow
def test_the_first_signal_ends_in_good_order():
    body = """
        stop.offer(lambda: print("by force", flush=True))
        stop.check()
        ask()
        try: stop.check()
        except Stopped: print("stopped", stop.status); time.sleep(0.5)
    """
    assert ended(body) == (["stopped", "143", "after"], 0)


@pytest.mark.slow
def test_a_run_that_cannot_end_is_saved_by_another_thread():
    """As one that compiles: the main thread is where it hears nothing."""
    body = """
        stop.offer(lambda: print("old", flush=True))
        stop.offer(lambda: print("saved", flush=True))
        ask()
        time.sleep(60)
    """
    assert ended(body) == (["saved", "farewell"], 143)


@pytest.mark.slow
def test_it_ends_even_where_nothing_was_offered_or_saving_fails():
    assert ended("ask(); time.sleep(60)") == (["stopped", "before", "there", "was", "anything", "to", "save"], 143)
    assert ended("stop.offer(lambda: None); sys.stdout.close(); ask(); time.sleep(60)") == ([], 143)
    said, status = ended("stop.offer(lambda: 1 / 0); ask(); time.sleep(60)")
    assert said[:1] == ["pubswap_jax:"] and status == 2


@pytest.mark.slow
def test_the_run_waits_where_the_other_thread_is_saving_already():
    body = """
        stop.offer(lambda: (time.sleep(1), print("saved", flush=True)))
        ask()
        time.sleep(0.6)
        stop.check()
    """
    assert ended(body) == (["saved", "farewell"], 143)


@pytest.mark.slow
def test_the_second_signal_ends_at_once():
    assert ended("ask(); ask(); print('never')") == ([], 128 + signal.SIGTERM)


@pytest.mark.slow
def test_several_processes_wait_for_each_other():
    body = """
        stop = Stop("farewell", gathered=lambda mine: [mine, False], patience=0.1)
        with stop.listening(signal.SIGTERM):
            ask()
            time.sleep(0.4)
            try: stop.check()
            except Stopped: print("stopped", stop.status)
    """
    assert ended(body) == (["stopped", "143", "after"], 0)


def test_a_process_that_another_ones_signal_stops_has_its_status():
    stop = Stop("farewell", gathered=lambda mine: [mine, signal.SIGINT])
    with pytest.raises(Stopped):
        stop.check()
    assert stop.status == 130


def _counted(expected):
    deadline = time.monotonic() + 10
    while threading.active_count() > expected and time.monotonic() < deadline:  # a cancelled timer takes a moment
        time.sleep(0.01)
    return threading.active_count()


def test_handlers_and_threads_are_as_before_after_the_run():
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    outer = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(outer)
    stop = Stop("farewell")
    with pytest.raises(Stopped), stop.listening(signal.SIGTERM):
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(outer) == outer and threads == _counted(threads)
