"""Times FlexMerge's cosines, grouping and averages at all sizes, for adapters with the shapes of Qwen2.5-1.5B.

OPENBLAS_NUM_THREADS=2 python -m experiments.after.time_of_merging --adapters 30 --rank 16
"""

import argparse
import time

import numpy as np

from pubswap_jax.after import merging
from pubswap_jax.after.merging import Factors

LAYERS = 28
SHAPES = {  # linear layer -> (in, out)
    "q_proj": (1536, 1536),
    "k_proj": (1536, 256),
    "v_proj": (1536, 256),
    "o_proj": (1536, 1536),
    "gate_proj": (1536, 8960),
    "up_proj": (1536, 8960),
    "down_proj": (8960, 1536),
}


def block(number: int, adapters: int, rank: int) -> dict[str, Factors]:
    """Random factors of one layer of the transformer, the same ones at every call."""
    rng = np.random.default_rng(number)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    return {name: Factors(draw(adapters, wide, rank), draw(adapters, rank, out)) for name, (wide, out) in SHAPES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=30)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--layers", type=int, default=LAYERS)
    asked = parser.parse_args()
    spent = {"cosines": [0.0, 0.0], "grouping": [0.0, 0.0], "averages": [0.0, 0.0]}

    def timed(name, function, *arguments):
        begun, cpu = time.perf_counter(), time.process_time()
        found = function(*arguments)
        spent[name][0] += time.perf_counter() - begun
        spent[name][1] += time.process_time() - cpu
        return found

    # One block at a time is in memory. Drawing its random numbers is not timed.
    similar = []
    for number in range(asked.layers):
        similar.append(
            timed("cosines", lambda one: merging.cosines(merging.gram(one)), block(number, asked.adapters, asked.rank))
        )
    steps = timed("grouping", merging.order, np.stack(similar))
    for number in range(asked.layers):
        drawn = block(number, asked.adapters, asked.rank)
        for step in steps:
            if step.block == number:  # every group of every size comes from one step
                timed("averages", merging.average(), drawn, step.members)
    print("| part | seconds | CPU seconds |\n|---|---|---|")
    for name, (seconds, cpu) in [*spent.items(), ("all", [sum(pair) for pair in zip(*spent.values(), strict=True)])]:
        print(f"| {name} | {seconds:.1f} | {cpu:.1f} |")


if __name__ == "__main__":
    main()
