"""Games and bandits with a KL term: what our KL settings converge to, and how OMG's and SOMG's regret grows.

python -m experiments.kl_games.study            # all three parts, nine minutes on a core
python -m experiments.kl_games.study --draw     # the tables and the picture of what is there
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np

from experiments.cells import kept
from experiments.figures import lines, markdown, mean_and_half, panels, save
from experiments.kl_games import learners, oracle
from experiments.kl_games.games import References, log_softmax

HERE = pathlib.Path(__file__).parent
SEEDS, BETAS, HORIZON, MARKS = 20, (0.0, 0.1, 0.3, 1.0), 100_000, 31
EPISODES, SOMG_BETA = (100, 300, 1000, 3000, 10_000, 20_000), 0.3
ROCK_PAPER_SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
SETTINGS = (("k1", "reward"), ("k2", "loss"), ("k1", "loss"), ("k3", "loss"))
BANDITS = {"graded": (0.0, 0.3, 0.6, 1.0), "one right token": (0.0, 0.0, 0.0, 1.0)}
REFERENCE, START, KL_COEFS = (0.5, 0.3, 0.15, 0.05), (0.3, 0.3, 0.2, 0.2), (0.2, 0.5)
COLOURS = dict(zip(BETAS, ("#440154", "#31688e", "#35b779", "#c8a000"), strict=True))


# --- the oracle of the KL term ---------------------------------------------------------------------------------------------


def run_oracle() -> list[dict]:
    found = []
    for name, reward in BANDITS.items():
        for beta in KL_COEFS:
            bandit = oracle.Bandit(np.array(reward), np.log(REFERENCE), beta)
            for rule, advantages in oracle.ADVANTAGES.items():
                for kl, place in SETTINGS:
                    gradient = oracle.expected_gradient(bandit, kl, place, advantages)
                    policy = oracle.ascend(gradient, np.log(START))
                    constant = oracle.ascend(gradient, np.log(START), rate=0.1, decay=False)
                    effective, off = oracle.effective_beta(bandit, policy)
                    row = {"bandit": name, "beta": beta, "advantages": rule, "kl": kl, "in": place, "policy": policy.tolist()}
                    row |= {"distance": oracle.distance(policy, oracle.optimum(bandit)), "effective": effective, "off": off}
                    found.append(row | {"constant rate": oracle.distance(constant, oracle.optimum(bandit))})
    return found


def oracle_table(rows: list[dict]) -> str:
    """Smallest and largest distance over bandits and β; effective β over β where the policy is of the form π_ref exp(r/β')."""
    lines_of = []
    for rule in oracle.ADVANTAGES:
        for kl, place in SETTINGS:
            mine = [row for row in rows if (row["advantages"], row["kl"], row["in"]) == (rule, kl, place)]
            distances = [row["distance"] for row in mine]
            ratios = [row["effective"] / row["beta"] for row in mine if row["off"] < 1e-3]
            nothing = kl == "k1" and place == "loss"
            ratio = "–" if nothing or not ratios else " … ".join(f"{x:.3f}" for x in sorted({min(ratios), max(ratios)}))
            if ratios and max(ratios) - min(ratios) < 1e-3 and not nothing:
                ratio = f"{np.mean(ratios):.3f}"
            if not nothing and len(ratios) < len(mine):
                ratio += f" ({len(ratios)} of {len(mine)})" if ratios else f" (0 of {len(mine)})"
            lines_of.append([rule, f"{kl} in the {place}", f"{min(distances):.1e}", f"{max(distances):.1e}", ratio])
    return markdown(["advantages", "KL", "smallest distance", "largest distance", "effective β / β"], lines_of)


# --- games -----------------------------------------------------------------------------------------------------------------


def matrix_games(seeds: int) -> tuple[np.ndarray, References]:
    """Perturbed rock-paper-scissors, so that the equilibrium without a KL term is mixed; the same games for all β."""
    chance = np.random.default_rng(0)
    A = 0.6 * ROCK_PAPER_SCISSORS + chance.uniform(-0.3, 0.3, (seeds, 3, 3))
    return A, References(*(log_softmax(0.5 * chance.normal(size=(seeds, 3))) for _ in range(2)))


def run_omg(seeds: int = SEEDS, horizon: int = HORIZON, count: int = MARKS) -> dict:
    """{"marks": [...], "right" and "wrong": {β: regret [seeds, marks]}}. The β > 0 of one sign run side by side."""
    A, refs = matrix_games(seeds)
    marks = sorted({round(t) for t in np.geomspace(100, horizon, count)})
    results = {"marks": marks, "right": {}, "wrong": {}}
    for sign, name in ((1.0, "right"), (-1.0, "wrong")):
        for betas in (BETAS[:1], BETAS[1:]):
            copies, chance = len(betas), np.random.default_rng(1)
            tiled = References(*(np.tile(ref, (copies, 1)) for ref in refs))
            beta = np.repeat(np.array(betas), seeds)
            regret = learners.omg(np.tile(A, (copies, 1, 1)), beta, tiled, marks, chance, sign=sign)
            for i, one in enumerate(betas):
                results[name][str(one)] = regret[i * seeds : (i + 1) * seeds].round(4).tolist()
    return results


def slopes(marks: list[int], regret: np.ndarray, since: int = 0) -> np.ndarray:
    """Each seed's exponent: the least-squares slope of log regret over log T. f64[seeds]."""
    chosen = np.array(marks) >= since
    return np.polyfit(np.log(np.array(marks)[chosen]), np.log(np.array(regret)[:, chosen]).T, 1)[0]


def omg_table(results: dict) -> str:
    marks, rows = results["marks"], []
    for beta in BETAS:
        for name in ("right", "wrong"):
            regret = np.array(results[name][str(beta)])
            bonus = "optimistic" if name == "right" else "wrong sign"
            late = mean_and_half(slopes(marks, regret, since=10_000))
            rows.append([f"{beta:g}", bonus, mean_and_half(slopes(marks, regret)), late, f"{regret[:, -1].mean():.1f}"])
    last = f"{marks[-1]:.0e}".replace("e+0", "e")
    return markdown(["β", "bonus", f"exponent, T = 1e2 … {last}", "from T = 1e4 on", f"regret at T = {last}"], rows)


def markov_games(seeds: int) -> tuple[learners.MarkovGame, References]:
    """Two states, horizon 3, two actions a player; payoffs uniform in [−1, 1], moves uniform on the simplex."""
    chance = np.random.default_rng(2)
    shape = (seeds, 3, 2, 2, 2)
    game = learners.MarkovGame(chance.uniform(-1, 1, shape), chance.dirichlet(np.ones(2), shape))
    return game, References(*(log_softmax(0.5 * chance.normal(size=(seeds, 2))) for _ in range(2)))


def run_somg(seeds: int = SEEDS, episodes=EPISODES) -> dict:
    game, refs = markov_games(seeds)
    beta = np.full(seeds, SOMG_BETA)
    exact = learners.backward_induction(game, beta, refs)
    results = {"episodes": list(episodes)}
    for eta, name in ((1.0, "right"), (-1.0, "wrong")):
        found = learners.somg(game, beta, refs, episodes, np.random.default_rng(3), eta=eta)
        results[name] = {
            "policy": np.stack([_policy_distance(one, exact) for one in found], 1).tolist(),
            "value": np.stack([np.abs(one.value - exact.value).max((1, 2)) for one in found], 1).tolist(),
            "exploitability": np.stack([learners.exploitability(game, one, beta, refs) for one in found], 1).tolist(),
        }
    return results


def _policy_distance(one: learners.Solution, exact: learners.Solution) -> np.ndarray:
    """The largest total variation over players, steps and states. f64[N]."""
    pairs = ((one.mu, exact.mu), (one.nu, exact.nu))
    return np.max([0.5 * np.abs(mine - theirs).sum(-1).max((1, 2)) for mine, theirs in pairs], axis=0)


def somg_table(results: dict) -> str:
    rows = []
    for name, bonus in (("right", "superoptimistic"), ("wrong", "wrong sign")):
        found = {key: np.array(results[name][key]) for key in ("policy", "value", "exploitability")}
        for i, episodes in enumerate(results["episodes"]):
            ends = [mean_and_half(found[key][:, i]) for key in found]
            rows.append([bonus, f"{episodes}", *ends, f"{found['policy'][:, i].max():.3f}"])
    heads = ["bonus", "pairs of episodes", "policy distance", "value error", "exploitability", "largest policy distance"]
    return markdown(heads, rows)


# --- picture and command ---------------------------------------------------------------------------------------------------


def draw(results: dict, path: pathlib.Path) -> None:
    figure, (bandit, matrix, markov) = panels(3, width=4.6)
    rules = list(oracle.ADVANTAGES)
    for i, (kl, place) in enumerate(SETTINGS):
        mine = [row for row in results["oracle"] if (row["kl"], row["in"]) == (kl, place)]
        x = [rules.index(row["advantages"]) + 0.18 * (i - 1.5) for row in mine]
        bandit.plot(x, [max(row["distance"], 1e-16) for row in mine], "o", ms=5, alpha=0.7, label=f"{kl} in the {place}")
    bandit.set(yscale="log", title="KL term: distance from the optimum", ylabel="total variation", ylim=(1e-17, 1e3))
    bandit.set_xticks(range(len(rules)), rules)
    bandit.legend(frameon=False, fontsize=8, loc="upper center", ncols=2)
    marks = np.array(results["omg"]["marks"])
    for beta, colour in COLOURS.items():
        lines(matrix, marks, np.array(results["omg"]["right"][str(beta)]), colour, f"β = {beta:g}")
        matrix.plot(marks, np.mean(results["omg"]["wrong"][str(beta)], 0), color=colour, lw=1.4, ls=":")
    matrix.set(xscale="log", yscale="log", title="OMG (dotted: wrong sign)", xlabel="T", ylabel="sum of duality gaps")
    matrix.legend(frameon=False, fontsize=8)
    for name, colour, label in (("right", "#d55e00", "superoptimistic"), ("wrong", "#0072b2", "wrong sign")):
        lines(markov, np.array(results["somg"]["episodes"]), np.array(results["somg"][name]["policy"]), colour, label)
    markov.axhline(0.05, color="#777777", lw=0.8, ls="--")
    markov.set(xscale="log", yscale="log", title="SOMG: largest policy distance", xlabel="pairs of episodes")
    markov.legend(frameon=False, fontsize=8)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results.json")
    parser.add_argument("--draw", action="store_true", help="compute nothing")
    a = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    results = kept(a.out) if a.draw else {}
    if not a.draw:
        for name, compute in (("oracle", run_oracle), ("somg", run_somg), ("omg", run_omg)):
            begun = time.perf_counter()
            results[name] = compute()
            print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
        a.out.write_text(json.dumps(results) + "\n")
    print(oracle_table(results["oracle"]), omg_table(results["omg"]), somg_table(results["somg"]), sep="\n\n")
    draw(results, a.out.with_name("kl_games.png"))


if __name__ == "__main__":
    main()
