"""Would another planner have pointed elsewhere? The same rollouts, swapped by each planner, during one training by PubSwap.

    python -m experiments.why.counterfactual --config configs/math.py:hard --seed 1

Before every round all clients answer the same public questions with the adapter of that moment. Each planner then swaps these
very answers, and the mean of the clients' gradients is held against the gradient on all clients' private questions: the
direction that averaging should have. M·β stands beside the distance that it bounds.
"""

import argparse
import json
import pathlib
from functools import partial

import jax
import numpy as np
import optax

from experiments.laboratory import config_of, make_judge, table_of, train
from pubswap_jax.algorithm import swap
from pubswap_jax.algorithm.pubswap import StepRecord, pubswap
from pubswap_jax.algorithm.swap import swap_metrics
from pubswap_jax.policy.model import Transformer
from pubswap_jax.run.assembly import assemble
from pubswap_jax.types import Hparams

PLANNERS = ("no_swap", "balanced", "random_swap", "rescue", "swap_all", "max_variance")


def make_probe(run, prompts: int, batches: int):
    """(round, server, key) -> a row of figures."""
    config, judge, table = run.config, make_judge(run), table_of(run, run.train)
    clients, model = config.federation.num_clients, Transformer(run.model_config)
    build = partial(pubswap, model, optax.identity(), num_clients=clients, group=config.training.group)
    algorithms = {name: build(swap=getattr(swap, name), max_new_tokens=config.training.max_new_tokens) for name in PLANNERS}
    plain, hparams = algorithms["no_swap"], Hparams.create(lr=1.0)
    rng = np.random.Generator(np.random.Philox(0))
    private = np.concatenate([np.asarray(mine) for mine in run.split.clients])

    def answer(state, rows, key):
        asked = jax.tree.map(lambda x: x[rows], table.prompts)
        said = plain.rollout(run.params, state, asked, key, hparams)
        return asked, said, judge(said, table.answers[rows])

    def gradient(state, server, asked, said, verdicts, plan):
        """The descent direction of the update without an optimizer, a mean over clients. f32[parameters]."""
        trained, _ = plain.update(run.params, server, state, asked, said, verdicts, plan, hparams)
        return flat(jax.tree.map(lambda new, old: (old - new).mean(0), trained.adapter, state.adapter))

    def probe(round: int, server, key) -> dict:
        state = plain.init_clients(server)
        halves = []
        for i in range(2 * batches):  # clients only share the work here: all private questions, whoever holds them
            rows = rng.choice(private, (clients, prompts), replace=False)
            asked, said, verdicts = answer(state, rows, jax.random.fold_in(key, i))
            halves.append(gradient(state, server, asked, said, verdicts, swap.no_swap(key, verdicts.correct)))
        first, second = np.mean(halves[::2], axis=0), np.mean(halves[1::2], axis=0)
        target = first + second
        row = {"round": round, "halves": cosine(first, second), "planners": {}}
        found = {name: [] for name in PLANNERS}
        for i in range(batches):
            rows = np.tile(rng.choice(np.asarray(run.split.public), prompts, replace=False), (clients, 1))
            own_key = jax.random.fold_in(key, 1000 + i)
            asked, said, verdicts = answer(state, rows, own_key)
            for name, algorithm in algorithms.items():
                after, judged, plan = algorithm.swap(said, verdicts, own_key)
                there = gradient(state, server, asked, after, judged, plan)
                moved = swap_metrics(plan, verdicts, judged, after.mask)
                found[name].append([cosine(there, target), np.linalg.norm(there), *(float(moved[k].mean()) for k in SHARES)])
                if name == "balanced" and i == 0:
                    record = StepRecord(said, verdicts, after, judged, plan, {})
                    bound = jax.device_get(run.measure(run.params, state.adapter, asked, record, Hparams.create()))
                    row["M beta"] = {
                        k: np.asarray(getattr(bound, k)).tolist() for k in ("replacements", "beta", "bound", "distance")
                    }
        for name, values in found.items():
            mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(batches)
            row["planners"][name] = dict(zip(("cosine", "norm", *SHARES), mean.tolist(), strict=True))
            row["planners"][name]["cosine_error"] = float(spread[0])
        return row

    return probe


SHARES = ("swapped", "rescued", "zero_variance_after")


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))])


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-30))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/math.py:hard")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=16, help="questions of a probe's batch")
    parser.add_argument("--batches", type=int, default=8, help="public batches of a probe; half of the private ones")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results.json")
    a = parser.parse_args()
    config = config_of(a.config, a.seed, dict(setting.split("=", 1) for setting in a.set))
    probe, rows = make_probe(assemble(config), a.prompts, a.batches), []

    def watch(round, servers):
        rows.append(probe(round, jax.tree.map(lambda x: x[0], servers), jax.random.fold_in(jax.random.key(7), round)))
        cosines = " ".join(f"{name} {found['cosine']:.3f}" for name, found in rows[-1]["planners"].items())
        print(f"before round {round + 1}: {cosines}; halves {rows[-1]['halves']:.3f}", flush=True)
        a.out.write_text(json.dumps({"probes": rows}, indent=1) + "\n")

    history = train([config], say=lambda line: print(line, flush=True), watch=watch)
    a.out.write_text(json.dumps({"probes": rows, "history": history[0]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
