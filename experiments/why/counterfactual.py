"""Would another planner have pointed elsewhere? The same rollouts, swapped by each planner, during one training by PubSwap.

    python -m experiments.why.counterfactual --config configs/math.py:hard --seed 1

Before every round all clients answer the same public questions with the adapter of that moment. Each planner then swaps these
very answers, and the mean of the clients' gradients is held against the gradient on all clients' private questions: the
direction that averaging should have. M·β stands beside the distance that it bounds.
The history is the validation accuracy before each round.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.laboratory import config_of
from pubswap_jax import direct, loop, make_client, make_server, over_clients
from pubswap_jax.algorithm import swap
from pubswap_jax.algorithm.pubswap import exchange, receive
from pubswap_jax.algorithm.swap import swap_metrics
from pubswap_jax.algorithm.update import Learning
from pubswap_jax.run import journal
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.types import Batch, Hparams, StepRecord

PLANNERS = ("no_swap", "balanced", "random_swap", "rescue", "swap_all", "max_variance")


def make_client_of(run: Run):
    """A client of the run without an optimizer: at lr 1 its adapter moves by minus the gradient."""
    chosen, config = run.settings, run.policy.config
    return make_client(
        run.policy.model,
        optax.identity(),
        Learning(),
        group=chosen["training.group"],
        max_new_tokens=chosen["training.max_new_tokens"],
        ends=(config.eos_ids, config.pad_id),
    )


def swap_by(name: str) -> Callable:
    """(key, rollouts, verdicts) -> what the clients learn from after a planner's swap: rollouts, verdicts, plan."""
    server = make_server(getattr(swap, name))

    @jax.jit
    def swapped(key, said, verdicts):
        given, plan = exchange(server, direct, key, (said, verdicts), None, None, None)
        return *receive(said, verdicts, given), plan

    return swapped


def make_probe(run: Run, prompts: int, batches: int) -> Callable:
    """(round, the server's adapter, key) -> a row of figures."""
    clients, client = run.settings["federation.num_clients"], make_client_of(run)
    stacked, base, questions = over_clients(client), run.policy.base, run.data.train
    respond, learn = jax.jit(stacked.respond), jax.jit(stacked.learn)
    start = jax.jit(lambda adapters: jax.vmap(lambda one: client.start({"adapter": one}))(adapters))
    swaps, hparams = {name: swap_by(name) for name in PLANNERS}, Hparams.create(lr=1.0)
    rng = np.random.Generator(np.random.Philox(0))
    private = np.concatenate([np.asarray(mine) for mine in run.data.split.clients])

    def answer(state, rows, key):
        asked = jax.tree.map(lambda x: x[rows], questions.prompts)
        said = respond(base, state, asked, jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(clients)), hparams)
        return asked, said, run.judge(said, Batch(asked, [[questions.problems[i] for i in row] for row in rows]))

    def gradient(state, asked, said, verdicts, plan):
        """The descent direction of the update without an optimizer, a mean over clients. f32[parameters]."""
        trained, _ = learn(
            base, jax.tree.map(lambda x: x[0], state.adapter), state, asked, said, verdicts, plan.swapped, hparams
        )
        return flat(jax.tree.map(lambda new, old: (old - new).mean(0), trained.adapter, state.adapter))

    def probe(round: int, adapter, key) -> dict:
        state = start(jax.tree.map(lambda x: jnp.broadcast_to(x, (clients, *x.shape)), adapter))
        halves = []
        for i in range(2 * batches):  # clients only share the work here: all private questions, whoever holds them
            rows = rng.choice(private, (clients, prompts), replace=False)
            asked, said, verdicts = answer(state, rows, jax.random.fold_in(key, i))
            halves.append(gradient(state, asked, said, verdicts, swap.no_swap(key, verdicts.correct)))
        first, second = np.mean(halves[::2], axis=0), np.mean(halves[1::2], axis=0)
        target = first + second
        row = {"round": round, "halves": cosine(first, second), "planners": {}}
        found = {name: [] for name in PLANNERS}
        for i in range(batches):
            rows = np.tile(rng.choice(np.asarray(run.data.split.public), prompts, replace=False), (clients, 1))
            own_key = jax.random.fold_in(key, 1000 + i)
            asked, said, verdicts = answer(state, rows, own_key)
            for name, swapped in swaps.items():
                after, judged, plan = swapped(own_key, said, verdicts)
                there = gradient(state, asked, after, judged, plan)
                moved = swap_metrics(plan, verdicts, judged, after.mask)
                found[name].append([cosine(there, target), np.linalg.norm(there), *(float(moved[k].mean()) for k in SHARES)])
                if name == "balanced" and i == 0:
                    record = StepRecord({}, said, verdicts, after, judged, plan, state.adapter)
                    bound = jax.device_get(run.measure(base, state.adapter, asked, record, Hparams.create()))
                    row["M beta"] = {
                        k: np.asarray(getattr(bound, k)).tolist() for k in ("replacements", "beta", "bound", "distance")
                    }
        for name, values in found.items():
            mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(batches)
            row["planners"][name] = dict(zip(("cosine", "norm", *SHARES), mean.tolist(), strict=True))
            row["planners"][name]["cosine_error"] = float(spread[0])
        return row

    return probe


def watched(run: Run, watch: Callable) -> Run:
    """The same run; `watch` gets the number of every round and the server's adapter before the round."""

    def open(state, channel, who=None):
        if not isinstance(state.round, jax.ShapeDtypeStruct):  # the loop opens a round of shapes to know what crosses
            watch(int(state.round), run.federation.shared(state))
        return run.federation.open(state, channel, who)

    return run._replace(federation=run.federation._replace(open=open))


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
    if a.batches < 2:
        parser.error("--batches: 2 or more expected, for a standard error")
    run = assemble(config_of(a.config, a.seed, dict(setting.split("=", 1) for setting in a.set)))
    probe, rows = make_probe(run, a.prompts, a.batches), []

    def watch(round, adapter):
        rows.append(probe(round, adapter, jax.random.fold_in(jax.random.key(7), round)))
        cosines = " ".join(f"{name} {found['cosine']:.3f}" for name, found in rows[-1]["planners"].items())
        print(f"before round {round + 1}: {cosines}; halves {rows[-1]['halves']:.3f}", flush=True)
        a.out.write_text(json.dumps({"probes": rows}, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        loop.train(watched(run, watch), pathlib.Path(folder))
        metrics = journal.read(folder, "metrics")
    scores = [{"round": row["round"], "global": row["eval/pass@1"]} for row in metrics if "eval/pass@1" in row]
    a.out.write_text(json.dumps({"probes": rows, "history": scores}, indent=1) + "\n")


if __name__ == "__main__":
    main()
