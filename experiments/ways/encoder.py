"""FedGRPO with another encoder of questions: the counts of their tokens in place of the base's mean hidden state.

    python -m experiments.ways.encoder --seeds 1 2 3 4 5

This prints, for both encoders, the share of a question's nearest auxiliary questions that have its topic.
"""

import argparse
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.laboratory import config_of
from pubswap_jax.algorithm.experts import nearest
from pubswap_jax.policy.embedding import Encoder, mean_hidden, normalised
from pubswap_jax.run.assembly import Run, assemble
from pubswap_jax.run.methods import fedgrpo_of
from pubswap_jax.types import Prompts, PyTree


def bag_of_tokens(vocabulary: int) -> Encoder:
    """Counts a prompt's tokens, whatever their order."""

    def embed(base: PyTree, prompts: Prompts):
        one = jax.nn.one_hot(prompts.tokens, vocabulary)
        return normalised(jnp.sum(one, axis=1, where=prompts.mask[..., None]))

    return Encoder(vocabulary, embed)


def with_bag_of_tokens(spec: str, changes: Mapping[str, object], run: Run) -> Run:
    """The run of a config, whose competence map compares questions by their tokens."""
    config = config_of(spec, run.settings["seed"], changes)
    encoder = bag_of_tokens(run.policy.config.vocab_size)
    return run._replace(federation=fedgrpo_of(config, run.policy.model, run.programs, encoder))


def purity(run: Run, encoder: Encoder, count: int = 20, most: int = 300) -> float:
    """The share of a question's `count` nearest auxiliary questions that have its topic, over `most` public questions."""
    labelled, public = run.settings["federation.auxiliary"], run.data.split.public
    rows = np.array(public[: labelled + most])
    embedded = encoder.embed(run.policy.base, jax.tree.map(lambda x: x[rows], run.data.train.prompts))
    topics = np.array([run.data.train.problems[i].topic for i in rows])
    found = np.asarray(nearest(embedded[labelled:], embedded[:labelled], count))
    return float((topics[found] == topics[labelled:, None]).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    for seed in parser.parse_args().seeds:
        run = assemble(config_of("configs/math.py:hard", seed, {"data.public": 0.2}))
        both = {"mean hidden state": mean_hidden(run.policy.model), "tokens": bag_of_tokens(run.policy.config.vocab_size)}
        shares = (f"{name} {purity(run, encoder):.2f}" for name, encoder in both.items())
        print(f"seed {seed}: share of the nearest 20 of 100 with the question's topic: {', '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
