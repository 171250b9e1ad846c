"""Placement of a run's arrays: on the mesh that its config describes, or on a single device."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from pubswap_jax.algorithm.pubswap import Algorithm
from pubswap_jax.devices import mesh
from pubswap_jax.devices.hosts import put
from pubswap_jax.types import PyTree


def make_devices(config) -> Mesh | None:
    """The mesh of the config; None for one device, where shardings would only make programs compile again."""
    devices = mesh.make_mesh(config.mesh.client, config.mesh.data, config.mesh.model)
    if jax.process_count() > 1 and devices.size != jax.device_count():
        raise ValueError(
            f"mesh.client x mesh.data x mesh.model is {devices.size}, and {jax.process_count()} processes have "
            f"{jax.device_count()} devices: all are needed, as with --config.mesh.client={jax.device_count()}"
        )
    if jax.process_count() > 1 and config.training.client_microbatch:
        raise ValueError("config.training.client_microbatch: 0 expected where processes share the clients; raise mesh.client")
    return devices if devices.size > 1 else None


def make_place(devices: Mesh | None) -> Callable[..., PyTree]:
    """(tree, sharding=replicated) -> arrays on the mesh. Without a mesh, uncommitted arrays; the sharding is ignored."""
    if devices is None:
        return lambda tree, sharding=None: jax.device_put(tree)
    everywhere = mesh.replicated(devices)
    return lambda tree, sharding=everywhere: put(tree, sharding)


def make_place_questions(devices: Mesh | None) -> Callable[[PyTree, int], PyTree]:
    """(tree [B, ...], number of models) -> an evaluation's questions, sharded over the devices."""
    if devices is None:
        return lambda tree, models: jax.device_put(tree)
    return lambda tree, models: put(tree, mesh.questions_sharding(devices, models, len(jax.tree.leaves(tree)[0])))


def placed(algorithm: Algorithm, devices: Mesh | None, num_clients: int) -> Algorithm:
    """Shards the clients over the mesh in `init_clients`. All later arrays take their sharding from the arguments."""
    if devices is None:
        return algorithm
    sharding = mesh.clients_sharding(devices, num_clients)
    return algorithm._replace(init_clients=jax.jit(algorithm.init_clients, out_shardings=sharding))
