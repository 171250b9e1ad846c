"""The swap's laws against a plain-Python oracle, for random correctness, absence and group sizes."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pubswap_jax.algorithm import swap
from pubswap_jax.types import Verdict

PLANNERS = [swap.balanced, swap.random_swap, swap.rescue, swap.swap_all, swap.max_variance, swap.no_swap]
# A few shapes, so that each planner is compiled a few times and the examples are many.
SHAPES = [(1, 2, 4), (2, 3, 5), (4, 2, 8), (3, 1, 3), (3, 2, 2)]
COMPILED = {planner: jax.jit(planner) for planner in PLANNERS}


@st.composite
def worlds(draw):
    """(key seed, correct [C, B, G], present [C]) with right answers from rare to common."""
    seed, shape = draw(st.integers(0, 2**31 - 1)), draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(seed)
    correct = rng.random(shape) < rng.choice([0.0, 0.1, 0.4, 0.8, 1.0], size=(shape[0], shape[1], 1))
    present = np.ones(shape[0], bool) if draw(st.booleans()) else rng.random(shape[0]) < 0.6
    return seed, correct, present


def expected_changes(planner, correct, present):
    """By loops: (how many slots change, how many end up right) of each group."""
    C, B, G = correct.shape
    counts = np.zeros((C, B), int)
    for c in range(C):
        for b in range(B):
            others = [i for i in range(C) if i != c and present[i] and present[c]]
            right = int(correct[c, b].sum())
            donors = sum(int(correct[i, b].sum()) for i in others)
            wrong_donors = G * len(others) - donors
            balanced = min(max(G // 2 - right, 0), donors, G - right)
            counts[c, b] = {
                swap.balanced: balanced,
                swap.random_swap: balanced,
                swap.rescue: min(donors, 1) if right == 0 else 0,
                swap.swap_all: min(G - right, donors),
                swap.max_variance: balanced if right < G // 2 else min(max(right - (G + 1) // 2, 0), wrong_donors),
                swap.no_swap: 0,
            }[planner]
    return counts


@pytest.mark.parametrize("planner", PLANNERS)
@settings(max_examples=60, deadline=None)
@given(worlds())
def test_laws(planner, world):
    seed, correct, present = world
    C, B, G = correct.shape
    plan = COMPILED[planner](jax.random.key(seed), jnp.asarray(correct), jnp.asarray(present))
    source, swapped = np.asarray(plan.source), np.asarray(plan.swapped)
    assert source.dtype == np.int32 and swapped.dtype == bool and source.shape == swapped.shape == correct.shape
    np.testing.assert_array_equal(swapped.sum(-1), expected_changes(planner, correct, present))

    donor, slot = source // G, source % G
    own = np.broadcast_to(np.arange(C)[:, None, None], source.shape)
    np.testing.assert_array_equal(donor[~swapped], own[~swapped])
    np.testing.assert_array_equal(slot[~swapped], np.broadcast_to(np.arange(G), source.shape)[~swapped])
    assert (donor[swapped] != own[swapped]).all() and present[donor[swapped]].all()
    assert not swapped[~present].any()
    for c in range(C):
        for b in range(B):
            taken = source[c, b][swapped[c, b]]
            assert len(set(taken)) == len(taken), "a donor's response is given twice to one group"

    after = np.take_along_axis(np.swapaxes(correct, 0, 1).reshape(1, B, C * G), source, axis=-1)
    if planner is not swap.random_swap and planner is not swap.max_variance:
        assert not correct[swapped].any() and after[swapped].all(), "only wrong slots change, and they become right"
    if planner is swap.balanced:
        given = (correct & present[:, None, None]).sum(-1)  # right responses that a client has to give
        donors = (given.sum(0) - given) * present[:, None]
        right = correct.sum(-1)
        np.testing.assert_array_equal(after.sum(-1), np.maximum(right, np.minimum(G // 2, right + donors)))
    if planner is swap.max_variance:
        best = lambda p: p * (G - p)  # noqa: E731
        assert (best(after.sum(-1)) >= best(correct.sum(-1))).all()


@pytest.mark.parametrize("planner", PLANNERS)
def test_one_client_is_the_identity(planner, getkey):
    correct = jnp.array([[[False, True, False, False]]])
    plan = planner(getkey(), correct)
    assert not plan.swapped.any() and plan.source.tolist() == [[[0, 1, 2, 3]]]


def test_slots_and_donors_are_drawn_uniformly(getkey):
    correct = jnp.zeros((3, 1, 4), bool).at[1, 0, :2].set(True).at[2, 0, 3].set(True)
    plans = jax.vmap(lambda key: swap.balanced(key, correct))(jax.random.split(getkey(), 6000))
    slots = np.asarray(plans.swapped[:, 0, 0]).mean(0)  # 2 of 4 wrong slots each time
    np.testing.assert_allclose(slots, 0.5, atol=0.03)
    donors = np.asarray(plans.source[:, 0, 0])[np.asarray(plans.swapped[:, 0, 0])]
    counts = collections.Counter(donors.tolist())
    assert set(counts) == {4, 5, 11}  # client 1's slots 0 and 1, client 2's slot 3
    np.testing.assert_allclose([counts[k] / len(donors) for k in (4, 5, 11)], 1 / 3, atol=0.02)


def test_random_swap_takes_any_foreign_response_and_any_slot(getkey):
    correct = jnp.zeros((2, 1, 4), bool).at[0, 0, 0].set(True).at[1].set(True)
    plans = jax.vmap(lambda key: swap.random_swap(key, correct))(jax.random.split(getkey(), 4000))
    assert (plans.swapped[:, 0].sum(-1) == 1).all()
    np.testing.assert_allclose(plans.swapped[:, 0, 0].mean(0), 0.25, atol=0.03)


def test_relabelling_the_clients_relabels_the_distribution(getkey):
    rng = np.random.default_rng(0)
    correct = jnp.asarray(rng.random((3, 2, 4)) < 0.4)
    order = np.array([2, 0, 1])
    keys = jax.random.split(getkey(), 4000)

    def donor_rates(correct):
        plans = jax.vmap(lambda key: swap.balanced(key, correct))(keys)
        return np.asarray(jax.vmap(swap.donor_matrix)(plans)).mean(0), np.asarray(plans.swapped).mean(0)

    matrix, slots = donor_rates(correct)
    relabelled_matrix, relabelled_slots = donor_rates(correct[order])
    np.testing.assert_allclose(relabelled_matrix, matrix[order][:, order], atol=0.06)
    np.testing.assert_allclose(relabelled_slots, slots[order], atol=0.05)


def test_apply_swap_equals_the_loop_and_relabelling_is_bitwise(getkey):
    C, B, G = 3, 2, 4
    tokens = jax.random.randint(getkey(), (C, B, G, 5), 0, 99)
    correct = jax.random.bernoulli(getkey(), 0.3, (C, B, G))
    plan = swap.balanced(getkey(), correct)
    moved, bits = swap.apply_swap(plan, (tokens, correct))
    for c in range(C):
        for b in range(B):
            for g in range(G):
                donor, slot = divmod(int(plan.source[c, b, g]), G)
                np.testing.assert_array_equal(moved[c, b, g], tokens[donor, b, slot])
                assert bits[c, b, g] == correct[donor, b, slot]
    order = np.array([2, 0, 1])
    renamed = np.argsort(order)[np.asarray(plan.source) // G] * G + np.asarray(plan.source) % G
    relabelled = plan.replace(source=jnp.asarray(renamed[order], jnp.int32), swapped=plan.swapped[order])
    np.testing.assert_array_equal(swap.apply_swap(relabelled, tokens[order]), moved[order])


def test_an_absent_client_with_everything_right_gives_nothing(getkey):
    correct = jnp.zeros((2, 1, 4), bool).at[1].set(True)
    plan = swap.balanced(getkey(), correct, jnp.array([True, False]))
    assert not plan.swapped.any()


def test_presence_may_be_a_list_an_array_or_sizes(getkey):
    correct, key = np.stack([np.zeros((1, 4), bool), np.ones((1, 4), bool)]), getkey()
    for here in ([True, True], np.array([True, True]), np.array([2, 2]), [0.5, 4.0]):
        for planner in PLANNERS:
            np.testing.assert_array_equal(planner(key, correct, here).swapped, planner(key, correct).swapped)
    assert not swap.balanced(key, correct, [2, 0]).swapped.any()


def test_what_a_swap_did(getkey):
    correct = jnp.zeros((2, 2, 4), bool).at[1, 0].set(True)  # client 1 solved question 0, nobody question 1
    before = Verdict.from_correct(correct)
    plan = swap.balanced(getkey(), correct)
    after = swap.apply_swap(plan, before)
    mask = jnp.ones((2, 2, 4, 3), bool)
    metrics = swap.swap_metrics(plan, before, after, mask)
    assert metrics["swapped"].tolist() == [0.25, 0] and metrics["swapped_tokens"].tolist() == [0.25, 0]
    assert metrics["rescued"].tolist() == [0.5, 0]
    assert metrics["zero_variance_before"].tolist() == [1, 1] and metrics["zero_variance_after"].tolist() == [0.5, 1]
    assert metrics["variance_before"].tolist() == [0, 0] and metrics["variance_after"].tolist() == [0.125, 0]
    assert swap.donor_matrix(plan).tolist() == [[0, 2], [0, 0]]


def test_bad_input_names_the_argument(getkey):
    correct = jnp.zeros((2, 3, 4), bool)
    with pytest.raises(ValueError, match=r"correct: bool\[C, B, G\] expected"):
        swap.balanced(getkey(), correct[0])
    with pytest.raises(ValueError, match=r"correct: bool\[C, B, G\] expected, got float32"):
        swap.balanced(getkey(), correct.astype(float))
    for planner in PLANNERS:
        with pytest.raises(ValueError, match=r"present: bool\[2\] expected"):
            planner(getkey(), correct, jnp.ones(3, bool))
    with pytest.raises(ValueError, match=r"tree: leaves of shape \(2, 3, 4\)"):
        swap.apply_swap(swap.no_swap(getkey(), correct), jnp.zeros((2, 3)))
