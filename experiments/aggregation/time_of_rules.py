"""CPU time of every aggregation rule beside the mean's: 8 clients, rank 16, the layer shapes of Qwen2.5-7B.

    OPENBLAS_NUM_THREADS=1 python -m experiments.aggregation.time_of_rules [--layers 28]

Prints the least CPU time of three calls of the compiled rule, all threads together. Without OPENBLAS_NUM_THREADS=1 the waiting
of the threads of LAPACK counts as work.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pubswap_jax.algorithm.aggregation import mean
from pubswap_jax.algorithm.fedecado import fedecado_rule
from pubswap_jax.algorithm.product_svd import product_svd
from pubswap_jax.algorithm.robust import median, norm_clip, trimmed_mean
from pubswap_jax.algorithm.robust_pca import robust_pca
from pubswap_jax.algorithm.server_optimizers import buffered, fedexp, fedopt, scaffold_rule

CLIENTS, RANK = 8, 16
HIDDEN, KEYS, WIDE = 3584, 512, 18944
SIZES = {  # in, out
    "q_proj": (HIDDEN, HIDDEN),
    "k_proj": (HIDDEN, KEYS),
    "v_proj": (HIDDEN, KEYS),
    "o_proj": (HIDDEN, HIDDEN),
    "gate_proj": (HIDDEN, WIDE),
    "up_proj": (HIDDEN, WIDE),
    "down_proj": (WIDE, HIDDEN),
}
RULES = {
    "mean": mean(),
    "fedopt (adam)": fedopt(optax.adam(1e-2)),
    "fedexp": fedexp(),
    "norm_clip": norm_clip(1.0),
    "buffered (8)": buffered(CLIENTS),
    "scaffold_rule": scaffold_rule(),
    "median": median(),
    "trimmed_mean (2)": trimmed_mean(2),
    "robust_pca (50 iterations)": robust_pca(2.0, 50),
    "fedecado_rule": fedecado_rule(jnp.ones(CLIENTS)),
    "product_svd": product_svd(),
}


def uploads_of(layers: int):
    """A random adapter of all layers [layers, ...], and uploads near it [CLIENTS, layers, ...]."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    pair = lambda wide, out: {"a": normal(layers, wide, RANK) / wide**0.5, "b": 1e-3 * normal(layers, RANK, out)}  # noqa: E731
    adapter = {name: pair(*size) for name, size in SIZES.items()}
    uploads = jax.tree.map(lambda x: x + 1e-3 * normal(*x.shape) + 1e-3 * normal(CLIENTS, *x.shape), adapter)
    return jax.tree.map(jnp.asarray, (adapter, uploads))


def seconds(rule, adapter, uploads) -> float:
    apply = jax.jit(rule.apply)
    extra = {"control": uploads, "time": jnp.ones(CLIENTS), "curvature": jnp.ones(CLIENTS)}
    args = (rule.init(adapter), adapter, uploads, jnp.ones(CLIENTS), jnp.zeros(CLIENTS, jnp.int32), extra)
    jax.block_until_ready(apply(*args))
    times = []
    for _ in range(3):
        start = time.process_time()
        jax.block_until_ready(apply(*args))
        times.append(time.process_time() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    adapter, uploads = uploads_of(parser.parse_args().layers)
    print(f"{sum(x.size for x in jax.tree.leaves(adapter)) / 1e6:.1f} M parameters a client", flush=True)
    least = None
    for name, rule in RULES.items():
        found = seconds(rule, adapter, uploads)
        least = least or found
        print(f"{name:28s} {found:8.3f} CPU s  {found / least:6.1f} x mean", flush=True)


if __name__ == "__main__":
    main()
