"""What planning and swapping cost beside the update they precede, on the toy policy.

    python experiments/swap_cost/measure.py

Planning and the gather are timed as the one program that a run calls, `swap`; the update at the same shapes is the program
`update`. Medians of interleaved repeats, and the spread of the paired ratios.
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
    programs = {}
    federation = ps.pubswap(
        model,
        optax.scale_by_adam(),
        num_clients=CLIENTS,
        group=GROUP,
        program=lambda name, function: programs.setdefault(name, jax.jit(function)),
    )
    hparams, key = ps.Hparams.create(), jax.random.key(2)
    batch = ps.toy_batches(jax.random.key(1), CLIENTS, PROMPTS)[2]
    state = federation.open(federation.init(adapter), ps.direct)
    _, record = federation.step(base, state, batch, ps.parity_judge, ps.direct, key, hparams)
    said, judged = record.rollouts, record.verdicts
    responses = {"tokens": said.tokens, "mask": said.mask, "correct": judged.correct, "reward": judged.reward}
    swap = programs["swap"], key, judged.correct, responses, None
    after = record.swapped_rollouts, record.swapped_verdicts, record.plan.swapped
    update = programs["update"], base, state.server.adapter, state.clients, batch.prompts, *after, hparams

    timed(*swap), timed(*update)
    pairs = [(timed(*swap), timed(*update)) for _ in range(REPEATS)]
    ratios = [one / other for one, other in pairs]
    results = {
        "shape": {"clients": CLIENTS, "prompts": PROMPTS, "group": GROUP, "tokens": LENGTH},
        "swapped_responses": int(record.plan.swapped.sum()),
        "swap_ms": 1e3 * statistics.median(one for one, _ in pairs),
        "update_ms": 1e3 * statistics.median(other for _, other in pairs),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "backend": jax.default_backend(),
        "jax": jax.__version__,
    }
    print(json.dumps(results, indent=2))
    (pathlib.Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
