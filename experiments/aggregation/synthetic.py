"""Rules on synthetic updates: what robust PCA recovers, and how far hostile clients move each rule.

    python -m experiments.aggregation.synthetic

First table: relative errors of both parts of planted matrices (500 entries x 50 clients, rank 2, 5 % sparse). Second table:
E = ‖mean S‖/‖mean D‖, where clients agree, agree with noise, or do not agree. Third table: distance of the new adapter from the
mean of the honest clients alone, in units of that mean's change, over 20 seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pubswap_jax.algorithm.aggregation import mean
from pubswap_jax.algorithm.robust import median, norm_clip, trimmed_mean
from pubswap_jax.algorithm.robust_pca import low_rank_part, robust_pca

ATTACKS = {
    "sign flip": lambda x, y, rng: 2 * x - y,
    "x 100": lambda x, y, rng: x + 100 * (y - x),
    "gaussian": lambda x, y, rng: x + 10 * np.linalg.norm(y - x) * rng.standard_normal(x.shape) / x.size**0.5,
    "nan": lambda x, y, rng: np.full_like(x, np.nan),
}


def relative(found, expected) -> float:
    return float(np.linalg.norm(np.asarray(found, float) - expected) / np.linalg.norm(expected))


def recovery() -> None:
    for dtype, iterations in ((np.float64, 1000), (np.float64, 50), (np.float32, 50)):
        errors = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            low = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 500))
            sparse = np.where(rng.random(low.shape) < 0.05, 5 * rng.normal(size=low.shape), 0)
            with jax.enable_x64(dtype == np.float64):
                found = np.asarray(low_rank_part(jnp.asarray(low + sparse, dtype), jnp.asarray(50), iterations), float)
            errors.append((relative(found, low), relative(low + sparse - found, sparse)))
        worst = np.max(errors, axis=0)
        print(f"{dtype.__name__}, {iterations:4d} iterations: worst of 10 seeds, L {worst[0]:.1e}, S {worst[1]:.1e}")


def sparse_shares(entries: int = 20000) -> None:
    rng = np.random.default_rng(0)
    for clients in (2, 4, 8, 16):
        line = []
        for shared, own in ((1, 0), (1, 0.5), (0, 1)):
            columns = shared * rng.normal(size=(1, entries)) + own * rng.normal(size=(clients, entries))
            low = np.asarray(low_rank_part(jnp.asarray(columns, jnp.float32), jnp.asarray(clients), 50))
            line.append(np.linalg.norm((columns - low).mean(0)) / np.linalg.norm(columns.mean(0)))
        print(f"{clients:2d} clients: E of equal {line[0]:.3f}, half noisy {line[1]:.3f}, independent updates {line[2]:.3f}")


def distance(rule, attack, clients: int, hostile: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    adapter = {"a": rng.normal(size=(64, 8)), "b": rng.normal(size=(8, 64))}
    common = jax.tree.map(lambda x: 0.1 * rng.normal(size=x.shape), adapter)
    honest = jax.tree.map(lambda x, d: x + d + 0.1 * rng.normal(size=(clients, *x.shape)), adapter, common)
    uploads = jax.tree.map(
        lambda x, y: np.stack([attack(x, y[i], rng) if i < hostile else y[i] for i in range(clients)]), adapter, honest
    )
    f32 = lambda tree: jax.tree.map(jnp.float32, tree)  # noqa: E731
    found, _ = rule((), f32(adapter), f32(uploads), jnp.ones(clients), jnp.zeros(clients, jnp.int32))
    target = jax.tree.map(lambda y: y[hostile:].mean(0), honest)
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    return float(np.linalg.norm(flat(found) - flat(target)) / np.linalg.norm(flat(target) - flat(adapter)))


def hostile_clients() -> None:
    usual = 0.14 * 1024**0.5  # norm of an honest change
    for clients, hostile in ((4, 1), (8, 2)):
        rules = {
            "mean": mean(),
            "norm_clip": norm_clip(usual),
            "median": median(),
            "trimmed_mean": trimmed_mean(hostile),
            "robust_pca": robust_pca(2.0),
        }
        for name, rule in rules.items():
            apply = jax.jit(rule.apply)
            line = [
                np.mean([distance(apply, attack, clients, hostile, seed) for seed in range(20)]) for attack in ATTACKS.values()
            ]
            cells = "  ".join(f"{attack} {value:8.3f}" for attack, value in zip(ATTACKS, line, strict=True))
            print(f"{hostile} of {clients} hostile, {name:13s} {cells}", flush=True)


if __name__ == "__main__":
    recovery()
    sparse_shares()
    hostile_clients()
