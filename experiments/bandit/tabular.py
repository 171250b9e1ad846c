"""NS-NAC and BORL-NS-NAC on small varying MDPs: how regret grows, when a restart helps, and what not knowing Δ_T costs.

python -m experiments.bandit.tabular            # all three parts; those in results.json are not run again
python -m experiments.bandit.tabular --draw     # the tables and the picture of what is there
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from experiments.bandit.varying import Rates, Varying, best_average, borl, budget, in_epochs, play, rates_of, triangle, varying
from experiments.cells import kept
from experiments.figures import dots, interval, lines, markdown, mean_and_half, panels, save

HERE = pathlib.Path(__file__).parent
SEEDS, WAYS, CONSTANT = 10, 4, 10.0
HORIZONS = (1000, 3162, 10_000, 31_623, 100_000)
WAY = 2500  # steps of one way at a fixed Δ_T/T
CONSTANTS, RESTART_HORIZON = (1.0, 3.0, 10.0, 30.0), 31_623
EPOCH, BORL_HORIZONS = 1000, (300_000, 1_000_000, 3_000_000)
# Arms as (Δ/T that the rates are made for, steps between restarts). The rates of 1e-8 hardly learn anything in an epoch.
GRIDS = {
    "near": {f"Δ/T = {d:g}, restart every {h}": (d, h) for d in (1e-3, 1e-2, 1e-1) for h in (EPOCH // 4, EPOCH)},
    "wide": {f"Δ/T = {d:g}, restart every {EPOCH}": (d, EPOCH) for d in (1e-8, 1e-5, 1e-3)},
}
BORL, GAINS, RANDOM = "BORL", "BORL by gains, rewards as they are", "a random arm per epoch (expected)"
FIXED, RATIO = "Δ_T fixed", "Δ_T/T fixed"


def regret(mdp: Varying, phase: np.ndarray, rewards: np.ndarray, copies: int = 1) -> list[list[float]]:
    """Σ J*ₜ − r(sₜ, aₜ), the dynamic regret, [copies, seeds]. `rewards` f64[copies · seeds, T]."""
    best = np.tile(best_average(mdp, phase), (copies, 1))
    return (best - rewards).sum(1).reshape(copies, -1).round(3).tolist()


def run_growth(seeds: int = SEEDS, horizons=HORIZONS) -> dict:
    """{"Δ_T fixed", "Δ_T/T fixed"}: regret [horizons, seeds] of NS-NAC with the rates of its Δ_T/T, and Δ_T/T itself."""
    mdp, found = varying(seeds), {FIXED: [], RATIO: [], "change": []}
    for length in horizons:
        for name, ways in ((FIXED, WAYS), (RATIO, -(-length // WAY))):
            phase = triangle(length, ways) if name == FIXED else triangle(WAY * ways, ways)[:length]
            change = budget(mdp, phase) / length
            rewards = play(mdp, phase, rates_of(change, CONSTANT), np.random.default_rng(1))
            found[name] += regret(mdp, phase, rewards)
            found["change"] += [float(change.mean())] if name == FIXED else []
    return found


def slopes(horizons, values: list[list[float]]) -> np.ndarray:
    """Each seed's slope of log regret over log T. f64[seeds]."""
    return np.polyfit(np.log(horizons), np.log(np.array(values)), 1)[0]


def growth_table(found: dict) -> str:
    rows = []
    for name, bound in ((FIXED, "5/6 = 0.833"), (RATIO, "1")):
        rows.append([name, mean_and_half(slopes(HORIZONS, found[name])), bound])
    return markdown(["while T grows", "slope of log regret over log T", "bound's"], rows)


def run_restart(seeds: int = SEEDS, length: int = RESTART_HORIZON) -> dict:
    """{"varies" or "stays": {constant: {"restart" and "none": regret [seeds]}}}; both with the rates of the varying MDP."""
    one, found = varying(seeds), {}
    copies = 2 * len(CONSTANTS)
    change = budget(one, triangle(length, WAYS)) / length
    kinds = [rates_of(change, constant, restart=restart) for constant in CONSTANTS for restart in (True, False)]
    rates = Rates(*(np.concatenate(values) for values in zip(*kinds, strict=True)))
    many = Varying(*(np.concatenate([ends] * copies, 1) for ends in one))
    for name, ways in (("varies", WAYS), ("stays", 0)):
        phase = triangle(length, ways)
        lost = regret(one, phase, play(many, phase, rates, np.random.default_rng(2)), copies)
        found[name] = {str(c): {"restart": lost[2 * i], "none": lost[2 * i + 1]} for i, c in enumerate(CONSTANTS)}
    return found


def restart_table(found: dict) -> str:
    rows = []
    for name, by_constant in found.items():
        for constant, lost in by_constant.items():
            mean, half = interval(np.array(lost["none"]) - np.array(lost["restart"]))
            ends = [f"{np.mean(lost[key]):.0f}" for key in ("restart", "none")]
            rows.append([f"the MDP {name}", f"{float(constant):g}", *ends, f"{mean:+.0f} ± {half:.0f}"])
    return markdown(["", "constant of β", "regret with restarts", "without", "saved by restarts"], rows)


def run_borl(seeds: int = SEEDS, horizons=BORL_HORIZONS, keep: Callable[[dict], None] = lambda found: None, known=None) -> dict:
    """{grid: {T: {BORL, GAINS, RANDOM or an arm: regret [seeds]}}}. An arm's regret is that of playing it in every epoch.

    The horizons of `known`, an earlier result, are not run again. `keep` gets the result after every horizon.
    """
    mdp, found = varying(seeds), {grid: dict(known[grid]) if known else {} for grid in GRIDS}
    every = list(dict.fromkeys(pair for named in GRIDS.values() for pair in named.values()))
    arms = [rates_of(np.full(seeds, d), CONSTANT)._replace(restart=np.full(seeds, steps)) for d, steps in every]
    for length in [one for one in horizons if str(one) not in found["near"]]:
        phase = triangle(length, WAYS)
        best = best_average(mdp, phase).reshape(seeds, -1, EPOCH).mean(-1)
        lost = EPOCH * (best - in_epochs(mdp, phase, arms, EPOCH, np.random.default_rng(3)))
        for grid, named in GRIDS.items():
            mine = lost[[every.index(pair) for pair in named.values()]]
            alone = mine.sum(2).round(3).tolist()
            # Every epoch starts from a uniform policy, so a random arm per epoch expects the mean of the arms' regrets.
            row = {RANDOM: np.mean(alone, 0).tolist()} | dict(zip(named, alone, strict=True))
            for name, scaled in ((BORL, True), (GAINS, False)):
                chosen = borl(best - mine / EPOCH, np.random.default_rng(4), scaled=scaled)
                row[name] = np.take_along_axis(mine, chosen[None], 0)[0].sum(1).round(3).tolist()
            found[grid][str(length)] = row
        keep(found)
    return found


def to_the_best(grid: str, found: dict) -> dict[str, np.ndarray]:
    """Regret divided by that of the arm with the smallest mean, f64[seeds]."""
    best = min(GRIDS[grid], key=lambda name: np.mean(found[name]))
    return {name: np.array(lost) / np.array(found[best]) for name, lost in found.items()}


def borl_table(results: dict) -> str:
    rows = []
    for grid, by_horizon in results.items():
        for length, found in by_horizon.items():
            for name, ratio in to_the_best(grid, found).items():
                mean, half = interval(np.array(found[name]))
                rows.append([grid, length, name, f"{mean:.0f} ± {half:.0f}", mean_and_half(ratio)])
    return markdown(["grid", "T", "", "regret", "to the best arm's"], rows)


def draw(results: dict, path: pathlib.Path) -> None:
    figure, (growth, restart, bandit) = panels(3, width=4.8)
    for name, colour in ((FIXED, "#0072b2"), (RATIO, "#d55e00")):
        lines(growth, np.array(HORIZONS), np.array(results["growth"][name]).T, colour, name)
    first = np.mean(results["growth"][FIXED][0])
    growth.plot(
        HORIZONS, first * (np.array(HORIZONS) / HORIZONS[0]) ** (5 / 6), color="#777777", ls="--", lw=1, label="slope 5/6"
    )
    growth.set(xscale="log", yscale="log", title="NS-NAC: dynamic regret", xlabel="T")
    growth.legend(frameon=False, fontsize=8)
    names = [f"β's constant {float(c):g}" for c in results["restart"]["varies"]]
    for kind, colour, offset in (("varies", "#d55e00", -0.15), ("stays", "#0072b2", 0.15)):
        saved = [np.array(lost["none"]) - np.array(lost["restart"]) for lost in results["restart"][kind].values()]
        dots(restart, names, saved, [colour] * len(names), offset)
    restart.axvline(0, color="#777777", lw=0.8)
    restart.set(title="saved by restarts (orange: the MDP varies)", xlabel=f"T = {RESTART_HORIZON}")
    longest = max(results["borl"]["near"], key=int)
    for grid, colour, offset in (("near", "#0072b2", -0.15), ("wide", "#d55e00", 0.15)):
        ratios = to_the_best(grid, results["borl"][grid][longest])
        names = ("BORL", "BORL by gains", "a random arm", "the worst arm")
        worst = max((name for name in GRIDS[grid]), key=lambda name: ratios[name].mean())
        dots(bandit, names, [ratios[name] for name in (BORL, GAINS, RANDOM, worst)], [colour] * 4, offset)
    bandit.axvline(1.5, color="#777777", lw=0.8, ls="--")
    bandit.set(title="regret to the best arm's (orange: wide grid)", xlabel=f"T = {longest}", xlim=(0, None))
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results.json")
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    a = parser.parse_args()
    results = kept(a.out) if a.out.is_file() or a.draw else {}
    keep = lambda found: a.out.write_text(json.dumps(results | {"borl": found}) + "\n")  # noqa: E731
    for name, compute in (
        ("growth", run_growth),
        ("restart", run_restart),
        ("borl", partial(run_borl, keep=keep, known=results.get("borl"))),
    ):
        if a.draw or (name in results and name != "borl"):
            continue
        begun = time.process_time()
        results[name] = compute()
        print(f"{name}: {time.process_time() - begun:.0f} s of CPU", flush=True)
        a.out.write_text(json.dumps(results) + "\n")
    if missing := [name for name in ("growth", "restart", "borl") if name not in results]:
        raise SystemExit(f"{a.out}: no results of {', '.join(missing)} yet; run without --draw first")
    print(growth_table(results["growth"]), restart_table(results["restart"]), borl_table(results["borl"]), sep="\n\n")
    draw(results, a.out.with_name("tabular.png"))


if __name__ == "__main__":
    main()
