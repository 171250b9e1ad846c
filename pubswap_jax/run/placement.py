"""Where a run's arrays go: on the mesh that its config asks for, or on the one device that there is."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from pubswap_jax.algorithm.pubswap import Algorithm
from pubswap_jax.devices import mesh
from pubswap_jax.devices.hosts import put
from pubswap_jax.types import PyTree


def make_devices(config) -> Mesh | None:
    """The mesh; None on one device, where a placement would only make programs compile again."""
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
    """(tree, sharding=everywhere) -> arrays on the mesh; on one device they are bound to nothing, wherever they should go."""
    if devices is None:
        return lambda tree, sharding=None: jax.device_put(tree)
    everywhere = mesh.replicated(devices)
    return lambda tree, sharding=everywhere: put(tree, sharding)


def make_place_questions(devices: Mesh | None) -> Callable[[PyTree, int], PyTree]:
    """(tree [B, ...], models): the questions of an evaluation, shared by the devices."""
    if devices is None:
        return lambda tree, models: jax.device_put(tree)
    return lambda tree, models: put(tree, mesh.questions_sharding(devices, models, len(jax.tree.leaves(tree)[0])))


def placed(algorithm: Algorithm, devices: Mesh | None, num_clients: int) -> Algorithm:
    """Clients spread over the mesh; all other arrays follow their arguments."""
    if devices is None:
        return algorithm
    sharding = mesh.clients_sharding(devices, num_clients)
    return algorithm._replace(init_clients=jax.jit(algorithm.init_clients, out_shardings=sharding))
