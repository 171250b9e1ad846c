"""Peak memory of loss and gradient: log-probs in chunks beside the naive form, each in a fresh process.

    python experiments/rollout_speed/loss_memory.py [--vocab=151936] [--hidden=896] [--group=8] [--length=512]

The naive form is a jitted float32 `log_softmax` of all logits and a gather, without remat. The gradient is of a clipped-ratio
loss with regard to the last layer's states. `temp` is what XLA plans for temporaries; `resident` what the whole process held at
most, JAX and the arguments included.
"""

import argparse
import functools
import subprocess
import sys
import time

from common import peak_bytes


def measure(form: str, vocab: int, hidden: int, group: int, length: int) -> None:
    import jax
    import jax.numpy as jnp

    from pubswap_jax.policy import logps

    def naive(unembed, states, tokens):
        every = jax.nn.log_softmax(unembed(states), axis=-1)
        return jnp.take_along_axis(every, tokens[..., None], axis=-1)[..., 0]

    chunk = max(1, logps.LOGITS_AT_ONCE // (vocab * group))
    chunked = functools.partial(logps.chunked_logps, temperature=1.0, chunk=chunk, entropy=False)

    def loss(states, kernel, tokens, old):
        unembed = lambda h: h @ kernel  # noqa: E731
        now = naive(unembed, states, tokens) if form == "naive" else chunked(unembed, states, tokens)[0]
        ratio = jnp.exp(now - old)
        return -jnp.minimum(ratio, jnp.clip(ratio, 0.8, 1.2)).mean()

    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.random.normal(keys[0], (1, group, length, hidden))
    kernel = 0.02 * jax.random.normal(keys[1], (hidden, vocab))
    tokens = jax.random.randint(keys[2], (1, group, length), 0, vocab)
    arguments = (states, kernel, tokens, jnp.full(tokens.shape, -jnp.log(float(vocab))))
    program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    jax.block_until_ready(arguments)
    start = time.perf_counter()
    value, gradient = jax.block_until_ready(program(*arguments))
    seconds = time.perf_counter() - start
    temp, resident = program.memory_analysis().temp_size_in_bytes, peak_bytes()
    norm = float(jnp.linalg.norm(gradient))
    print(f"| {form} | {temp / 1e9:.2f} | {resident / 1e9:.2f} | {seconds:.1f} | {float(value):.6f} | {norm:.6f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("vocab", 151936), ("hidden", 896), ("group", 8), ("length", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--form", choices=("naive", "chunked"))
    arguments = vars(parser.parse_args())
    if arguments["form"]:
        return measure(**arguments)
    print("| form | temp GB | resident GB | s | loss | norm of the gradient |\n|---|---|---|---|---|---|", flush=True)
    for form in ("naive", "chunked"):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--form={form}"], check=True)


if __name__ == "__main__":
    main()
