"""Adapter families, and the trees of their arrays: `basis` (frozen, shared by all clients) and `adapter` (trained).

A new family is a cached factory here, which returns an `Adapter`, and a choice in the config. See `lora` for an example. Both
trees have the paths of the layers that they adapt; a layer is a dict of arrays by name.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from pubswap_jax.policy.logps import check_base
from pubswap_jax.types import LINEAR_LAYERS, Adapter, Array, ModelConfig, PyTree


@functools.cache
def lora(rank: int, alpha: float) -> Adapter:
    """The family LoRA (Hu et al., arXiv 2106.09685): adds (α/r) x A B to a linear layer.

    A ~ U(−1/√in, 1/√in), as in PEFT, and B = 0.
    """
    scale = alpha / rank

    def init(key: Array, wide: int, out: int, stack: tuple[int, ...] = ()) -> tuple[dict, dict]:
        bound = wide**-0.5
        a = jax.random.uniform(key, (*stack, wide, rank), float, -bound, bound)
        return {}, {"a": a, "b": jnp.zeros((*stack, rank, out))}

    def apply(x: Array, frozen: dict, trained: dict) -> Array:
        return (x @ trained["a"]) @ (scale * trained["b"])  # scales b, not the larger product

    return Adapter(
        init,
        apply,
        factors=lambda frozen, trained: (trained["a"], scale * trained["b"]),
        peft=lambda frozen, trained: (trained["a"], trained["b"], alpha),
        name="lora",
        settings=(("rank", rank), ("alpha", alpha)),
    )


def init_adapter(key: Array, model, base: PyTree) -> PyTree:
    """Draws the trained arrays of a fresh adapter for all layers of a model. `base` may hold ShapeDtypeStructs."""
    leaves = {}
    for path, stack, wide, out, dtype in _layers(model.config, base):
        layer_key = jax.random.fold_in(key, len(leaves))
        _, trained = _init(model.config.adapter, layer_key, wide, out, stack)
        leaves |= {(*path, name): x.astype(dtype) for name, x in trained.items()}
    return unflatten_dict(leaves)


def init_basis(key: Array, model, base: PyTree) -> PyTree:
    """The family's frozen arrays: {} for LoRA. `base` may hold ShapeDtypeStructs, and its own basis is not read.

    The arrays are a function of the key, so that they are neither saved nor sent. They are computed on the host in float64,
    because every machine must round them to the same float32.
    """
    layers = [layer for layer in _layers(model.config, base) if shapes(model.config.adapter, *layer[2:4])[0]]
    if not layers:
        return {}
    host, leaves = jax.local_devices(backend="cpu")[0], {}
    with jax.enable_x64(True), jax.default_device(host):
        key = jax.device_put(key, host)
        for path, stack, wide, out, dtype in layers:
            frozen, _ = _init(model.config.adapter, jax.random.fold_in(key, len(leaves)), wide, out, stack)
            leaves |= {(*path, name): jax.device_get(x.astype(dtype)) for name, x in frozen.items()}
    return unflatten_dict({path: jnp.asarray(x) for path, x in leaves.items()})


@functools.cache
def shapes(family: Adapter, wide: int, out: int) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The shapes of an adapter's arrays for a layer of this size, by name: those of its frozen and of its trained arrays."""
    parts = jax.eval_shape(lambda: family.init(jax.random.key(0), wide, out))
    frozen, trained = ({name: x.shape for name, x in part.items()} for part in parts)
    return frozen, trained


def check_fits(name: str, family: Adapter, wide: int, out: int) -> None:
    """Raises, with the layer's name, if the family cannot adapt a layer of this size."""
    try:
        shapes(family, wide, out)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def basis_shapes(model, base: PyTree) -> PyTree:
    """The shapes of the frozen arrays that `init_basis` would make, without computing them."""
    leaves = {}
    for path, stack, wide, out, dtype in _layers(model.config, base):
        for name, shape in shapes(model.config.adapter, wide, out)[0].items():
            leaves[(*path, name)] = jax.ShapeDtypeStruct((*stack, *shape), dtype)
    return unflatten_dict(leaves)


def check_layer(name: str, family: Adapter | None, wide: int, out: int, frozen: dict, trained: dict) -> None:
    """Raises unless a layer's arrays, frozen and trained, have the names and shapes of one client's adapter of `family`."""
    if family is None:
        raise ValueError("config.adapter: None, and an adapter was given; give its family, e.g. lora(8, 16.0)")
    expected, found = shapes(family, wide, out), tuple({key: x.shape for key, x in part.items()} for part in (frozen, trained))
    for what, ours, theirs in zip(("basis", "adapter"), expected, found, strict=True):
        if ours != theirs:
            raise ValueError(
                f"{what}: {name} has {_said(theirs)}; {_said(ours)} expected for one client's adapter of the family "
                f"{described(family)}"
            )


def described(family: Adapter) -> str:
    """An adapter family as text, such as 'lora (rank 8, alpha 16)'."""
    said = (f"{name} {value if isinstance(value, str) else format(value, 'g')}" for name, value in family.settings)
    return f"{family.name} ({', '.join(said)})"


def each_layer(function: Callable[..., dict], tree: PyTree, *others: PyTree) -> PyTree:
    """Applies `function(layer, *layers of others)` to every layer of a tree. Where another tree lacks the layer, it gets {}."""
    if all(isinstance(branch, dict) for branch in tree.values()):
        return {name: each_layer(function, x, *(other.get(name, {}) for other in others)) for name, x in tree.items()}
    return function(tree, *others)


def all_factors(family: Adapter | None, basis: PyTree, adapters: PyTree) -> list[tuple[Array, Array]]:
    """The factors of ΔW = P Q of all layers: (P [C, ..., in, k], Q [C, ..., k, out]); family None: LoRA's A and B."""
    one = family.factors if family else lambda frozen, trained: (trained["a"], trained["b"])
    pairs: list[tuple[Array, Array]] = []

    def add(trained: dict, frozen: dict) -> dict:
        pairs.append(jax.vmap(one, (None, 0))(frozen, trained))
        return {}

    each_layer(add, adapters, basis)
    return pairs


def _said(arrays: dict[str, tuple[int, ...]]) -> str:
    return " and ".join(f"{name} {list(shape)}" for name, shape in arrays.items()) or "nothing"


def _init(family: Adapter, key: Array, wide: int, out: int, stack: tuple[int, ...]) -> tuple[dict, dict]:
    return family.init(key, wide, out, stack) if stack else family.init(key, wide, out)


def _layers(config: ModelConfig, base: PyTree) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], int, int, jnp.dtype]]:
    """Lists every layer that gets an adapter: (path, leading axes, in, out, dtype of its adapter)."""
    check_base(base)
    if config.adapter is None:
        raise ValueError("config.adapter: None; give an adapter family, e.g. lora(8, 16.0)")
    if unknown := set(config.lora_targets) - set(LINEAR_LAYERS):
        raise ValueError(f"config.lora_targets: {sorted(unknown)[0]!r} is none of {', '.join(LINEAR_LAYERS)}")
    found = False
    for path, kernel in sorted(flatten_dict(base["params"]).items()):
        if path[-1] == "kernel" and path[-2] in config.lora_targets:
            found = True
            *stack, wide, out = kernel.shape
            check_fits("/".join(path[:-1]), config.adapter, wide, out)
            yield path[:-1], tuple(stack), wide, out, jnp.promote_types(kernel.dtype, jnp.float32)
    if not found:
        raise ValueError(
            f"config.lora_targets {config.lora_targets} names no linear layer of the model; choose from LINEAR_LAYERS"
        )
