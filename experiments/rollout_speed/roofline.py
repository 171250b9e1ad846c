"""The share of the machine's limit that a rollout reaches: random weights, forced lengths, beside `generate`.

    python experiments/rollout_speed/roofline.py --config=CONFIG.json --prompts=64 --group=8 --length=512 --peer=dynamic

The limit of a decode step with n sequences, after measuring bandwidth BW and rate F on the same device:
t ≥ max((weights + KV bytes + logits) / BW, 2 N n / F), where a prompt's keys and values are read once a group. `--clients`
and `--rank` give every client an adapter of its own. `--peer` times `transformers.generate`, without adapters, on the same
device and shapes, in a process of its own and before ours: each side has the device's memory to itself.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp

from pubswap_jax.policy import kernel_check
from pubswap_jax.policy.adapter import lora
from pubswap_jax.policy.model import Transformer, init_adapter
from pubswap_jax.policy.sampling import sample
from pubswap_jax.types import Prompts
from pubswap_jax.weights.hf_config import read_config


def timed(function, repeats: int = 3) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and of the fastest one after it."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds[1:])


def limits(dtype: str, size: int) -> tuple[float, float]:
    """Bytes a second of a copy, and FLOP a second of a square matrix product."""
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    wide = jnp.concatenate([x] * 8)  # far larger than any cache
    many = 8  # calls at once, so that no launch is counted

    def seconds(x, function):
        chained = jax.jit(lambda x: jax.lax.fori_loop(0, many, lambda _, y: function(x, y), x))
        return timed(lambda: chained(x))[1] / many

    return 2 * wide.nbytes / seconds(wide, lambda x, y: -y), 2 * size**3 / seconds(x, lambda x, y: x @ y)


def roof(config, weight_bytes: int, parameters: int, shape, rates) -> float:
    """Seconds that the decode steps of a rollout take at least."""
    prompts, group, prompt, length, itemsize = shape
    bandwidth, rate = rates
    rows = prompts * group
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize
    traffic = weight_bytes + prompts * prompt * token + rows * length / 2 * token + rows * config.vocab_size * 4
    return length * max(traffic / bandwidth, 2 * parameters * rows / rate)


def busiest(function, count: int = 20) -> list[str]:
    """The device's time in one call of a compiled function, by kernel: lines of milliseconds, calls and name."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    spent: collections.Counter = collections.Counter()
    calls: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(function())
        file = next(pathlib.Path(folder).rglob("*.xplane.pb"))
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines if plane.name.startswith("/device:") else ():
                for event in line.events if line.name.startswith("Stream") else ():
                    spent[event.name] += event.duration_ns / 1e6
                    calls[event.name] += 1
    total = f"{spent.total():10.1f} {calls.total():8d}  all kernels"
    return [total] + [f"{ms:10.1f} {calls[name]:8d}  {name[:100]}" for name, ms in spent.most_common(count)]


def peer(a, fields: dict) -> dict:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.for_model(**fields)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, a.dtype)).eval()
    ids = torch.randint(0, config.vocab_size, (a.prompts, a.prompt), device=device)
    shared = {"attention_mask": torch.ones_like(ids), "do_sample": True, "top_k": 0, "pad_token_id": 0}
    shared |= {"num_return_sequences": a.group} | ({"cache_implementation": "static"} if a.peer == "static" else {})

    @torch.inference_mode()
    def seconds(length: int) -> float:
        start = time.perf_counter()
        model.generate(ids, **shared, max_new_tokens=length, min_new_tokens=length).cpu()
        return time.perf_counter() - start

    # A static cache compiles for its size, so that only the very same call warms it up.
    first = seconds(a.length if a.peer == "static" else min(a.length, 8))
    return {"first": first, "seconds": seconds(a.length)}


def ours(a, folder: pathlib.Path) -> dict:
    config = read_config(folder).replace(dtype=a.dtype, adapter=lora(a.rank, 2.0 * a.rank) if a.rank else None)
    model = Transformer(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    leaves, tree = jax.tree.flatten(shapes)
    draw = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, a.dtype), static_argnums=1)
    base = jax.tree.unflatten(tree, [draw(jax.random.fold_in(jax.random.key(0), i), x.shape) for i, x in enumerate(leaves)])
    adapters = None
    if a.rank:
        keys = jax.random.split(jax.random.key(3), a.clients)
        adapters = jax.jit(jax.vmap(lambda key: init_adapter(key, model, shapes)))(keys)
    ids = jax.random.randint(jax.random.key(1), (a.clients, a.prompts // a.clients, a.prompt), 0, config.vocab_size)
    prompts = Prompts(tokens=ids, mask=jnp.ones(ids.shape, bool))

    def rollout():
        shape = {"group": a.group, "max_new_tokens": a.length, "eos_ids": ()}
        return sample(model, base, adapters, prompts, jax.random.key(2), **shape).tokens

    first, seconds = timed(rollout, a.repeats)
    if a.kernels:
        print(*busiest(rollout), sep="\n", flush=True)
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    rates = limits(a.dtype, a.square)
    size, count = (sum(f(x) for x in jax.tree.leaves(base)) for f in (lambda x: x.nbytes, lambda x: x.size))
    least = roof(config, size, count, (a.prompts, a.group, a.prompt, a.length, jnp.dtype(a.dtype).itemsize), rates)
    return {"parameters": count, "bandwidth": rates[0], "rate": rates[1], "least": least} | {
        "first": first,
        "seconds": seconds,
        "peak": peak,
        "device": jax.devices()[0].device_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    for name, value in (("prompts", 64), ("group", 8), ("prompt", 256), ("length", 512), ("square", 8192), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--clients", type=int, default=1, help="among whom the prompts are divided")
    parser.add_argument("--rank", type=int, default=0, help="of each client's adapter; 0: the bare base")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--peer", choices=("dynamic", "static"), help="the cache of transformers.generate")
    parser.add_argument("--plain", action="store_true", help="attention by plain products, without the Triton kernel")
    parser.add_argument("--kernels", action="store_true", help="where a GPU's time goes, kernel by kernel")
    parser.add_argument("--alone", action="store_true", help="only the peer's side, as JSON")
    a = parser.parse_args()
    fields = json.loads(pathlib.Path(a.config).read_text()) | {"eos_token_id": None, "bos_token_id": None}
    if a.alone:
        print(json.dumps(peer(a, fields)))
        return
    if a.plain:
        kernel_check.decode_kernel = lambda *_: "xla"
    tokens = a.prompts * a.group * a.length
    if a.peer:
        child = subprocess.run([sys.executable, *sys.argv, "--alone"], stdout=subprocess.PIPE, text=True, check=True)
        theirs = json.loads(child.stdout.splitlines()[-1])
        print(f"generate, {a.peer} cache: {tokens / theirs['seconds']:,.0f} tokens/s ({theirs['seconds']:.2f} s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps({k: v for k, v in fields.items() if v is not None})
        pathlib.Path(folder, "config.json").write_text(text)
        mine = ours(a, pathlib.Path(folder))
    seconds, least = mine["seconds"], mine["least"]
    print(
        f"{mine['device']}: {mine['parameters'] / 1e6:.0f}M parameters, {mine['bandwidth'] / 1e9:.0f} GB/s, "
        f"{mine['rate'] / 1e12:.2f} TFLOP/s"
    )
    print(
        f"ours: {tokens / seconds:,.0f} tokens/s with prefill ({seconds:.2f} s, the first {mine['first']:.1f} s, "
        f"{mine['peak'] / 1e9:.1f} GB), {least / seconds:.2f} of the roof's {tokens / least:,.0f}"
    )
    if a.peer:
        print(f"ratio {theirs['seconds'] / seconds:.2f}")


if __name__ == "__main__":
    main()
