"""`--mode=plan`: estimates the memory of each device and the time of a round without allocating the model."""

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pubswap_jax import settings
from pubswap_jax.files import bytes_text
from pubswap_jax.run.assembly import keep_programs
from pubswap_jax.run.estimate_memory import PEAK, bytes_of, needed
from pubswap_jax.run.methods import Sizes, one_device, sizes_of
from pubswap_jax.run.policy import check_context, check_family, model_of
from pubswap_jax.types import ModelConfig
from pubswap_jax.weights.pretrained import param_shapes

# Settings that save memory. Those in HARMLESS do not change the result.
HARMLESS = (("training.client_microbatch", 1), ("training.microbatch", 1), ("model.remat", "block"))
SAVINGS = (
    *HARMLESS,
    ("model.dtype", "bfloat16"),
    ("training.max_new_tokens", 256),
    ("data.max_prompt_tokens", 256),
    ("training.group", 4),
)


def plan(config, say: Callable[[str], None] = lambda line: None) -> str:
    """Estimates a run as a text table: bytes of memory and seconds of a round. `say` prints progress.

    If the run does not fit, the table is followed by settings that help.
    """
    model_config = model_of(config)
    check_context(config, model_config)
    check_family(config, model_config)
    keep_programs(config)
    whole = sizes_of(config)
    say(headline(whole, model_config))
    rate, bandwidth = measured(whole.dtype)
    seconds = round_seconds(config, model_config, rate, bandwidth)
    say(f"one round takes {_span(sum(seconds.values()))} at least; compiling the rollout and the update for their memory")
    need = needed(config, model_config)
    have, where = memory()
    which = f", of {whole.devices}" * (whole.devices > 1)
    lines = [headline(whole, model_config), "", f"memory of one device{which}"]
    lines += [f"  {name:<48}{bytes_text(count):>10}" for name, count in need.items()]
    lines += [f"  {f'there is ({where})':<48}{bytes_text(have):>10}", "", "time, without evaluation and verification"]
    seconds["all rounds"] = whole.rounds * sum(seconds.values())
    lines += [f"  {name:<48}{_span(spent):>10}" for name, spent in seconds.items()]
    lines.append(f"  the least that it can take at {rate / 1e12:.2f} TFLOP/s and {bandwidth / 1e9:.0f} GB/s, measured just now")
    return "\n".join([*lines, "", *(["it fits"] if need[PEAK] <= have else remedies(config, have, say))])


def headline(sizes: Sizes, model_config: ModelConfig) -> str:
    """One line that describes the run: parameters, clients, questions, rounds."""
    count = sum(x.size for x in jax.tree.leaves(param_shapes(model_config)))
    size = f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.2f} million"
    who = f"{sizes.clients} clients, {sizes.part} at a time"
    what = f"{sizes.prompts} questions a step, {sizes.group} answers to each in up to {sizes.new_tokens} tokens"
    return f"{size} parameters in {sizes.dtype}; {who}; {what}; {sizes.rounds} rounds of {sizes.local} steps"


def remedies(config, have: int, say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Names settings that save memory: the three that save most, each alone and with those above it.

    If these are not enough, also all together.
    """
    found, possible = [], savings(config)
    for number, pair in enumerate(possible, start=1):
        say(f"it does not fit; compiling with {_flag(pair)} ({number} of {len(possible)})")
        found.append((_peak(settings.changed(config, dict([pair]))), pair))
    found.sort()
    lines = [f"{'it does not fit; what helps most:':<50}{'alone':>10}{'with those above':>18}"]
    say("compiling with several of them at once")
    enough = 0
    for count, (alone, pair) in enumerate(found[:3], start=1):
        together = _peak(settings.changed(config, dict(pair for _, pair in found[:count]))) if count > 1 else alone
        mark = "" if pair in HARMLESS else "   changes what is learned"
        lines.append(f"  {_flag(pair):<48}{bytes_text(alone):>10}{bytes_text(together):>18}{mark}")
        enough = enough or count * (together <= have)
    if enough:
        return [*lines, f"with the first {enough if enough > 1 else 'one'} it fits"]
    if len(found) > 3:
        peak = _peak(settings.changed(config, dict(pair for _, pair in found)))
        lines.append(f"  and {' '.join(_flag(pair) for _, pair in found[3:])}: {bytes_text(peak)}")
        if peak <= have:
            return [*lines, "with all of these it fits"]
    return [*lines, "even so it does not fit: take a smaller base or a larger device"]


def _flag(pair: tuple[str, object]) -> str:
    return f"--config.{pair[0]}={pair[1]}"


def round_seconds(config, model_config: ModelConfig, rate: float, bandwidth: float) -> dict[str, float]:
    """Least seconds of a round's phases, from the device's FLOP/s and bandwidth (roofline).

    A decode step reads the weights or multiplies them; training costs 4 FLOP per token and parameter.
    """
    sizes = sizes_of(one_device(config))
    weights = bytes_of(param_shapes(model_config, sizes.dtype)) / sizes.model_shards
    parameters = sum(x.size for x in jax.tree.leaves(param_shapes(model_config))) / sizes.model_shards
    sequences = sizes.part * sizes.prompts * sizes.group
    one_token = max(weights / bandwidth, 2 * parameters * sequences / rate)
    prefill = 2 * parameters * sizes.part * sizes.prompts * sizes.prompt_tokens / rate
    tokens = sizes.clients * sizes.prompts * (sizes.prompt_tokens + sizes.group * sizes.new_tokens)
    update = (6 if sizes.recomputed else 4) * parameters * tokens / rate
    rollout = sizes.clients // sizes.part * (prefill + sizes.new_tokens * one_token)
    return {"rollouts of a round": sizes.steps * rollout, "updates of a round": sizes.steps * sizes.epochs * update}


def measured(dtype: str, size: int = 1024, repeats: int = 4) -> tuple[float, float]:
    """Measures the first device: FLOP/s of a matrix product and bytes/s of a copy, the best of `repeats` runs each."""
    x = jnp.ones((size, size), dtype)
    long = jnp.ones(1 << 24, jnp.float32)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda v: v + 1)
    return 2 * size**3 / _fastest(product, x, x, repeats=repeats), 2 * long.nbytes / _fastest(copy, long, repeats=repeats)


def memory() -> tuple[int, str]:
    """Memory in bytes of the first device, and its name; of the host if the device reports no limit."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"], device.device_kind
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "host"


def savings(config) -> list[tuple[str, object]]:
    """Settings that save memory, as (field, value), without those that the config has already.

    The candidates are SAVINGS.
    """
    flat = settings.flatten(config)
    words = [(name, value) for name, value in SAVINGS if isinstance(value, str) and flat[name] != value]
    return words + [
        (name, value) for name, value in SAVINGS if not isinstance(value, str) and (flat[name] or value + 1) > value
    ]


def _span(seconds: float) -> str:
    """A time for a reader: 90 seconds -> '1.5 min'."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _peak(config) -> int:
    return needed(config, model_of(config))[PEAK]


def _fastest(function, *arguments, repeats: int) -> float:
    jax.block_until_ready(function(*arguments))
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        spent.append(time.perf_counter() - started)
    return min(spent)
