"""Writes test.json of a run: the test questions' correct samples, in both readings, sampled and greedy.

python -m experiments.real_model.measure RUN MODEL FILE      # RUN without a run in it: the preset's warm-up alone
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from experiments.real_model.study import PRESET
from pubswap_jax import settings
from pubswap_jax.policy.model import Transformer
from pubswap_jax.run import earlier, evaluation, export
from pubswap_jax.run.assembly import examination
from pubswap_jax.run.pass_at_k import Evaluation, evaluate, evaluated
from pubswap_jax.run.policy import load_policy

SAMPLES = 8


def bits(correct: np.ndarray) -> list[str]:
    return ["".join("01"[int(right)] for right in row) for row in correct]


def described(found: Evaluation) -> dict:
    return {"correct": bits(found.correct), "evaluated": bits(evaluated(found)), "length": float(found.lengths.mean())}


def models(workdir: pathlib.Path, config) -> list:
    """(policy, adapter) of each model of a run: one, or each client's own; without a run the warm-up's."""
    if not (workdir / earlier.RUN).is_file():
        policy = load_policy(config)
        return [(policy, policy.adapter)]
    best = export.best(workdir)
    if best.shared:
        config.model.warmup = ""  # the best adapter is relative to the model itself
    policy = load_policy(config)._replace(model=Transformer(best.config))
    if best.shared:
        return [(policy, best.adapter)]
    count = jax.tree.leaves(best.adapter)[0].shape[0]
    return [(policy, jax.tree.map(lambda x, i=i: x[i], best.adapter)) for i in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("file")
    a = parser.parse_args()
    known = (a.run / earlier.RUN).is_file()
    config = earlier.config_of(a.run)[0] if known else settings.load(PRESET)
    config.model.path = a.model
    config.evaluation.samples, config.evaluation.greedy = SAMPLES, True
    rows = []
    for policy, adapter in models(a.run, config):
        examiner, questions = examination(config, policy, a.file)
        sampled = evaluate(examiner, policy.base, evaluation.one(adapter), questions)[0]
        greedy = evaluate(examiner, policy.base, evaluation.one(adapter), questions, greedy=True)[0]
        rows.append({"sampled": described(sampled), "greedy": described(greedy)})
    asked = [{"id": problem.id, "topic": problem.topic} for problem in questions.problems]
    a.run.mkdir(parents=True, exist_ok=True)
    staging = a.run / "test.new"
    staging.write_text(json.dumps({"questions": asked, "models": rows}))
    staging.replace(a.run / "test.json")
    print(f"{a.run}: pass@1 {np.mean([[int(b) for b in row] for row in rows[0]['sampled']['correct']]):.3f}")


if __name__ == "__main__":
    main()
