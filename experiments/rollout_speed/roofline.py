"""The share of the machine's limit that a rollout reaches: random weights, no adapters, forced lengths, beside `generate`.

    python experiments/rollout_speed/roofline.py --config=CONFIG.json --prompts=64 --group=8 --length=512 --peer

The limit of a decode step with n sequences, after measuring bandwidth BW and rate F on the same device:
t ≥ max((weights + KV bytes + logits) / BW, 2 N n / F), where a prompt's keys and values are read once a group.
`--peer` times `transformers.generate` on the same device and shapes, in half precision.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp

from pubswap_jax.hf_config import read_config
from pubswap_jax.model import Transformer
from pubswap_jax.sampling import sample
from pubswap_jax.types import Prompts


def best(function, repeats: int = 3) -> float:
    """Seconds of the fastest call, after one that compiles."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def limits(dtype: str, size: int) -> tuple[float, float]:
    """Bytes a second of a copy, and FLOP a second of a square matrix product."""
    x = jnp.ones((size, size), dtype)
    copy, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    return 2 * x.nbytes / best(lambda: copy(x)), 2 * size**3 / best(lambda: product(x))


def roof(config, weight_bytes: int, parameters: int, shape, rates) -> float:
    """Seconds that the decode steps of a rollout take at least."""
    prompts, group, prompt, length, itemsize = shape
    bandwidth, rate = rates
    rows = prompts * group
    token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize
    traffic = weight_bytes + prompts * prompt * token + rows * length / 2 * token + rows * config.vocab_size * 4
    return length * max(traffic / bandwidth, 2 * parameters * rows / rate)


def peer_seconds(fields: dict, dtype: str, prompts: int, group: int, prompt: int, length: int) -> float:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = AutoConfig.for_model(**fields)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).to(device).eval()
    ids = torch.randint(0, config.vocab_size, (prompts, prompt), device=device)
    shape = {"num_return_sequences": group, "max_new_tokens": length, "min_new_tokens": length}

    @torch.inference_mode()
    def rollout():
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, pad_token_id=0, **shape).cpu()

    return best(rollout, repeats=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    for name, value in (("prompts", 64), ("group", 8), ("prompt", 256), ("length", 512), ("square", 8192)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--peer", action="store_true")
    a = parser.parse_args()
    fields = json.loads(pathlib.Path(a.config).read_text()) | {"eos_token_id": None, "bos_token_id": None}
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps({k: v for k, v in fields.items() if v is not None})
        pathlib.Path(folder, "config.json").write_text(text)
        config = read_config(pathlib.Path(folder)).replace(dtype=a.dtype)
    model = Transformer(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    draw = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, a.dtype), static_argnums=1)
    params = jax.tree.unflatten(tree, [draw(jax.random.fold_in(jax.random.key(0), i), x.shape) for i, x in enumerate(leaves)])
    ids = jax.random.randint(jax.random.key(1), (1, a.prompts, a.prompt), 0, config.vocab_size)
    prompts = Prompts(tokens=ids, mask=jnp.ones(ids.shape, bool))

    def rollout():
        return sample(
            model, params, None, prompts, jax.random.key(2), group=a.group, max_new_tokens=a.length, eos_ids=()
        ).tokens

    seconds, rates = best(rollout), limits(a.dtype, a.square)
    size, count = (sum(f(x) for x in jax.tree.leaves(params)) for f in (lambda x: x.nbytes, lambda x: x.size))
    least = roof(config, size, count, (a.prompts, a.group, a.prompt, a.length, jnp.dtype(a.dtype).itemsize), rates)
    tokens = a.prompts * a.group * a.length
    device = jax.devices()[0].device_kind
    print(f"{device}: {count / 1e6:.0f}M parameters, {rates[0] / 1e9:.0f} GB/s, {rates[1] / 1e12:.2f} TFLOP/s")
    print(f"{tokens / seconds:,.0f} tokens/s with prefill, {least / seconds:.2f} of the roof's {tokens / least:,.0f}")
    if a.peer:
        theirs = peer_seconds(fields, a.dtype, a.prompts, a.group, a.prompt, a.length)
        print(f"generate: {tokens / theirs:,.0f} tokens/s; ratio {theirs / seconds:.2f}")


if __name__ == "__main__":
    main()
