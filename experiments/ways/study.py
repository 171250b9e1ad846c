"""FedGRPO beside PubSwap, FedAvg-GRPO and one central GRPO: accuracy and bytes at equal server steps.

    python -m experiments.ways.study --config configs/math.py:hard --seeds 1 2 3 4 5

What the results hold already is not run again, so a study that was stopped goes on.
"""

import pathlib

from experiments.cells import arguments, fill, settings_of
from experiments.laboratory import config_of

FEDGRPO = {"federation.method": "fedgrpo", "data.public": 0.2}
WAYS = {
    "FedGRPO": FEDGRPO,
    "FedGRPO, random experts": {**FEDGRPO, "federation.choice": "random"},
    "FedGRPO, with answers": {**FEDGRPO, "federation.overlap": 1.0},
    "FedGRPO, untrained experts": {**FEDGRPO, "federation.own_rounds": 0},
    "PubSwap": {"data.public": 0.2},
    "FedAvg-GRPO": {"data.public": 0.2, "federation.swap_period": 0},
    "central": {"data.public": 0.2, "federation.num_clients": 1, "federation.swap": "no_swap"},
}


def changes_of(way: str, spec: str, common: dict) -> dict:
    """What a way of federating changes.

    FedGRPO's rounds of the clients' own training come before as many rounds of the policy as all others have. The central
    client answers as many questions a step as FedGRPO's one policy: the config's training.prompts.
    """
    changes = {**common, **WAYS[way]}
    if changes.get("federation.method") == "fedgrpo":
        config = config_of(spec, 0, changes)
        changes["federation.rounds"] = config.federation.rounds + config.federation.own_rounds
    return changes


def main():
    parser = arguments(__doc__)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    a = parser.parse_args()
    preset = a.config.partition(":")[2] or "tiny"
    out = a.out or pathlib.Path(__file__).parent / f"results_{preset}.json"
    cells = {way: changes_of(way, a.config, settings_of(a.set)) for way in a.ways}
    fill(out, a.config, cells, a.seeds, a.processes)


if __name__ == "__main__":
    main()
