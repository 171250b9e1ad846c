"""How a step's time follows the number of clients that take part.

    python -m experiments.round_cost.participants [--clients 20] [--participants 2 5 10 20] [--steps 8]

Trains one round of configs/math.py:hard for each number and prints the median seconds of its steps, compilation left out.
"""

import argparse
import pathlib
import statistics
import tempfile

from pubswap_jax import settings
from pubswap_jax.loop import train_and_evaluate
from pubswap_jax.run import journal

FIELDS = {
    "federation.rounds": 1,
    "data.test": 8,
    "data.validation": 8,
    "evaluation.clients": False,
    "log.distortion": "off",
    "log.tensorboard": "off",
}


def seconds_a_step(clients: int, participants: int, steps: int) -> float:
    config = settings.load("configs/math.py:hard")
    of_federation = {"num_clients": clients, "participants": participants % clients, "steps": steps}
    for name, value in (FIELDS | {f"federation.{key}": value for key, value in of_federation.items()}).items():
        settings.override(config, name, str(value))
    with tempfile.TemporaryDirectory() as folder:
        train_and_evaluate(config, folder)
        rows = [row for row in journal.read(pathlib.Path(folder), "metrics") if "step" in row]
    return statistics.median(row["time/step"] for row in rows[2:])  # the first private and the first public step compile


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--participants", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--steps", type=int, default=8)
    flags = parser.parse_args()
    found = {number: seconds_a_step(flags.clients, number, flags.steps) for number in flags.participants}
    whole = found[max(found)]
    for number, seconds in found.items():
        print(f"| {number} of {flags.clients} | {1000 * seconds:.0f} ms | {seconds / whole:.2f} |")
