"""Which method is ahead, when, and at what cost? Every method is a change of the same config.

    python -m experiments.methods.study --config configs/math.py:hard --seeds 1 2 3

What the results hold already is not run again.
"""

import pathlib

from experiments.cells import arguments, fill, settings_of
from experiments.laboratory import config_of

METHODS = {
    "local only": {"federation.average": False, "federation.swap_period": 0},
    "FedAvg-GRPO": {"federation.swap_period": 0},
    "FedProx-GRPO": {"federation.swap_period": 0, "training.prox_coef": 0.01},
    "public only": {"federation.swap_period": 1, "federation.swap": "no_swap"},
    "public without swap": {"federation.swap": "no_swap"},
    "random swap": {"federation.swap": "random_swap"},
    "PubSwap": {},
    "PubSwap, rescue": {"federation.swap": "rescue"},
    "PubSwap, swap all": {"federation.swap": "swap_all"},
    "PubSwap, max variance": {"federation.swap": "max_variance"},
    "centralised": {"federation.num_clients": 1, "federation.swap": "no_swap"},
}
MAIN = ("FedAvg-GRPO", "FedProx-GRPO", "public without swap", "random swap", "PubSwap")


def changes_of(method: str, spec: str, common: dict) -> dict:
    """What a method changes. One centralised client answers as many questions a step as all the others do together."""
    changes = {**common, **METHODS[method]}
    if method == "centralised":
        config = config_of(spec, 0, common)
        changes["training.prompts"] = config.training.prompts * config.federation.num_clients
    return changes


def main():
    parser = arguments(__doc__)
    parser.add_argument("--methods", nargs="+", default=["main"], help="names, 'main' or 'all'")
    a = parser.parse_args()
    preset = a.config.partition(":")[2] or "tiny"
    out = a.out or pathlib.Path(__file__).parent / f"results_{preset}.json"
    named = {"main": MAIN, "all": tuple(METHODS)}
    methods = [method for name in a.methods for method in named.get(name, (name,))]
    cells = {method: changes_of(method, a.config, settings_of(a.set)) for method in methods}
    fill(out, a.config, cells, a.seeds, a.processes)


if __name__ == "__main__":
    main()
