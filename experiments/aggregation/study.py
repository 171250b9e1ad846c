"""Which rule, and which adapter family? Rules, families, server steps and hostile clients on the hard world.

    python -m experiments.aggregation.study --groups main --seeds 1 2 3 4 5
    python -m experiments.aggregation.study --groups others --seeds 1 2 3
    python -m experiments.aggregation.study --groups steps --seeds 11      # chooses the rates; 11 is in no other group
    python -m experiments.aggregation.study --groups hostile --seeds 1 2 3 4 5
    python -m experiments.aggregation.study --groups traffic --seeds 1 2 3
    python -m experiments.aggregation.study --list                         # the cells of every group

All runs have 240 steps. What the results hold already is not run again. `python -m experiments.aggregation.picture` draws.
"""

import pathlib
from functools import partial

from experiments.aggregation.hostile import ATTACKS, with_hostile, without
from experiments.cells import arguments, fill, settings_of

HERE = pathlib.Path(__file__).parent
STEPS, EVALUATIONS = 240, 6
METHODS = {"PubSwap": {}, "FedAvg-GRPO": {"federation.swap_period": 0}}

# Per block of the embedded model LoRA of rank 3 trains 7,296 parameters, FFA-LoRA of rank 6 7,680 and RAVAN of 4 x 16 7,196.
# Clients' rates are of the group `steps`: 4e-3 for LoRA, beside which the servers' rates were chosen, though 8e-3 was higher.
LORA = {"model.lora_rank": 3, "model.lora_alpha": 6.0, "training.lr": 4e-3}
RAVAN = {"model.adapter": "ravan", "model.heads": 4, "model.lora_rank": 16, "training.lr": 3e-3}
MAIN = {
    "mean": LORA,
    "product_svd": LORA | {"federation.aggregate": "product_svd"},
    "robust_pca": LORA | {"federation.aggregate": "robust_pca"},
    "ffa_lora": {"model.adapter": "ffa_lora", "model.lora_rank": 6, "model.lora_alpha": 12.0, "training.lr": 4e-3},
    "ravan": RAVAN,
}
# The best of the group `steps` on seed 11; FedECADO's lies between a rate that does nothing and one that ruins the model.
RATES = {
    "fedavgm": {"federation.server_lr": 0.3},
    "fedadam": {"federation.server_lr": 0.03},
    "fedyogi": {"federation.server_lr": 0.03},
    "fedecado": {"training.lr": 0.03},
}
PLAIN = {"training.clip_norm": 0.0}  # FedECADO's clients descend without clipping and without Adam
OTHERS = {
    "median": {},
    "trimmed_mean": {"federation.trim": 2},
    "norm_clip": {"federation.clip_norm": 10.0},
    "robust_pca, adaptive": {"federation.aggregate": "robust_pca", "federation.beta": 0.0},
    "fedexp": {},
    "fedavgm": RATES["fedavgm"],
    "fedadam": RATES["fedadam"],
    "fedyogi": RATES["fedyogi"],
    "scaffold": {},
    "fedecado": PLAIN | RATES["fedecado"],
}
GRID = {
    "fedavgm": ("federation.server_lr", (0.3, 1.0, 2.0)),
    "fedadam": ("federation.server_lr", (0.01, 0.03, 0.1)),
    "fedyogi": ("federation.server_lr", (0.01, 0.03, 0.1)),
    "fedecado": ("training.lr", (1e-3, 1e-2, 1e-1)),
    "norm_clip": ("federation.clip_norm", (1.0, 3.0, 10.0)),
    "ravan": ("training.lr", (1e-3, 3e-3, 1e-2)),
    "ffa_lora": ("training.lr", (1e-3, 2e-3, 4e-3, 1e-2)),
    "mean": ("training.lr", (1e-3, 2e-3, 4e-3, 8e-3)),
}
SIDES = {"1 of 4": (4, 1), "2 of 8": (8, 2)}  # clients, hostile ones
QUESTIONS = 32  # a step, of all clients together
# LoRA of rank 1 sends 2,432 numbers a block, RAVAN 7 H r².
TRAFFIC = {"lora, rank 1": LORA | {"model.lora_rank": 1, "model.lora_alpha": 2.0}} | {
    f"ravan, {heads} x {rank}": RAVAN | {"model.heads": heads, "model.lora_rank": rank}
    for heads, rank in ((1, 18), (2, 13), (4, 9), (8, 6))
}


def rounds(tau: int) -> dict:
    """240 steps in rounds of `tau`, evaluated six times; clients' own models are not evaluated."""
    count = STEPS // tau
    schedule = {"federation.steps": tau, "federation.rounds": count, "evaluation.every": max(1, count // EVALUATIONS)}
    return schedule | {"evaluation.clients": False, "data.validation": 512}


def main_cells() -> dict[str, dict]:
    """Five rules and families, with PubSwap and with FedAvg-GRPO, averaged every 10 and every 40 steps."""
    return {
        f"{name}, {method}, τ = {tau}": changes | METHODS[method] | rounds(tau)
        for method in METHODS
        for tau in (40, 10)
        for name, changes in MAIN.items()
    }


def other_cells() -> dict[str, dict]:
    """All other rules, with PubSwap, averaged every 40 steps."""
    return {
        f"{name}, PubSwap, τ = 40": LORA | {"federation.aggregate": name} | changes | rounds(40)
        for name, changes in OTHERS.items()
    }


def step_cells() -> dict[str, dict]:
    """Three rates of every rule and family that has one of its own, for the seed that chooses."""
    found = {}
    for name, (field, values) in GRID.items():
        usual = MAIN.get(name) or LORA | {"federation.aggregate": name} | (PLAIN if name == "fedecado" else {})
        short = rounds(40) | {"data.validation": 128}
        found |= {f"{name}, {field} = {value:g}": usual | {field: value} | short for value in values}
    return found


def hostile_cells() -> tuple[dict[str, dict], dict]:
    """Every attack on every rule, and the mean over the honest clients alone; the latter change what no field does."""
    found, alterations = {}, {}
    for side, (clients, hostile) in SIDES.items():
        usual = LORA | rounds(40) | {"federation.num_clients": clients, "training.prompts": QUESTIONS // clients}
        found[f"honest alone, {side}"], alterations[f"honest alone, {side}"] = usual, partial(without, hostile)
        rules = {"mean": {}, "median": {}}
        if clients > 4:  # of four uploads the median is the mean without the largest and the smallest
            rules["trimmed_mean"] = {"federation.trim": hostile}
        for attack in ATTACKS:
            clipped = {"norm_clip": OTHERS["norm_clip"]} if attack in ("sign flip", "x 100", "A·c, B/c") else {}
            for rule, changes in (rules | clipped).items():
                name = f"{rule}, {attack}, {side}"
                found[name] = usual | {"federation.aggregate": rule} | changes
                alterations[name] = partial(with_hostile, attack, hostile)
    return found, alterations


def traffic_cells() -> dict[str, dict]:
    """RAVAN of 1, 2, 4 and 8 heads and LoRA, at equal traffic, with PubSwap, averaged every 40 steps."""
    return {f"{name}, equal traffic": changes | rounds(40) for name, changes in TRAFFIC.items()}


GROUPS = {"main": main_cells, "others": other_cells, "steps": step_cells, "traffic": traffic_cells}


def cells_of(groups: list[str], only: list[str] | None = None) -> tuple[dict[str, dict], dict]:
    """The cells of the groups, those whose name contains one of `only`, and the alterations of some of them."""
    found, alterations = {}, {}
    for group in groups:
        cells, altered = hostile_cells() if group == "hostile" else (GROUPS[group](), {})
        found, alterations = found | cells, alterations | altered
    return {name: cell for name, cell in found.items() if not only or any(word in name for word in only)}, alterations


def main():
    parser = arguments(__doc__, out=HERE / "results.json")
    parser.add_argument("--groups", nargs="+", default=["main"], choices=[*GROUPS, "hostile"])
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cells whose name contains one of these words")
    parser.add_argument("--list", action="store_true", help="print the cells' names and stop")
    a = parser.parse_args()
    cells, alterations = cells_of([*GROUPS, "hostile"] if a.list else a.groups, a.only)
    if a.list:
        print("\n".join(cells))
        return
    cells = {name: changes | settings_of(a.set) for name, changes in cells.items()}
    fill(a.out, a.config, cells, a.seeds, a.processes, alterations)


if __name__ == "__main__":
    main()
