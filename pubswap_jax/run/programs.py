"""Precompilation of programs in a background thread, while the base model is evaluated."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import sound
from pubswap_jax.algorithm.drift import drift
from pubswap_jax.algorithm.pubswap import Algorithm, client_step, step_key
from pubswap_jax.algorithm.swap import donor_matrix
from pubswap_jax.run.assembly import Run, taking_part
from pubswap_jax.run.channel import from_bits
from pubswap_jax.types import Prompts, PyTree, Rollout, ServerState, SwapPlan, Verdict


class Ahead:
    """Compiles programs in one background thread, in the order of the requests."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._coming: dict[Callable, Future] = {}

    def compile(self, program: Callable, *arguments) -> None:
        """Compiles a jitted function for these arguments, or for their shapes."""
        self._begin(program, lambda: program.lower(*arguments).compile())

    def rehearse(self, function: Callable, *arguments) -> None:
        """Calls a pure function, so that the programs it uses are compiled."""
        self._begin(function, lambda: function(*arguments))

    def _begin(self, program: Callable, work: Callable) -> None:
        if program not in self._coming:
            self._coming[program] = self._thread.submit(work)

    def awaited(self, program: Callable) -> Callable:
        """The same function; a call first waits for its compilation. If that failed, the call itself raises the error."""

        def call(*arguments):
            coming = self._coming.get(program)
            if coming and not coming.cancelled():
                wait([coming])
            return program(*arguments)

        return call

    def close(self) -> None:
        """Cancels all compilations that have not begun."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def compile_round(ahead: Ahead, run: Run, server: ServerState, at: tuple[int, int]) -> None:
    """Precompiles the programs that a round from (round, step) `at` will call, in the order of the calls.

    Only on one CPU device. On a GPU, XLA times kernels while it compiles, and other work would distort the timings. On several
    devices, the compiler chooses the shardings of results, so the arguments' shardings are not known in advance.
    """
    mesh = run.config.mesh
    if jax.default_backend() != "cpu" or mesh.client * mesh.data * mesh.model > 1:
        return
    config, algorithm, clients = run.config, run.algorithm, run.algorithm.init_clients(server, None)
    batch, hparams, weights = run.batch(*at), run.hparams(*at), run.weights(at[0])
    present = None if weights is None else run.place(run.present(at[0]))
    rollouts, verdicts, plan = run.place(_results(run, batch.prompts))

    def step() -> None:
        """A step with stand-ins for the large programs, to compile its small ones."""
        rest = Algorithm(None, lambda *_: rollouts, None, lambda *_: (clients, {}), None)
        key = step_key(run.key, run.place(np.array(at, np.uint32)))
        client_step(
            rest, run.params, server, clients, batch.replace(public=False), lambda *_: verdicts, key, hparams, weights, present
        )

    number = config.federation.num_clients if taking_part(run, at[0]) is None else config.federation.participants
    size = min(config.training.client_microbatch or number, number)
    some = _first((clients, batch.prompts, rollouts, verdicts, plan), size)
    ahead.rehearse(step)
    ahead.compile(algorithm.rollout, run.params, *some[:2], run.key, hparams)
    if run.schedule.period:
        ahead.compile(from_bits, verdicts.correct)
        ahead.compile(donor_matrix, plan)
        ahead.compile(algorithm.swap, rollouts, verdicts, run.key, present)
    ahead.compile(algorithm.update, run.params, server, *some, hparams)
    ahead.compile(sound, (clients.adapter, clients.opt_state))
    ahead.rehearse(algorithm.aggregate, server, clients, weights)
    if config.evaluation.clients or not config.federation.average:
        asked = _first((run.validation.prompts, run.validation.prompts.tokens[:, 0]), config.evaluation.batch)
        ahead.compile(run.sampler, run.params, some[0].adapter, *asked, run.evaluation_key)
    ahead.compile(drift, clients.adapter, server.adapter, weights)


def _results(run: Run, prompts: Prompts) -> tuple[Rollout, Verdict, SwapPlan]:
    """The results of a step of all clients, filled with zeros."""
    slots = (*prompts.tokens.shape[:2], run.config.training.group)
    tokens, real = (*slots, run.config.training.max_new_tokens), jnp.result_type(float)
    rollouts = Rollout(*(np.zeros(tokens, dtype) for dtype in (np.int32, bool, real)))
    verdicts = Verdict(*(np.zeros(slots, dtype) for dtype in (real, bool, np.int8)))
    return rollouts, verdicts, SwapPlan(*(np.zeros(slots, dtype) for dtype in (np.int32, bool)))


def _first(tree: PyTree, size: int) -> PyTree:
    """The shapes of the tree with `size` rows, leaves [size, ...]."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), tree)
