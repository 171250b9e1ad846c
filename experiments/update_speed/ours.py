"""One side: the `learn` of one client: `shared` (prompts encoded once a group), `checkpointed` (the same, its blocks
recomputed backwards) or `repeated` (a prompt a response).

python ours.py FOLDER shared|checkpointed|repeated PROMPTS ROWS [DTYPE]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import GROUP, serve, token_matrix

from pubswap_jax import Hparams, Prompts, Rollout, Transformer, Verdict, load_pretrained, make_client, over_clients
from pubswap_jax.algorithm.losses import no_baseline
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.weights.pretrained import load_adapter


def main(folder: str, form: str, prompts: str, rows: str, dtype: str = "float32") -> None:
    # Without a scan XLA's CPU compiler computes ahead what remat would recompute late, and saves nothing.
    config, base = load_pretrained(folder, dtype=dtype, scan_layers=form == "checkpointed")
    config, adapter = load_adapter(f"{folder}/adapter", config)
    config = config.replace(remat="block" if form == "checkpointed" else "none")
    given = token_matrix(int(prompts), config.vocab_size)
    if form == "repeated":
        given = {
            "prompts": np.repeat(given["prompts"], GROUP, axis=0),
            "responses": given["responses"].reshape(-1, 1, given["responses"].shape[-1]),
            "advantages": given["advantages"].reshape(-1, 1),
        }
    given = jax.tree.map(lambda x: jnp.asarray(x)[None], given)
    # The advantages are given, so that both forms and the peer train on the same ones.
    client = make_client(
        Transformer(config),
        optax.scale_by_adam(),
        Learning(advantages=no_baseline, microbatch=int(rows) if form == "repeated" else 1),
        group=GROUP,
        max_new_tokens=given["responses"].shape[-1],
        ends=(config.eos_ids, config.pad_id),
    )
    learn = jax.jit(over_clients(client).learn)
    clients = jax.tree.map(lambda x: x[None], client.start({"adapter": adapter}))
    tokens, advantages = given["responses"], given["advantages"]
    mask = jnp.ones(tokens.shape, bool)
    rollout = Rollout(tokens, mask, jnp.zeros(tokens.shape))
    verdict = Verdict(advantages, advantages > 0, jnp.zeros(advantages.shape, jnp.int8))
    swapped = jnp.zeros(advantages.shape, bool)
    asked = Prompts(given["prompts"], jnp.ones(given["prompts"].shape, bool))

    def update():
        nonlocal clients
        clients, metrics = learn(base, adapter, clients, asked, rollout, verdict, swapped, Hparams.create(lr=1e-5))
        jax.block_until_ready(clients.adapter)
        on_device = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return {"grad_norm": float(metrics["grad_norm"][0])} | ({"peak": on_device} if on_device else {})

    serve(update)


if __name__ == "__main__":
    main(*sys.argv[1:])
