"""Trains FedGRPO's experts: each client's adapter, supervised on worked answers to the client's own questions.

    python -m experiments.ways.experts --seeds 11 1 2 3 4 5 --out experts

Writes OUT/SEED/client_I and, in OUT/SEED/experts.json, each expert's accuracy on validation questions of each topic, beside
how many of its training questions have the topic. GRPO on a client's own questions alone does not leave the base here.
"""

import argparse
import collections
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.laboratory import config_of
from experiments.supervised import make_step, optimizer, responses
from experiments.ways.study import COMMON, SPEC
from pubswap_jax.questions.embedded import TOPICS, demonstrations
from pubswap_jax.questions.problem import Problem
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.evaluation import make_examine
from pubswap_jax.types import PyTree
from pubswap_jax.weights.peft import export_adapter

STEPS, BATCH, LR = 100, 32, 4e-3


def worked(problem: Problem) -> str:
    """The right procedure with its result."""
    return demonstrations(problem)[TOPICS[problem.topic].procedure][0]


def experts(run: Run, seed: int) -> PyTree:
    """The adapters [C, ...] after STEPS supervised steps of every client on its own questions."""
    tx, trained = optimizer(LR), []
    step = make_step(run.policy.model, tx)
    tokens, mask = responses([worked(problem) for problem in run.data.train.problems], run.policy.tokenizer)
    for client, own in enumerate(run.data.split.clients):
        adapter, state = run.policy.adapter, tx.init(run.policy.adapter)
        rng = np.random.Generator(np.random.Philox(key=[seed, client]))
        for _ in range(STEPS):
            rows = rng.choice(own, BATCH)
            prompts = jax.tree.map(lambda x, rows=rows: x[rows], run.data.train.prompts)
            adapter, state, _ = step(run.policy.base, adapter, state, prompts, tokens[rows], mask[rows])
        trained.append(adapter)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained)


def measured(run: Run, adapters: PyTree) -> list[dict[str, dict[str, float]]]:
    """For each client {topic: {its own questions, accuracy on validation questions}}."""
    evaluations, found = make_examine(run, lambda: None)(adapters, run.data.validation), []
    for own, evaluation in zip(run.data.split.clients, evaluations, strict=True):
        held = collections.Counter(run.data.train.problems[i].topic for i in own)
        of = {topic: float(evaluation.topic(topic).correct.mean()) for topic in TOPICS}
        found.append({topic: {"questions": held[topic], "accuracy": round(of[topic], 3)} for topic in TOPICS})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 1, 2, 3, 4, 5])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("experts"))
    a = parser.parse_args()
    for seed in a.seeds:
        run = assemble(config_of(SPEC, seed, COMMON))
        adapters = experts(run, seed)
        for client in range(len(run.data.split.clients)):
            adapter = jax.tree.map(lambda x, client=client: x[client], adapters)
            export_adapter(a.out / str(seed) / f"client_{client}", adapter, run.policy.config, "tiny_hard")
        figures = measured(run, adapters)
        (a.out / str(seed) / "experts.json").write_text(json.dumps(figures) + "\n")
        values = [one for figure in figures for one in figure.values()]
        groups = {"no": lambda n: n == 0, "fewer than 100": lambda n: 0 < n < 100, "100 or more": lambda n: n >= 100}
        for name, holds in groups.items():
            some = [one["accuracy"] for one in values if holds(one["questions"])]
            print(f"seed {seed}: accuracy {np.mean(some):.3f} on topics of which the client has {name} questions", flush=True)


if __name__ == "__main__":
    main()
