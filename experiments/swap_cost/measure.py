"""What planning and swapping cost beside the update they precede, on the toy policy.

    python experiments/swap_cost/measure.py

Planning and the gather are timed as the one program that a run calls, `Algorithm.swap`; the update at the same shapes is
`Algorithm.update`. Medians of interleaved repeats, and the spread of the paired ratios.
"""

import json
import pathlib
import statistics
import time

import jax
import optax

import pubswap_jax as ps
from pubswap_jax.policy.toyworld import TOY_CONFIG

CLIENTS, PROMPTS, GROUP, LENGTH, REPEATS = 8, 16, 8, 128, 15


def timed(function, *args) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


def main() -> None:
    # No end token, so that every response has the full length.
    config = TOY_CONFIG.replace(max_new_tokens=LENGTH, eos_ids=())
    model, base, adapter = ps.toy(jax.random.key(0), config)
    algorithm = ps.pubswap(model, optax.scale_by_adam(), num_clients=CLIENTS, group=GROUP)
    server, hparams, key = ps.ServerState.create(adapter), ps.Hparams.create(), jax.random.key(2)
    batch = ps.toy_batches(jax.random.key(1), CLIENTS, PROMPTS)[2]
    clients = algorithm.init_clients(server)
    rollouts = algorithm.rollout(base, clients, batch.prompts, key, hparams)
    verdicts = ps.parity_judge(rollouts, batch)
    swap_args = (rollouts, verdicts, key)
    update_args = (base, server, clients, batch.prompts, *algorithm.swap(*swap_args), hparams)
    jax.block_until_ready(algorithm.update(*update_args))

    pairs = [(timed(algorithm.swap, *swap_args), timed(algorithm.update, *update_args)) for _ in range(REPEATS)]
    ratios = [swap / update for swap, update in pairs]
    results = {
        "shape": {"clients": CLIENTS, "prompts": PROMPTS, "group": GROUP, "tokens": LENGTH},
        "swapped_responses": int(update_args[-2].swapped.sum()),
        "swap_ms": 1e3 * statistics.median(swap for swap, _ in pairs),
        "update_ms": 1e3 * statistics.median(update for _, update in pairs),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "backend": jax.default_backend(),
        "jax": jax.__version__,
    }
    print(json.dumps(results, indent=2))
    (pathlib.Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
