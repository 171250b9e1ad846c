"""One side: `sample` of one client without an adapter, as `generate` samples the bare model.

python ours.py FOLDER DTYPE
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from common import prompt_ids, serve

from pubswap_jax import Prompts, Transformer, load_pretrained, sample


def main(folder: str, dtype: str) -> None:
    config, base = load_pretrained(folder, dtype=dtype)
    model = Transformer(config.replace(dtype=dtype))
    ids = jnp.asarray(prompt_ids(config.vocab_size), jnp.int32)
    expected = np.load(pathlib.Path(folder) / "logits.npy")
    difference = np.abs(jax.jit(model.apply)(base, ids) - expected).max()
    if dtype == "float32" and difference > 1e-3:
        raise SystemExit(f"the logits differ from the peer's by {difference}: these are not the same models")
    print(f"{dtype}: largest difference from the peer's float32 logits {difference:.2g}", file=sys.stderr)
    prompts = Prompts(tokens=ids[None], mask=jnp.ones(ids[None].shape, bool))
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    def rollout(group: int, length: int) -> None:
        rollouts = sample(model, base, None, prompts, next(keys), group=group, max_new_tokens=length, eos_ids=())
        jax.block_until_ready(rollouts)

    serve(rollout)


if __name__ == "__main__":
    main(*sys.argv[1:])
