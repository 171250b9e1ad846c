"""The device mesh (client x data x model), and shardings of the base parameters, client states and questions.

Pure code does not refer to the mesh. The same program runs with all clients on one device, with clients spread over devices,
or with the base sharded over `model`. Only the placement of the arguments differs; jit partitions the program accordingly.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey

from pubswap_jax.types import PyTree

AXES = ("client", "data", "model")

# Megatron's rule (arXiv 1909.08053): split one layer's output axis and the next layer's input axis, then sum once. The head and
# the embedding are split over the vocabulary. Axes count from the end, because scanned layers add a leading axis.
_MODEL_AXIS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head"), -1),
    **dict.fromkeys(("o_proj", "down_proj", "embed_tokens"), -2),
}


def make_mesh(client: int = 1, data: int = 1, model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of client x data x model devices. Uses the first of `devices`, by default of `jax.devices()`."""
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
    # jax.make_mesh orders devices by their interconnect. Its default axis type, Explicit, makes a sort over clients raise.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed])


def clients_sharding(mesh: Mesh, num_clients: int) -> NamedSharding:
    """Sharding of arrays stacked over clients, [C, ...]: states, verdicts, plans, metrics."""
    _divides(mesh, "client", num_clients, "num_clients")
    return NamedSharding(mesh, PartitionSpec("client"))


def data_sharding(mesh: Mesh, num_clients: int, num_prompts: int) -> NamedSharding:
    """Sharding of training questions and rollouts, [C, B, ...]: clients over `client`, questions over `data`."""
    _divides(mesh, "client", num_clients, "num_clients")
    _divides(mesh, "data", num_prompts, "prompts a client")
    return NamedSharding(mesh, PartitionSpec("client", "data"))


def questions_sharding(mesh: Mesh, num_models: int, num_prompts: int) -> NamedSharding:
    """Sharding of an evaluation's questions, [B, ...].

    For one model, the questions are split over `client` and `data`. Several models occupy the `client` axis, so their questions
    are split over `data` only. If the number of devices does not divide B, the questions are replicated.
    """
    axes = ("client", "data") if num_models == 1 else ("data",)
    devices = int(np.prod([mesh.shape[axis] for axis in axes]))
    return NamedSharding(mesh, PartitionSpec(axes if num_prompts % devices == 0 else None))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of the server's state, keys and hyperparameters: a full copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def params_sharding(mesh: Mesh, params: PyTree) -> PyTree:
    """A sharding for each leaf of the base: linear layers and embeddings are split over `model`, other leaves replicated."""

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
