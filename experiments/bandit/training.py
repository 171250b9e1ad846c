"""Which τ, which swap period? EXP3 chooses both for the next steps of one training run on the hard world.

    python -m experiments.bandit.training --seeds 1     # EXP3's run and one run per fixed arm; a later call goes on
    python -m experiments.bandit.training --draw        # the table and the picture of what is there

Every block of 20 steps is a call of `train_and_evaluate` on the same folder: with `fork`, a run goes on under another
`federation.steps` and `federation.swap_period`.
"""

import argparse
import json
import pathlib
import shutil
import time
from typing import NamedTuple

import jax
import numpy as np

from experiments.bandit import exp3
from experiments.cells import kept
from experiments.figures import lines, markdown, mean_and_half, panels, save
from pubswap_jax import settings
from pubswap_jax.loop import train_and_evaluate

HERE = pathlib.Path(__file__).parent
STEPS, BLOCKS, RESTART = 20, 18, 9


class Arm(NamedTuple):
    tau: int
    period: int

    @property
    def name(self) -> str:
        return f"τ = {self.tau}, " + (f"a swap every {self.period} steps" if self.period else "no public steps")


ARMS = (Arm(5, 0), Arm(5, 2), Arm(20, 0), Arm(20, 2))
COLOURS = dict(zip(("EXP3", *(arm.name for arm in ARMS)), ("#000000", "#0072b2", "#d55e00", "#56b4e9", "#e69f00"), strict=True))
# Only the validation score is used. The test questions are asked after every block, so keep them few.
HARD = {"data.validation": 512, "data.test": 16, "evaluation.clients": False, "log.transcripts": 0, "log.distortion": "off"}
CHEAPEST = 5e6  # bytes of a block at τ = 20
FULL_GAIN = 0.1  # validation gain at that cost that counts as the reward 1


def reward_of(gain: float, sent: int) -> float:
    """½ + ½ gain/(0.1 · bytes/5 MB), within [0, 1]: validation gain per byte. No gain is ½, since EXP3 needs rewards ≥ 0."""
    return float(np.clip(0.5 + 0.5 * gain / (FULL_GAIN * max(sent, 1) / CHEAPEST), 0, 1))


class Choice(NamedTuple):
    """`fixed`: the arm of every block; None: EXP3 chooses."""

    fixed: int | None
    seed: int
    blocks: int = BLOCKS
    steps: int = STEPS

    @property
    def name(self) -> str:
        return "EXP3" if self.fixed is None else ARMS[self.fixed].name

    def next(self, blocks: list[dict]) -> tuple[int, list[float]]:
        """The arm of the next block and the probabilities that it was drawn from: a function of what was played."""
        if self.fixed is not None:
            return self.fixed, np.eye(len(ARMS))[self.fixed].tolist()
        gamma = exp3.exploration(len(ARMS), self.blocks)
        log_weights = exp3.replay(len(ARMS), gamma, RESTART, [(block["arm"], block["reward"]) for block in blocks])
        chances = exp3.probabilities(log_weights, gamma)
        draw = np.random.default_rng((self.seed, len(blocks)))
        return int(draw.choice(len(ARMS), p=chances)), chances.tolist()


def run(choice: Choice, workdir: pathlib.Path, changes: dict, spec: str = "configs/math.py:hard") -> list[dict]:
    """Goes on with the run in `workdir` to its last block. `blocks.json` there holds a row a block, written after the block."""
    path = workdir / "blocks.json"
    blocks = json.loads(path.read_text()) if path.exists() else []
    while len(blocks) < choice.blocks:
        arm, chances = choice.next(blocks)
        rounds = (blocks[-1]["rounds"] if blocks else 0) + choice.steps // ARMS[arm].tau
        config = settings.load(spec)
        mine = {"seed": choice.seed, "federation.steps": ARMS[arm].tau, "federation.swap_period": ARMS[arm].period}
        for name, value in (HARD | changes | mine | {"federation.rounds": rounds, "evaluation.every": rounds}).items():
            settings.override(config, name, str(value))
        begun = time.perf_counter()
        train_and_evaluate(config, workdir / "run", fork=True)
        seconds = time.perf_counter() - begun
        rows = [json.loads(line) for line in (workdir / "run" / "metrics.jsonl").read_text().splitlines()]
        score, sent = score_after(rows, rounds), bytes_until(rows, rounds)
        before = blocks[-1] if blocks else {"score": score_after(rows, 0), "sent": 0}
        gain, cost = score - before["score"], sent - before["sent"]
        row = {"arm": arm, "chances": chances, "rounds": rounds, "score": score, "gain": gain, "bytes": cost, "sent": sent}
        blocks.append(row | {"reward": reward_of(gain, cost), "seconds": seconds})
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(blocks) + "\n")
        fresh.replace(path)
        print(
            f"{choice.name}, seed {choice.seed}, block {len(blocks)}: {ARMS[arm].name}: {score:.3f}, {seconds:.0f} s",
            flush=True,
        )
    return blocks


def collected(workdir: pathlib.Path) -> dict:
    """{choice: {seed: blocks}} of all runs in `workdir`, also of those that are not finished."""
    results = {}
    for path in sorted(workdir.glob("seed*-*/blocks.json")):
        seed, kind = path.parent.name.removeprefix("seed").split("-")
        name = Choice(None if kind == "exp3" else int(kind.removeprefix("arm")), int(seed)).name
        results.setdefault(name, {})[seed] = json.loads(path.read_text())
    return results


def score_after(rows: list[dict], round: int) -> float:
    return next(row["eval/pass@1"] for row in reversed(rows) if row.get("round") == round and "eval/pass@1" in row)


def bytes_until(rows: list[dict], round: int) -> int:
    """All bytes that the gate let pass up to a round, the counters of the log aside."""
    closed = {row["round"]: row for row in rows if "ledger/up/adapters" in row and row["round"] <= round}
    return sum(sum(sizes) for row in closed.values() for name, sizes in row.items() if _crossing(name))


def _crossing(name: str) -> bool:
    return name.startswith("ledger/") and "counters" not in name


def table(results: dict) -> str:
    rows = []
    for name in COLOURS:
        if not (seeds := results.get(name)):
            rows.append([name, *["not run"] * 4])
            continue
        ends = np.array([blocks[-1]["score"] for blocks in seeds.values()])
        sent = np.mean([blocks[-1]["sent"] for blocks in seeds.values()]) / 1e6
        above = np.array([(rewards(blocks) - 0.5).sum() for blocks in seeds.values()])
        played = [block["arm"] for blocks in seeds.values() for block in blocks]
        counts = ", ".join(map(str, np.bincount(played, minlength=len(ARMS))))
        label = f"{name} ({len(seeds)}, {min(map(len, seeds.values()))})"
        rows.append([label, mean_and_half(ends), f"{sent:.0f} MB", mean_and_half(above), counts])
    heads = ["choice (seeds, blocks)", "last validation score", "sent", "sum of (reward − ½)", "blocks of each arm"]
    return markdown(heads, rows) + "\n\n" + regret(results)


def regret(results: dict) -> str:
    """EXP3's sum of rewards against the best fixed arm's, over the seeds that EXP3 and the finished arms have."""
    mine = results.get("EXP3", {})
    fixed = {arm.name: results.get(arm.name, {}) for arm in ARMS}
    finished = {n: seeds for n, seeds in fixed.items() if all(len(seeds.get(s, [])) == len(mine[s]) for s in mine)}
    if not mine or not finished:
        return "Regret: not run; no fixed arm has as many blocks as EXP3."
    totals = {name: np.array([rewards(seeds[s]).sum() for s in mine]) for name, seeds in finished.items()}
    best = max(totals, key=lambda name: totals[name].mean())
    found = mean_and_half(totals[best] - np.array([rewards(blocks).sum() for blocks in mine.values()]))
    least = "" if len(finished) == len(ARMS) else f"at least, since {len(ARMS) - len(finished)} arms are not finished, "
    return f"Regret against the best fixed arm: {least}{found} in sums of rewards ({best}; {len(mine)} seeds)."


def rewards(blocks: list[dict]) -> np.ndarray:
    return np.array([block["reward"] for block in blocks])


def draw(results: dict, path: pathlib.Path) -> None:
    figure, (scores, above, chances) = panels(3, width=4.4)
    for name, colour in COLOURS.items():
        if seeds := results.get(name):
            length = min(map(len, seeds.values()))
            values = {
                key: np.array([[b[key] for b in blocks[:length]] for blocks in seeds.values()]) for key in ("score", "reward")
            }
            x = STEPS * np.arange(1, length + 1)
            lines(scores, x, values["score"], colour, name)
            lines(above, x, values["reward"].cumsum(1) - 0.5 * np.arange(1, length + 1), colour, name)
    if bandit := results.get("EXP3"):
        length = min(map(len, bandit.values()))
        found = np.array([[b["chances"] for b in blocks[:length]] for blocks in bandit.values()])
        for i, arm in enumerate(ARMS):
            lines(chances, STEPS * np.arange(1, length + 1), found[..., i], COLOURS[arm.name], arm.name)
    scores.set(title="validation pass@1", xlabel="steps")
    above.set(title="sum of (reward − ½): gain per byte", xlabel="steps")
    chances.set(title="EXP3's probabilities", xlabel="steps", ylim=(0, 1))
    if scores.lines:
        scores.legend(frameon=False, fontsize=7, loc="upper left")
    if chances.lines:
        chances.legend(frameon=False, fontsize=7, loc="upper left")
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/bandit"), help="the runs' folders")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "training.json")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    a = parser.parse_args()
    if not a.draw:
        jax.config.update("jax_compilation_cache_dir", str((a.workdir / "compiled").absolute()))
    for seed in [] if a.draw else a.seeds:
        for fixed in (None, 3, 2, 1, 0):
            choice = Choice(fixed, seed, a.blocks)
            folder = a.workdir / f"seed{seed}-{'exp3' if fixed is None else f'arm{fixed}'}"
            folder.mkdir(parents=True, exist_ok=True)
            run(choice, folder, {})
            shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    results = collected(a.workdir) or kept(a.out)
    a.out.write_text(json.dumps(results) + "\n")
    print(table(results))
    draw(results, a.out.with_name("training.png"))


if __name__ == "__main__":
    main()
