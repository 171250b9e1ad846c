"""Which method is ahead, when, and at what cost? Every method is a change of the same config.

    python -m experiments.methods.study --config configs/math.py:hard --seeds 1 2 3 4 5

The seeds of a method run side by side; a method that the results hold already is not run again.
"""

import argparse
import json
import pathlib
import time

from experiments.laboratory import config_of, train

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/math.py:hard")
    parser.add_argument("--methods", nargs="+", default=["main"], help="names, 'main' or 'all'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="for all methods: federation.rounds=4")
    parser.add_argument("--out", type=pathlib.Path, help="default: results_PRESET.json beside this script")
    a = parser.parse_args()
    preset = a.config.partition(":")[2] or "tiny"
    out = a.out or pathlib.Path(__file__).parent / f"results_{preset}.json"
    results = json.loads(out.read_text()) if out.is_file() else {}
    common = dict(setting.split("=", 1) for setting in a.set)
    named = {"main": MAIN, "all": tuple(METHODS)}
    methods = [method for name in a.methods for method in named.get(name, (name,))]
    for method in methods:
        done = results.setdefault(method, {})
        missing = [seed for seed in a.seeds if str(seed) not in done]
        if not missing:
            continue
        print(f"== {method}, seeds {' '.join(map(str, missing))}", flush=True)
        begun, changes = time.perf_counter(), changes_of(method, a.config, common)
        found = train([config_of(a.config, seed, changes) for seed in missing], say=lambda line: print(line, flush=True))
        done |= {str(seed): rows for seed, rows in zip(missing, found, strict=True)}
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
