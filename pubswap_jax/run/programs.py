"""Compiles a run's functions. Called with shapes, a function returns shapes and is compiled in a background thread.

So the programs of a round are found by running the federation's own `open`, `step` and `close` on shapes, while the base model
is evaluated.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax

from pubswap_jax.run.journal import Clock

BOOKED = ("swap", "update", "average")  # programs that a call waits for, so that their time is booked under their name


class Programs:
    """Compiles by name: `programs(name, function)` is the compiled function. It is the run's `types.Program`.

    Args:
      clock: books the time of BOOKED, and of dispatching rollouts.
      shardings: name -> the shardings of a function's results, on a mesh.
    """

    def __init__(self, clock: Clock, shardings: Mapping[str, Any] | None = None):
        self.clock, self._shardings = clock, dict(shardings or {})
        self.ahead = False  # whether a call with shapes compiles, or only gives the results' shapes
        self.waited = 0.0  # seconds that calls waited for the background thread; not in the clock, whose phases may not overlap
        self._thread: ThreadPoolExecutor | None = None
        self._coming: dict[Callable, list[Future]] = {}
        self._asked: set = set()

    def __call__(self, name: str, function: Callable) -> Callable:
        def named(*arguments):
            return function(*arguments)

        named.__name__ = named.__qualname__ = name
        options = {"out_shardings": self._shardings[name]} if name in self._shardings else {}
        jitted = jax.jit(named, **options)
        run = self.clock.timed(name, jitted, jax.block_until_ready) if name in BOOKED else jitted
        run = self.clock.timed(name, jitted) if name == "rollout" else run

        def call(*arguments):
            if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(arguments)):
                if self.ahead:
                    self._compile(jitted, arguments)
                return jax.eval_shape(jitted, *arguments)
            if jitted in self._coming:
                self._wait(jitted)
            return run(*arguments)

        return call

    @contextlib.contextmanager
    def shapes_alone(self) -> Iterator[None]:
        """A context in which calls with shapes return shapes and compile nothing, whatever `ahead` says outside."""
        ahead, self.ahead = self.ahead, False
        try:
            yield
        finally:
            self.ahead = ahead

    def _compile(self, jitted: Callable, arguments: tuple) -> None:
        """Compiles a function in the background, after earlier requests. If that fails, the later call raises the error."""
        asked = (jitted, jax.tree.structure(arguments), tuple((x.shape, x.dtype) for x in jax.tree.leaves(arguments)))
        if asked in self._asked:
            return
        self._asked.add(asked)
        self._thread = self._thread or ThreadPoolExecutor(1)
        coming = self._thread.submit(lambda: jitted.lower(*arguments).compile())
        self._coming.setdefault(jitted, []).append(coming)

    def _wait(self, jitted: Callable) -> None:
        coming = self._coming[jitted]
        started = time.perf_counter()
        wait([one for one in coming if not one.cancelled()])
        self.waited += time.perf_counter() - started
        del self._coming[jitted]

    def doing(self) -> str:
        """What the run is busy with, in words: the clock's phase, and the first program that is being compiled."""
        unfinished = (jitted for jitted, coming in list(self._coming.items()) if not all(one.done() for one in coming))
        compiling = [f"compiling {jitted.__name__}" for jitted in unfinished][:1]
        return ", ".join(filter(None, (self.clock.phase, *compiling))) or "working"

    def close(self) -> None:
        """Cancels all compilations that have not begun."""
        if self._thread:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        self._coming.clear()


def shapes(tree):
    """Replaces every array of a tree by its shape and dtype, with which functions can be traced without data."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
