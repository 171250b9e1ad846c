"""The two-layer CNN: its forward pass against a loop, its start by hand, and what heterogeneity costs on a small case."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.alignment import bases, cnn, study
from pubswap_jax.questions import embedded
from pubswap_jax.questions.tokens import load_tokenizer


def test_the_output_is_that_of_a_loop(getkey):
    filters, noise = jax.random.normal(getkey(), (2, 3, 5)), jax.random.normal(getkey(), (4, 5))
    labels, signal = np.array([1.0, -1, 1, -1]), 2.0
    mu = np.array([signal, 0, 0, 0, 0])
    expected = []
    for label, one in zip(labels, np.asarray(noise), strict=True):
        total = 0.0
        for j, bank in zip((1, -1), np.asarray(filters), strict=True):
            total += j * np.mean([max(w @ (label * mu), 0) + max(w @ one, 0) for w in bank])
        expected.append(total)
    np.testing.assert_allclose(cnn.output(filters, jnp.asarray(labels), noise, signal), expected, rtol=1e-5)


def test_filters_differ_in_their_alignment_alone(getkey):
    key, sizes = getkey(), cnn.Sizes(filters=4, dim=6)
    some, all_of_them = (cnn.first_filters(key, sizes, share) for share in (0.25, 1.0))
    assert cnn.misaligned(some) == 0.75 and cnn.misaligned(all_of_them) == 0
    np.testing.assert_array_equal(np.abs(some), np.abs(all_of_them))
    np.testing.assert_array_equal(some[..., 1:], all_of_them[..., 1:])


def test_labels_of_clients():
    sizes = cnn.Sizes(clients=2, samples=4)
    assert cnn.labels_of(sizes, 0.0).tolist() == [[1, 1, -1, -1], [-1, -1, 1, 1]]
    assert cnn.labels_of(sizes, 0.5).tolist() == [[1, 1, 1, -1], [-1, -1, -1, 1]]
    assert cnn.labels_of(sizes, 1.0).tolist() == [[1] * 4, [-1] * 4]


@pytest.mark.slow
def test_heterogeneity_costs_more_with_misaligned_filters():
    sizes = cnn.Sizes(steps=50, rounds=5, test=400)
    found = study.costs(study.run(3, (0.0, 1.0), (0.0, 1.0), sizes))
    assert found[0.0].mean() > found[1.0].mean() + 0.02


def test_figures_of_a_round_are_means_over_clients_and_pairs():
    moved = {"opposing": np.array([0.25, 0.75]), "drift": np.array([1.0, 3.0]), "cosine": np.array([[1.0, -0.5], [-0.5, 1.0]])}
    assert bases.figures_of(moved) == {"share": 0.5, "drift": 2.0, "cosine": -0.5}


def test_right_answers_end_with_the_stop_token():
    tokenizer = load_tokenizer(embedded.tiny_path(), instructions={"math": ""})
    problems = embedded.problems("train", seed=0, count=16, preset="easy", kind="math")
    for problem in problems:
        tokens, mask = bases.right_answers(problems, tokenizer)[problem.id]
        procedure = embedded.TOPICS[problem.topic].procedure
        assert tokenizer.decode(tokens, mask) == rf"{procedure}: \boxed{{{problem.answer}}}"
        assert tokens[mask][-1] == tokenizer.stop_ids[0] and not mask[mask.sum() :].any()


def test_the_table_compares_the_ends_of_alpha():
    shares = zip(map(str, bases.ALPHAS), (0.4, 0.2, 0.1), strict=True)
    found = {alpha: [{"share": share, "drift": 1.0, "cosine": 2 * share}] * 2 for alpha, share in shares}
    text = bases.table({"cross-entropy": {"shipped": found}})
    assert "+0.300 ± 0.000" in text and "0.200 ± 0.000" in text and "0.80, 0.20" in text
