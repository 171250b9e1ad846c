"""Ways of federating: FedGRPO on the hard world, SAPO and asynchronous clients on the default one.

    python -m experiments.ways.experts --seeds 11 1 2 3 4 5        # FedGRPO's experts, into the folder that --experts names
    python -m experiments.ways.study --groups rates "sapo rates" "asynchronous rates" --seeds 11   # chooses the learning rates
    python -m experiments.ways.study --groups fedgrpo sapo asynchronous --seeds 1 2 3 4 5
    python -m experiments.ways.study --list                        # the cells of every group

What the results hold already is not run again. `python -m experiments.ways.picture` prints the tables and draws.
"""

import functools
import pathlib

import numpy as np

from experiments.cells import arguments, fill, settings_of
from experiments.laboratory import config_of
from experiments.ways.encoder import with_bag_of_tokens
from pubswap_jax.run.methods import make_schedule, make_timeline

HERE = pathlib.Path(__file__).parent
SPEC = "configs/math.py:hard"
CLIENTS, QUESTIONS = 8, 32  # a step's questions, of all clients together or of one policy
COMMON = {"data.public": 0.2, "data.validation": 512, "evaluation.clients": False}
SCHEDULE = {"federation.steps": 40, "federation.rounds": 6}
ONE_POLICY = {"training.prompts": QUESTIONS}
BAG = "FedGRPO, questions compared by tokens"
SAPO = {"federation.average": False, "federation.swap": "sapo", "federation.swap_period": 1, "evaluation.clients": True}
HARD_RATES, DEFAULT_RATES = (1e-3, 3e-3, 8e-3), (3e-4, 1e-3, 3e-3)


def fedgrpo_cells(experts: str) -> dict[str, dict]:
    """One policy of FedGRPO, one of central GRPO and averaged adapters: equal steps, and equal sampled tokens of training."""
    folders = ",".join(f"{experts}/{{seed}}/client_{client}" for client in range(CLIENTS))
    fedgrpo = ONE_POLICY | {"federation.method": "fedgrpo", "federation.own_rounds": 0, "federation.adapters": folders}
    cells = {
        "FedGRPO": fedgrpo,
        "FedGRPO, random experts": fedgrpo | {"federation.choice": "random"},
        BAG: fedgrpo,
        "FedGRPO, with answers": fedgrpo | {"federation.overlap": 1.0},
        "PubSwap": {},
        "FedAvg-GRPO": {"federation.swap_period": 0},
        "central": ONE_POLICY | {"federation.num_clients": 1, "federation.swap": "no_swap", "training.lr": 1e-3},
    }
    return {name: COMMON | SCHEDULE | {"training.lr": 3e-3} | changes for name, changes in cells.items()}


# SAPO and asynchronous clients have the default world: in the hard one neither leaves the base, as the group `rates` shows.
EASY = "configs/math.py:tiny"
DEFAULT_WORLD = COMMON | {"federation.num_clients": CLIENTS, "training.prompts": QUESTIONS // CLIENTS, "evaluation.samples": 1}
DEFAULT_WORLD |= {"data.partition": "dirichlet", "data.alpha": 0.3}


def sapo_cells(rounds: int = 2) -> dict[str, dict]:
    """I own and J foreign responses of eight; clients exchange no weights, so that clients' own models are what is measured."""
    usual = DEFAULT_WORLD | {"training.lr": 3e-3, "federation.steps": 10, "federation.rounds": rounds}
    cells = {f"SAPO {8 - foreign}/{foreign}": usual | SAPO | {"federation.foreign": foreign} for foreign in (0, 2, 4, 6)}
    return cells | {"PubSwap, default world": usual}


# A step of a client of speed 1 takes a simulated time of 1. Half of the clients are fast, or one of them: then most uploads
# are those of slow clients.
SPEEDS = ("1", "1,4", "1,16", "1,1,1,1,1,1,1,4", "1,1,1,1,1,1,1,16")
TIME, STEPS, EVALUATIONS = 10.0, 5, 4
ASYNCHRONOUS = {
    "FedAvg": {"federation.method": "fedbuff"},
    "FedBuff": {"federation.method": "fedbuff", "federation.buffer": 4, "federation.free": 1},
    "FedRevive": {
        "federation.method": "fedrevive",
        "federation.buffer": 4,
        "federation.free": 1,
        "federation.distil_lr": 1e-3,
    },
}


def asynchronous_cells(time: float = TIME) -> dict[str, dict]:
    """Clients of different speeds, for an equal simulated time."""
    usual = DEFAULT_WORLD | {"training.lr": 3e-3, "training.client_microbatch": 1}
    usual |= {"federation.swap_period": 0, "federation.steps": STEPS}
    return {
        f"{method}, speeds {speeds}": in_time(usual | changes | {"federation.speeds": speeds}, time)
        for speeds in SPEEDS
        for method, changes in ASYNCHRONOUS.items()
    }


def in_time(changes: dict, time: float) -> dict:
    """The changes, with as many versions of the server as are made within the simulated time."""
    made = functools.partial(_versions, changes, time)
    rounds = 1
    while made(rounds) == rounds:
        rounds *= 2
    rounds = max(1, made(rounds))
    return changes | {"federation.rounds": rounds, "evaluation.every": max(1, rounds // EVALUATIONS)}


def _versions(changes: dict, time: float, rounds: int) -> int:
    """How many of this many versions are made within the simulated time."""
    config = config_of(EASY, 0, changes | {"federation.rounds": rounds, "evaluation.every": 1})
    timeline = make_timeline(config, make_schedule(config))
    times = [event.time for event in map(timeline, range(timeline.length)) if event.kind == "evaluate"]
    return int(np.sum(np.array(times[1:]) <= time))


def at_rates(cells: dict[str, dict], rates: tuple[float, ...]) -> dict[str, dict]:
    return {f"{name}, lr {rate:g}": cell | {"training.lr": rate} for name, cell in cells.items() for rate in rates}


def rate_cells(experts: str) -> dict[str, dict]:
    """Three learning rates of every method on the hard world."""
    methods = fedgrpo_cells(experts)
    chosen = {name: methods[name] for name in ("FedGRPO", "PubSwap", "FedAvg-GRPO", "central")}
    chosen["SAPO 4/4, hard world"] = COMMON | SCHEDULE | SAPO | {"federation.foreign": 4}
    return at_rates(chosen, HARD_RATES)


def sapo_rate_cells() -> dict[str, dict]:
    """Three learning rates of SAPO and of PubSwap beside it, for twice as many steps."""
    cells = sapo_cells(rounds=4)
    return at_rates({name: cells[name] for name in ("SAPO 4/4", "PubSwap, default world")}, DEFAULT_RATES)


def asynchronous_rate_cells() -> dict[str, dict]:
    """Three learning rates of every asynchronous method, at speeds 1:4 and for twice the time."""
    cells = asynchronous_cells(2 * TIME)
    return at_rates({name: cell for name, cell in cells.items() if name.endswith("speeds 1,4")}, DEFAULT_RATES)


HARD = {"rates": rate_cells, "fedgrpo": fedgrpo_cells}
DEFAULT = {"sapo rates": sapo_rate_cells, "asynchronous rates": asynchronous_rate_cells}
DEFAULT |= {"sapo": sapo_cells, "asynchronous": asynchronous_cells}


def cells_of(groups: list[str], experts: str) -> dict[str, dict[str, dict]]:
    """The groups' cells by the config that they change."""
    hard = {name: cell for group in groups if group in HARD for name, cell in HARD[group](experts).items()}
    default = {name: cell for group in groups if group in DEFAULT for name, cell in DEFAULT[group]().items()}
    return {SPEC: hard, EASY: default}


def main():
    parser = arguments(__doc__, config=None, out=HERE / "results.json")
    groups = [*HARD, *DEFAULT]
    parser.add_argument("--groups", nargs="+", default=["fedgrpo", "sapo", "asynchronous"], choices=groups)
    parser.add_argument("--experts", default="experts", help="the folder of the experts, one folder a seed")
    parser.add_argument("--list", action="store_true", help="print the cells' names and stop")
    a = parser.parse_args()
    for spec, cells in cells_of(groups if a.list else a.groups, a.experts).items():
        if a.list:
            print("\n".join(cells))
            continue
        cells = {name: cell | settings_of(a.set) for name, cell in cells.items()}
        altered = {name: functools.partial(with_bag_of_tokens, spec, cell) for name, cell in cells.items() if name == BAG}
        fill(a.out, spec, cells, a.seeds, a.processes, altered)


if __name__ == "__main__":
    main()
