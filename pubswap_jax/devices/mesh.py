"""Where arrays live: a mesh of clients x data x model, and the shardings of the base, the clients and their questions.

Pure code knows no mesh. The same program runs with all clients on one device or spread over many, and with the base sharded
over `model`: place the arguments and jit does the rest.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from pubswap_jax.types import PyTree

AXES = ("client", "data", "model")

# Megatron's rule (arXiv 1909.08053): split what a layer makes, then sum what the next one takes. Axes count from the end.
_MODEL_AXIS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"), -1),
    **dict.fromkeys(("o_proj", "down_proj", "embed_tokens"), -2),
}


def make_mesh(client: int = 1, data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of client x data x model devices; by default of the first that there are."""
    sizes = {"client": client, "data": data, "model": model}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: a mesh axis of 1 or more expected, got {size}")
    devices = jax.devices() if devices is None else list(devices)
    needed = client * data * model
    if needed > len(devices):
        raise ValueError(
            f"client x data x model: {client} x {data} x {model} = {needed} devices asked for, {len(devices)} found; "
            f"--xla_force_host_platform_device_count={needed} in XLA_FLAGS makes as many on a CPU"
        )
    # jax.make_mesh orders the devices by their links; the default axis type is Explicit, where a sort over clients raises.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed])


def clients_sharding(mesh: Mesh, num_clients: int) -> NamedSharding:
    """For everything stacked over clients, [C, ...]: states, verdicts, plans, metrics."""
    _divides(mesh, "client", num_clients, "num_clients")
    return NamedSharding(mesh, PartitionSpec("client"))


def data_sharding(mesh: Mesh, num_clients: int, num_prompts: int) -> NamedSharding:
    """For questions and rollouts, [C, B, ...]."""
    _divides(mesh, "client", num_clients, "num_clients")
    _divides(mesh, "data", num_prompts, "prompts a client")
    return NamedSharding(mesh, PartitionSpec("client", "data"))


def questions_sharding(mesh: Mesh, num_models: int, num_prompts: int) -> NamedSharding:
    """For the questions of an evaluation, [B, ...]: all devices share them, those of `client` only where one model answers.

    Where the devices do not divide them, everybody has all.
    """
    axes = ("client", "data") if num_models == 1 else ("data",)
    devices = int(np.prod([mesh.shape[axis] for axis in axes]))
    return NamedSharding(mesh, PartitionSpec(axes if num_prompts % devices == 0 else None))


def replicated(mesh: Mesh) -> NamedSharding:
    """For the server's state, keys and hyperparameters."""
    return NamedSharding(mesh, PartitionSpec())


def params_sharding(mesh: Mesh, params: PyTree) -> PyTree:
    """One sharding a leaf of the base: linear layers and embeddings split over `model`, the rest on every device."""

    def place(path, leaf):
        names = [entry.key for entry in path if isinstance(entry, DictKey)]
        axis = next((_MODEL_AXIS[name] for name in reversed(names) if name in _MODEL_AXIS), None)
        if axis is None or names[-1] == "bias" and axis == -2:
            return replicated(mesh)
        _divides(mesh, "model", np.shape(leaf)[axis], f"{'.'.join(names)}'s axis {axis}")
        spec = [None] * np.ndim(leaf)
        spec[axis] = "model"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(place, params)


def _divides(mesh: Mesh, axis: str, count: int, what: str) -> None:
    size = mesh.shape[axis]
    if count % size:
        fitting = [n for n in range(1, min(count, mesh.size) + 1) if count % n == 0]
        raise ValueError(f"mesh axis {axis}: {what} is {count}, which {size} devices do not divide; {fitting} would fit")
