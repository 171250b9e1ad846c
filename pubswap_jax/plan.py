"""`--mode=plan`: the bytes a device needs and the time a round takes, before anything of that size is allocated."""

import os
import time
from functools import partial

import jax
import jax.numpy as jnp

from pubswap_jax import settings
from pubswap_jax.assembly import adapt, base_folder, make_algorithm, make_tokenizer
from pubswap_jax.hf_config import read_config
from pubswap_jax.model import Transformer, init_lora
from pubswap_jax.page import bytes_text
from pubswap_jax.pretrained import param_shapes
from pubswap_jax.swap import no_swap
from pubswap_jax.types import Hparams, ModelConfig, Prompts, ServerState, Verdict

# What may be changed to need less. The first three change nothing of what is learned.
SAVINGS = (
    ("training.client_microbatch", 1),
    ("training.microbatch", 1),
    ("model.remat", "block"),
    ("model.dtype", "bfloat16"),
    ("training.max_new_tokens", 256),
    ("data.max_prompt_tokens", 256),
    ("training.group", 4),
)


def plan(config) -> str:
    """A table of bytes and seconds, and the settings that would make it fit where it does not."""
    model_config = _model_config(config)
    need = needed(config, model_config)
    have, where = memory()
    lines = [f"{name:<34}{bytes_text(count):>12}" for name, count in need.items()]
    lines.append(f"{'there is (' + where + ')':<34}{bytes_text(have):>12}")
    rate, bandwidth = measured(config.model.dtype)
    seconds = round_seconds(config, model_config, rate, bandwidth)
    lines += [f"{name:<34}{count:>10.1f} s" for name, count in seconds.items()]
    lines.append(
        f"(at {rate / 1e12:.2f} TFLOP/s and {bandwidth / 1e9:.0f} GB/s, measured just now: the least that it can take)"
    )
    if need["peak"] <= have:
        return "\n".join([*lines, "it fits"])
    found = sorted((_peak(_changed(config, name, value)), name, value) for name, value in savings(config))
    lines.append("it does not fit; the three settings that help most:")
    lines += [f"  --config.{name}={value}: peak {bytes_text(peak)}" for peak, name, value in found[:3]]
    together = _peak(_changed(config, *(x for _, name, value in found[:3] for x in (name, value))))
    return "\n".join(
        [*lines, f"  all three: peak {bytes_text(together)}, which {'fits' if together <= have else 'does not fit either'}"]
    )


def needed(config, model_config: ModelConfig) -> dict[str, int]:
    """Bytes on one device: from shapes, and from the memory analysis of the compiled rollout and update."""
    model = Transformer(model_config)
    algorithm = make_algorithm(config, model)
    params = param_shapes(model_config, config.model.dtype)
    server = jax.eval_shape(lambda: ServerState.create(init_lora(jax.random.key(0), model, params)))
    clients = jax.eval_shape(algorithm.init_clients, server)
    part = config.training.client_microbatch or config.federation.num_clients
    some = jax.tree.map(lambda x: jax.ShapeDtypeStruct((part, *x.shape[1:]), x.dtype), clients)
    shape = (part, config.training.prompts, config.data.max_prompt_tokens)
    prompts = Prompts(jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool))
    key, hparams = jax.eval_shape(lambda: jax.random.key(0)), jax.eval_shape(Hparams.create)
    rollouts = jax.eval_shape(algorithm.rollout, params, some, prompts, key, hparams)
    correct = jax.ShapeDtypeStruct(rollouts.tokens.shape[:3], bool)
    verdicts = jax.eval_shape(Verdict.from_correct, correct)
    swap_plan = jax.eval_shape(partial(no_swap, None), correct)
    rollout = algorithm.rollout.lower(params, some, prompts, key, hparams).compile().memory_analysis()
    update = (
        algorithm.update.lower(params, server, some, prompts, rollouts, verdicts, swap_plan, hparams)
        .compile()
        .memory_analysis()
    )
    base, adapters, moments = _bytes(params), _bytes(clients.lora) + _bytes(server.lora), _bytes(clients.opt_state)
    # Whatever the part under way does not hold of the clients is there all the same.
    waiting = adapters + moments - _bytes(some.lora) - _bytes(some.opt_state)
    return {
        "base": base,
        f"adapters of {config.federation.num_clients} clients": adapters,
        "their moments": moments,
        "rollout: caches and the rest": rollout.temp_size_in_bytes + rollout.output_size_in_bytes,
        "update: activations and the rest": update.temp_size_in_bytes + update.output_size_in_bytes,
        "peak": waiting + max(_total(rollout), _total(update)),
    }


def round_seconds(config, model_config: ModelConfig, rate: float, bandwidth: float) -> dict[str, float]:
    """The roofs of PERFORMANCE.md: a decode step reads the weights or multiplies; training costs 4 FLOP a token and weight."""
    training, steps = config.training, config.federation.steps
    weights = _bytes(param_shapes(model_config, config.model.dtype))
    parameters = sum(x.size for x in jax.tree.leaves(param_shapes(model_config)))
    part = training.client_microbatch or config.federation.num_clients
    passes = config.federation.num_clients // part
    sequences = part * training.prompts * training.group
    one_token = max(weights / bandwidth, 2 * parameters * sequences / rate)
    prefill = 2 * parameters * part * training.prompts * config.data.max_prompt_tokens / rate
    tokens = config.federation.num_clients * training.prompts
    tokens *= config.data.max_prompt_tokens + training.group * training.max_new_tokens
    update = (6 if config.model.remat == "block" else 4) * parameters * tokens / rate
    rollout = passes * (prefill + training.max_new_tokens * one_token)
    return {"rollouts of a round": steps * rollout, "updates of a round": steps * update}


def measured(dtype: str, size: int = 1024, repeats: int = 4) -> tuple[float, float]:
    """FLOP/s of a matrix product and bytes/s of a copy on the first device, the best of a few."""
    x = jnp.ones((size, size), dtype)
    long = jnp.ones(1 << 24, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda v: v + 1)
    return 2 * size**3 / _fastest(product, x, x, repeats=repeats), 2 * long.nbytes / _fastest(copy, long, repeats=repeats)


def memory() -> tuple[int, str]:
    """Bytes of the first device, or of the host where the device is the host."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"], device.device_kind
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "host"


def savings(config) -> list[tuple[str, object]]:
    """The settings of SAVINGS that this config has not yet."""
    flat = settings.flatten(config)
    words = [(name, value) for name, value in SAVINGS if isinstance(value, str) and flat[name] != value]
    return words + [
        (name, value) for name, value in SAVINGS if not isinstance(value, str) and (flat[name] or value + 1) > value
    ]


def _changed(config, *pairs):
    changed = config.copy_and_resolve_references()
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        settings.override(changed, name, str(value))
    return changed


def _peak(config) -> int:
    return needed(config, _model_config(config))["peak"]


def _model_config(config) -> ModelConfig:
    folder = base_folder(config)
    return adapt(config, read_config(folder).replace(scan_layers=config.model.scan_layers), make_tokenizer(config, folder))


def _fastest(function, *arguments, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        spent.append(time.perf_counter() - started)
    return min(spent)


def _total(analysis) -> int:
    return analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes


def _bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
