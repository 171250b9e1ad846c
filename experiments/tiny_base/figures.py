"""The embedded model's own figures: pass@1, pass@8 and pass@64 per topic, and how often each wrong procedure is right by luck.

python experiments/tiny_base/figures.py
"""

import argparse
import collections
import json
import pathlib

import jax
import numpy as np

from pubswap_jax.policy.model import Transformer, init_adapter
from pubswap_jax.questions import embedded
from pubswap_jax.questions.load import Questions
from pubswap_jax.questions.problem import KINDS
from pubswap_jax.questions.tokens import left_pad, load_tokenizer
from pubswap_jax.run.judge import grade
from pubswap_jax.run.pass_at_k import Evaluation, Examiner, evaluate, make_sampler, pass_at_k
from pubswap_jax.weights.pretrained import load_pretrained

SAMPLES = 64


def base_answers(folder: pathlib.Path, preset: str, kind: str, count: int, length: int) -> tuple[Evaluation, list]:
    """64 answers of the base, at temperature 1, to each test question, as the verifier judges them; and their texts."""
    config, base = load_pretrained(folder, dtype="float32")
    model = Transformer(config)
    tokenizer = load_tokenizer(folder, instructions=dict.fromkeys(KINDS, ""))
    asked = embedded.problems("test", seed=0, count=count, preset=preset, kind=kind)
    encoded = [tokenizer.encode(problem) for problem in asked]
    prompts = left_pad(encoded, np.arange(count), max(map(len, encoded)), config.pad_id)
    adapter = jax.tree.map(lambda x: x[None], init_adapter(jax.random.key(0), model, base))  # B = 0: the base itself
    texts = []

    def graded(rollouts, problems):
        grades = grade(tokenizer, rollouts, problems)
        texts.extend(grades.texts[0].tolist())
        return grades

    sampler = make_sampler(model, samples=SAMPLES, max_new_tokens=length)
    found = evaluate(Examiner(sampler, None, graded, jax.random.key(1)), base, adapter, Questions(asked, prompts))
    return found[0], texts


def figures(evaluation: Evaluation, texts: list) -> dict:
    """Per topic and in all; `luck` is the share of right answers among those that name a procedure that is not the topic's."""
    named, lucky = collections.Counter(), collections.Counter()
    for problem, row, right in zip(evaluation.problems, texts, evaluation.correct, strict=True):
        for text, correct in zip(row, right, strict=True):
            name = text.split(":")[0].split(" ")[0]
            if name != embedded.TOPICS[problem.topic].procedure:
                named[name] += 1
                lucky[name] += bool(correct)
    rows = {topic: evaluation.topic(topic) for topic in embedded.TOPICS} | {"all": evaluation}
    passed = {topic: {f"pass@{k}": round(pass_at_k(row.correct, k), 4) for k in (1, 8, SAMPLES)} for topic, row in rows.items()}
    luck = {name: round(lucky[name] / named[name], 4) for name in embedded.PROCEDURES if named[name]}
    unknown = sum(count for name, count in named.items() if name not in embedded.PROCEDURES)
    return {"topics": passed, "luck": luck, "unnamed": round(unknown / evaluation.correct.size, 5)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=pathlib.Path, help="default: the one that the package ships for a preset")
    parser.add_argument("--questions", type=int, default=512)
    parser.add_argument("--worlds", nargs="+", default=["easy/math", "easy/choice", "hard/math"])
    parser.add_argument("--out", type=pathlib.Path)
    a = parser.parse_args()
    results = {}
    for world in a.worlds:
        preset, kind = world.split("/")
        folder = a.model or embedded.tiny_path(preset)
        found = figures(*base_answers(folder, preset, kind, a.questions, embedded.MAX_NEW_TOKENS[kind]))
        results[world] = found
        print(world)
        for topic, row in found["topics"].items():
            print(f"  {topic:8}", " ".join(f"{name} {value:.3f}" for name, value in row.items()))
        print("  luck", found["luck"], "unnamed", found["unnamed"], flush=True)
    if a.out:
        a.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
