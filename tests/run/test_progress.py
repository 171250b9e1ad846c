"""The bar of a terminal, and the lines of a log."""

import threading
import time

from pubswap_jax.run.progress import Progress


def test_the_bar_is_quiet_off_a_terminal_and_says_what_matters_on_one(capsys):
    quiet = Progress(10, 2)
    quiet.step(1, 0.5, 0.1, 100.0)
    quiet.say("round 1 is saved")
    quiet.close()
    captured = capsys.readouterr()
    assert captured.out == "round 1 is saved\n" and captured.err == ""
    loud = Progress(10, 2, visible=True)
    for _ in range(3):
        time.sleep(0.05)
        loud.step(1, 0.5, 0.1, 100.0)
    loud.close()
    seen = capsys.readouterr().err
    assert "reward 0.50 swapped 0.10 100 tok/s" in seen and "round 2:" in seen and "/10" in seen and "<" in seen


def lines_until(capsys, wanted):
    """What is printed until `wanted` is part of it."""
    seen = ""
    for _ in range(2000):
        seen += capsys.readouterr().out
        if wanted in seen:
            return seen
        time.sleep(0.01)
    raise AssertionError(f"{wanted!r} was not printed: {seen!r}")


def test_a_log_has_a_line_during_long_work_and_after_long_steps(capsys):
    others = set(threading.enumerate())
    progress = Progress(10, 2, doing=lambda: "compiling update", every=0.02)
    (thread,) = set(threading.enumerate()) - others
    assert lines_until(capsys, "compiling update").startswith("step 2 of 10 done, ")
    progress.close()
    thread.join(20)
    assert not thread.is_alive()
    time.sleep(0.1)
    capsys.readouterr()
    progress.step(0, 0.5, 0.1, 100.0, 0.25)
    assert "step 3 of 10: reward 0.50, flat groups 0.25, " in capsys.readouterr().out


def test_a_process_that_does_not_write_says_nothing(capsys):
    progress = Progress(10, 2, quiet=True, every=0.001)
    progress.step(0, 0.5, 0.1, 100.0)
    progress.say("a line")
    progress.close()
    assert capsys.readouterr().out == ""
