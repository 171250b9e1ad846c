"""How many foreign responses help clients that exchange no weights? SAPO at I/J = 8/0, 6/2, 4/4 and 2/6, beside PubSwap.

    python -m experiments.ways.sapo --config configs/math.py:hard --seeds 1 2 3 4 5

What the results hold already is not run again.
"""

import pathlib

from experiments.cells import arguments, fill, settings_of

SAPO = {"federation.average": False, "federation.swap": "sapo", "federation.swap_period": 1}
METHODS = {f"SAPO {8 - foreign}/{foreign}": {**SAPO, "federation.foreign": foreign} for foreign in (0, 2, 4, 6)} | {
    "PubSwap": {}
}


def main():
    a = arguments(__doc__).parse_args()
    preset = a.config.partition(":")[2] or "tiny"
    out = a.out or pathlib.Path(__file__).parent / f"sapo_{preset}.json"
    fill(out, a.config, {name: {**settings_of(a.set), **changes} for name, changes in METHODS.items()}, a.seeds, a.processes)


if __name__ == "__main__":
    main()
