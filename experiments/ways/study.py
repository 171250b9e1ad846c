"""Ways of federating on the hard world: FedGRPO, SAPO and asynchronous clients, beside PubSwap, FedAvg-GRPO and central GRPO.

    python -m experiments.ways.study --groups rates --seeds 11     # chooses the learning rates; 11 is in no other group
    python -m experiments.ways.study --groups fedgrpo sapo asynchronous --seeds 1 2 3 4 5
    python -m experiments.ways.study --list                        # the cells of every group

All cells but those of `rates` train at the preset's rate of 1e-3 until `rates` is run and its best are written here. FedGRPO's
experts are trained before, by the commands in README.md, which write the folder that --experts names. What the
results hold already is not run again. `python -m experiments.ways.picture` draws.
"""

import functools
import pathlib

import numpy as np

from experiments.cells import arguments, fill, settings_of
from experiments.laboratory import config_of
from pubswap_jax.run.methods import make_schedule, make_timeline

HERE = pathlib.Path(__file__).parent
SPEC = "configs/math.py:hard"
CLIENTS, QUESTIONS = 8, 32  # a step's questions, of all clients together or of one policy
COMMON = {"data.public": 0.2, "data.validation": 512, "evaluation.clients": False}
SCHEDULE = {"federation.steps": 40, "federation.rounds": 6}
ONE_POLICY = {"training.prompts": QUESTIONS}
RATES = (1e-3, 2e-3, 4e-3)


def fedgrpo_cells(experts: str) -> dict[str, dict]:
    """One policy of FedGRPO, one of central GRPO and averaged adapters: equal steps, and equal sampled tokens of training."""
    folders = ",".join(f"{experts}/{{seed}}/export/client_{client}" for client in range(CLIENTS))
    fedgrpo = ONE_POLICY | {"federation.method": "fedgrpo", "federation.own_rounds": 0, "federation.adapters": folders}
    cells = {
        "FedGRPO": fedgrpo,
        "FedGRPO, random experts": fedgrpo | {"federation.choice": "random"},
        "FedGRPO, with answers": fedgrpo | {"federation.overlap": 1.0},
        "FedGRPO, untrained experts": fedgrpo | {"federation.adapters": ""},
        "PubSwap": {},
        "FedAvg-GRPO": {"federation.swap_period": 0},
        "central": ONE_POLICY | {"federation.num_clients": 1, "federation.swap": "no_swap"},
    }
    return {name: COMMON | SCHEDULE | changes for name, changes in cells.items()}


def sapo_cells() -> dict[str, dict]:
    """I own and J foreign responses of eight; clients exchange no weights, so that clients' own models are what is measured."""
    sapo = {"federation.average": False, "federation.swap": "sapo", "federation.swap_period": 1, "evaluation.clients": True}
    sapo = COMMON | SCHEDULE | sapo
    return {f"SAPO {8 - foreign}/{foreign}": sapo | {"federation.foreign": foreign} for foreign in (0, 2, 4, 6)}


# Simulated time: a step of a client of speed 1 takes 1.
SPEEDS = ("1", "1,4", "1,16")
TIME, STEPS, EVALUATIONS = 120.0, 20, 4
ASYNCHRONOUS = {
    "FedAvg": {"federation.method": "fedbuff"},
    "FedBuff": {"federation.method": "fedbuff", "federation.buffer": 4, "federation.free": 1},
    "FedRevive": {"federation.method": "fedrevive", "federation.buffer": 4, "federation.free": 1},
}


def asynchronous_cells() -> dict[str, dict]:
    """Clients of speeds 1:1, 1:4 and 1:16 for an equal simulated time."""
    usual = COMMON | {"federation.swap_period": 0, "federation.steps": STEPS, "training.client_microbatch": 1}
    return {
        f"{method}, speeds {speeds}": in_time(usual | changes | {"federation.speeds": speeds})
        for speeds in SPEEDS
        for method, changes in ASYNCHRONOUS.items()
    }


def in_time(changes: dict) -> dict:
    """The changes, with as many versions of the server as are made within the simulated time."""
    made = functools.partial(_versions, changes)
    rounds = 1
    while made(rounds) == rounds:
        rounds *= 2
    rounds = max(1, made(rounds))
    return changes | {"federation.rounds": rounds, "evaluation.every": max(1, rounds // EVALUATIONS)}


def _versions(changes: dict, rounds: int) -> int:
    """How many of this many versions are made within the simulated time."""
    config = config_of(SPEC, 0, changes | {"federation.rounds": rounds, "evaluation.every": 1})
    timeline = make_timeline(config, make_schedule(config))
    times = [event.time for event in map(timeline, range(timeline.length)) if event.kind == "evaluate"]
    return int(np.sum(np.array(times[1:]) <= TIME))


def rate_cells(experts: str) -> dict[str, dict]:
    """Three learning rates of every method."""
    methods = fedgrpo_cells(experts) | sapo_cells()
    chosen = {name: methods[name] for name in ("FedGRPO", "PubSwap", "FedAvg-GRPO", "central", "SAPO 4/4")}
    return {f"{name}, lr {rate:g}": cell | {"training.lr": rate} for name, cell in chosen.items() for rate in RATES}


def cells_of(groups: list[str], experts: str) -> dict[str, dict]:
    made = {
        "rates": functools.partial(rate_cells, experts),
        "fedgrpo": functools.partial(fedgrpo_cells, experts),
        "sapo": sapo_cells,
        "asynchronous": asynchronous_cells,
    }
    return {name: cell for group in groups for name, cell in made[group]().items()}


def main():
    parser = arguments(__doc__, config=SPEC, out=HERE / "results.json")
    groups = ["rates", "fedgrpo", "sapo", "asynchronous"]
    parser.add_argument("--groups", nargs="+", default=groups[1:], choices=groups)
    parser.add_argument("--experts", default="experts", help="the folder of the experts' runs, one a seed")
    parser.add_argument("--list", action="store_true", help="print the cells' names and stop")
    a = parser.parse_args()
    cells = cells_of(groups if a.list else a.groups, a.experts)
    if a.list:
        print("\n".join(cells))
        return
    fill(a.out, a.config, {name: cell | settings_of(a.set) for name, cell in cells.items()}, a.seeds, a.processes)


if __name__ == "__main__":
    main()
