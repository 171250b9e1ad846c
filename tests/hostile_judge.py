"""A worker's judge that does what the answer says, to see that the pool survives it. Run in worker processes only."""

import ctypes
import os
import signal
import time


def ready():
    return judge


def judge(gold: str, answer: str) -> str:
    if answer == "hang":
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_IGN)
        while True:
            time.sleep(1)
    elif answer == "exit":
        os._exit(3)
    elif answer == "segfault":
        ctypes.string_at(0)
    elif answer == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif answer == "memory":
        bytearray(1 << 33)
    elif answer == "fork":
        try:
            for _ in range(5):
                if os.fork() == 0:
                    time.sleep(60)
        except OSError:  # the system forbids it
            time.sleep(60)
        time.sleep(60)
    elif answer == "write":
        with open(gold, "w") as file:
            file.write("x")
    return "correct" if gold == answer else "wrong"
