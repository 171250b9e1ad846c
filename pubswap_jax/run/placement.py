"""Puts a run's arrays on devices: on a mesh of several devices, or on a single device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from pubswap_jax.algorithm.pubswap import State
from pubswap_jax.devices import mesh
from pubswap_jax.devices.hosts import put
from pubswap_jax.types import PyTree


class Placement(NamedTuple):
    """Where a run's arrays go on the devices: functions that put questions, states and parameters there."""

    put: Callable[..., PyTree]  # (tree, sharding=replicated) -> arrays on the run's devices
    put_questions: Callable[[PyTree, int], PyTree]  # (tree [B, ...], number of models) -> sharded arrays
    batch: Any  # the sharding of a step's questions
    shardings: dict[str, Any]  # of programs' results, by the programs' names
    spread: bool  # several devices: each computes some of the clients, so that all clients are computed


def make_devices(client: int, data: int, model: int, client_microbatch: int = 0) -> Mesh | None:
    """A mesh of that many devices; None for one device, where shardings would only make programs compile again."""
    devices = mesh.make_mesh(client, data, model)
    if jax.process_count() > 1 and devices.size != jax.device_count():
        raise ValueError(
            f"mesh.client x mesh.data x mesh.model is {devices.size}, and {jax.process_count()} processes have "
            f"{jax.device_count()} devices: all are needed, as with --config.mesh.client={jax.device_count()}"
        )
    if jax.process_count() > 1 and client_microbatch:
        raise ValueError("config.training.client_microbatch: 0 expected where processes share the clients; raise mesh.client")
    return devices if devices.size > 1 else None


def placement(devices: Mesh | None, num_clients: int, num_prompts: int) -> Placement:
    """Without a mesh, arrays are uncommitted. On one, clients are sharded where they start; later arrays follow them."""
    if devices is None:
        alone = lambda tree, *_: jax.device_put(tree)  # noqa: E731
        return Placement(alone, alone, None, {}, False)
    clients, everywhere = mesh.clients_sharding(devices, num_clients), mesh.replicated(devices)

    def put_questions(tree: PyTree, models: int) -> PyTree:
        return put(tree, mesh.questions_sharding(devices, models, len(jax.tree.leaves(tree)[0])))

    return Placement(
        lambda tree, sharding=everywhere: put(tree, sharding),
        put_questions,
        mesh.data_sharding(devices, num_clients, num_prompts),
        {"init": State(everywhere, clients), "start": clients, "everyone": clients, "gather": everywhere},
        True,
    )
