"""Runs on several hosts: start-up, placement of global arrays, exchange of small values, and failure messages.

Every process runs the same program on its own devices (JAX's multi-controller model). Arrays on the mesh are global. Each
process creates, reads and verifies the shards on its own devices. `fetch`, `gathered`, `told`, `shared` and `agree` are
collective: all processes must call them in the same order. With one process there is no communication.
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # JAX has no public name for its key-value store
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from pubswap_jax.types import PyTree

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT = 20  # seconds without a heartbeat after which a process counts as dead and the others exit
PATIENCE = 24 * 3600 * 1000  # barrier timeout in milliseconds; long, because heartbeats already detect dead processes
LOST = ("heartbeat", "Gloo", "NCCL", "UNAVAILABLE", "Connection", "Barrier failed")  # words in errors caused by a dead process
WITNESS = (
    "import signal, sys\n"
    "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
    "if not sys.stdin.read(): print(sys.argv[1], file=sys.stderr)"
)
_turns = itertools.count()


# --- processes ----------------------------------------------------------------------------------------------------------


def start() -> None:
    """Initialises `jax.distributed` if the environment describes several processes. Call before any use of a device."""
    settings = launched(os.environ)
    if settings is None:
        return
    # JAX's preemption service would intercept SIGTERM, which this program handles itself.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**settings, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=HEARTBEAT)
    if jax.process_count() > 1:
        _watch()


def launched(environment: Mapping[str, str]) -> dict | None:
    """Arguments for `jax.distributed.initialize`, or None if this is the only process.

    Several processes are recognised by all three of VARIABLES, by SLURM's `srun` with more than one task, or by the
    environment of a TPU slice.
    """
    given = [name for name in VARIABLES if environment.get(name)]
    if given:
        missing = [name for name in VARIABLES if name not in given]
        if missing:
            raise ValueError(f"{given[0]} is set and {missing[0]} is not: many processes need {', '.join(VARIABLES)}")
        address, total, number = (environment[name] for name in VARIABLES)
        if not (total.isdigit() and number.isdigit() and int(number) < int(total)):
            raise ValueError(f"JAX_PROCESS_ID={number}: a number from 0 up to JAX_NUM_PROCESSES={total} expected")
        only = {"cluster_detection_method": "deactivate"}
        return {"coordinator_address": address, "num_processes": int(total), "process_id": int(number)} | only
    if environment.get("SLURM_STEP_NODELIST") and int(environment.get("SLURM_NTASKS", "1")) > 1:
        return {"cluster_detection_method": "slurm"}
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") and importlib.util.find_spec("libtpu"):
        return {}
    return None


def several() -> bool:
    """Whether the run has more than one process."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def name() -> str:
    """Name of this process in messages: 'process 1 of 2 (hostname)'."""
    return f"process {jax.process_index()} of {jax.process_count()} ({socket.gethostname()})"


def _watch() -> None:
    """Starts a witness process that prints a message if this process ends without one.

    A handler in this process would not run: JAX aborts it when another process dies.
    """
    words = (
        f"pubswap_jax: {name()} ended because another process died (any lines above name it) or because it was killed itself; "
        f"the same command on every host goes on from the last checkpoint"
    )
    command = [sys.executable, "-S", "-c", WITNESS, words]
    _watch.pipe = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).stdin


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Context of a run in several processes. On an error, prints a line that names this process, and exits at once.

    A normal exit would wait for the other processes, which may never finish.
    """
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except Exception as error:
        lost = isinstance(error, jax.errors.JaxRuntimeError) and any(sign in str(error) for sign in LOST)
        gone = "another process has gone: " if lost else ""
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        again = "; the same command on every host goes on from the last checkpoint" if lost else ""
        print(f"pubswap_jax: {name()}: {gone}{line[:600]}{again}", file=sys.stderr, flush=True)
        _watch.pipe.write(b"said")
        _watch.pipe.flush()
        os._exit(1 if lost else 2)
    _watch.pipe.write(b"said")
    _watch.pipe.flush()


# --- arrays -------------------------------------------------------------------------------------------------------------


def put(tree: PyTree, sharding: Sharding | None = None) -> PyTree:
    """Places values that every process has on the devices of `sharding`. Each process copies only its own devices' shards."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda x: _put(x, sharding), tree)


def _put(x, sharding: Sharding) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
    places = sharding.addressable_devices_indices_map(x.shape).items()
    parts = [jax.device_put(x[index], device) for device, index in places]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)


def fetch(tree: PyTree) -> PyTree:
    """Brings global arrays to every process as numpy arrays. Collective."""

    def whole(x):
        here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return x if here else _replicate(x.sharding.mesh)(x)

    return jax.device_get(jax.tree.map(whole, tree))


@functools.cache
def _replicate(mesh):
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def owned(array: jax.Array) -> list[tuple[tuple[slice, ...], np.ndarray]]:
    """(index, values) of the shards that this process owns. Every element has exactly one owner, also if it is replicated."""
    mine = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return [(shard.index, np.asarray(jax.device_get(shard.data))) for shard in mine]


# --- values -------------------------------------------------------------------------------------------------------------


def gathered(value) -> list:
    """Every process's value, as a list in process order. A value must be JSON-serialisable. Collective."""
    if jax.process_count() == 1:
        return [value]
    store, turn = distributed.global_state.client, next(_turns)
    store.key_value_set(f"pubswap/{turn}/{jax.process_index():06d}", json.dumps(value))
    store.wait_at_barrier(f"pubswap/{turn}", PATIENCE)
    found = sorted(store.key_value_dir_get(f"pubswap/{turn}/"))
    if turn:  # all processes passed this barrier, so all have read the values of the previous turn
        store.key_value_delete(f"pubswap/{turn - 1}/{jax.process_index():06d}")
    return [json.loads(text) for _, text in found]


def told(value):
    """Sends process 0's value to every process and returns it. It must be JSON-serialisable. Collective."""
    return gathered(value if first() else None)[0]


def shared(tree: PyTree, like: PyTree) -> PyTree:
    """Sends process 0's tree of numpy arrays to every process and returns it. Collective.

    Only process 0 needs `tree`. `like` gives shapes and dtypes on the other processes.
    """
    if jax.process_count() == 1:
        return tree
    mine = tree if first() else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(mine))


def agree(facts: Mapping[str, object]) -> None:
    """Raises on every process if some process has other facts than process 0. The error names process and fact. Collective."""
    expected, *others = gathered(dict(facts))
    for number, found in enumerate(others, 1):
        for fact in expected | found:
            if expected.get(fact) != found.get(fact):
                raise ValueError(
                    f"process {number} has another {fact}: {found.get(fact)!r}, and process 0 has {expected.get(fact)!r}; "
                    f"start the same command with the same files everywhere"
                )
