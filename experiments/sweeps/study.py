"""What else matters? One setting of PubSwap at a time, all others as in the hard world.

    python -m experiments.sweeps.study --groups all --seeds 1 2 3
    python -m experiments.sweeps.study --draw             # the table and the picture of what is there

Six rounds of 40 steps. Questions a step are the same in all cells: fewer clients answer more of them each.
"""

import pathlib

from experiments.cells import arguments, fill, kept, settings_of
from experiments.figures import curve, dots, markdown, mean_and_half, paired, panels, save
from experiments.methods.picture import CONTROL

HERE = pathlib.Path(__file__).parent
ROUNDS, QUESTIONS, KNOWN = 6, 32, 4096  # rounds; questions a step; training questions
BASE = "PubSwap as in the hard world"
GROUPS: dict[str, dict[str, dict]] = {
    "swap period": {
        "1 (all public)": {"federation.swap_period": 1},
        "4": {"federation.swap_period": 4},
        "8": {"federation.swap_period": 8},
        "never": {"federation.swap_period": 0},
    },
    "swap period's unit": {
        "extra public step after 1 private": {
            "federation.swap_unit": "extra",
            "federation.swap_period": 1,
            "federation.steps": 20,
        },
        "whole public rounds": {"federation.swap_unit": "round"},
    },
    "moments at averaging": {"keep": {"federation.moments": "keep"}, "average": {"federation.moments": "average"}},
    "alpha": {
        "0.05": {"data.alpha": 0.05},
        "1": {"data.alpha": 1.0},
        "IID": {"data.partition": "iid"},
    },
    "K": {
        "4 (twice the questions)": {"training.group": 4, "training.prompts": 8},
        "16 (half the questions)": {"training.group": 16, "training.prompts": 2},
    },
    "clients": {
        str(clients): {"federation.num_clients": clients, "training.prompts": QUESTIONS // clients} for clients in (2, 4, 16)
    },
    "public questions": {f"about {n}": {"data.public": n / KNOWN} for n in (16, 64, 1024)},
    "swap weight": {"0.5": {"training.swap_weight": 0.5}, "2": {"training.swap_weight": 2.0}},
}


def name_of(group: str, setting: str) -> str:
    return f"{group}: {setting}"


def cells(groups: list[str], common: dict) -> dict[str, dict]:
    rounds = {"federation.rounds": ROUNDS}
    # The base without the swap stands beside it, so that one sees how much of a difference is what the swap is worth here.
    found = {BASE: {**rounds, **common}, CONTROL: {**rounds, **common, "federation.swap": "no_swap"}}
    for group in groups:
        found |= {name_of(group, setting): {**rounds, **common, **changes} for setting, changes in GROUPS[group].items()}
    return found


def listed(results: dict) -> list[tuple[str, str, dict | None]]:
    """(group, setting, seeds or None) in the order of the table."""
    rows = [("", name, results.get(name)) for name in (BASE, CONTROL)]
    for group, settings in GROUPS.items():
        rows += [(group, setting, results.get(name_of(group, setting))) for setting in settings]
    return rows


def table(results: dict) -> str:
    rows = []
    for group, setting, seeds in listed(results):
        if not seeds:
            rows.append([group, setting, "not run", "", "", ""])
            continue
        end, start = curve(seeds, "global")[:, -1], curve(seeds, "zero_variance_before")[:, 1:].mean()
        against = paired(seeds, results[BASE]) if setting != BASE and BASE in results else "–"
        rows.append([group, setting, str(len(seeds)), mean_and_half(end), against, f"{start:.2f}"])
    return markdown(["varied", "setting", "seeds", f"after {ROUNDS} rounds", "to the base (p)", "flat groups as sampled"], rows)


def draw(results: dict, path: pathlib.Path) -> None:
    rows = [(name_of(group, setting) if group else setting, seeds) for group, setting, seeds in listed(results) if seeds]
    figure, (axis,) = panels(1, width=8.0, height=1.2 + 0.28 * len(rows))
    marked = {BASE: "#d55e00", CONTROL: "#0072b2"}
    ends = [curve(seeds, "global")[:, -1] for _, seeds in rows]
    dots(axis, [name for name, _ in rows], ends, [marked.get(name, "#4c4c4c") for name, _ in rows])
    axis.axvline(ends[0].mean(), color=marked[BASE], lw=0.8, ls="--")
    axis.set(xlim=(0, 1), xlabel=f"accuracy of the averaged model after {ROUNDS} rounds\nticks: seeds, bars: 95 % intervals")
    save(figure, path)


def main():
    parser = arguments(__doc__, out=HERE / "results.json")
    parser.add_argument("--groups", nargs="+", default=[], help=f"'all' or some of: {', '.join(GROUPS)}")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    a = parser.parse_args()
    groups = list(GROUPS) if a.groups == ["all"] else a.groups
    for group in groups:
        if group not in GROUPS:
            parser.error(f"--groups {group}: none of {', '.join(GROUPS)}")
    asked = cells(groups, settings_of(a.set))
    results = kept(a.out) if a.draw else fill(a.out, a.config, asked, a.seeds, a.processes)
    print(table(results))
    draw(results, a.out.with_name("sweeps.png"))


if __name__ == "__main__":
    main()
