"""FlexMerge against a plain dense implementation: the same groups, the same order, the same vectors."""

import itertools

import numpy as np
import pytest

from pubswap_jax.after import merging
from pubswap_jax.after.merging import Factors

LAYERS = {"attention": (6, 8), "mlp": (5, 4)}
WEIGHTS = np.array([3.0, 1.0])  # the first block counts three times as much


def adapters(clients=5, blocks=2, rank=2, seed=0, dtype=np.float64):
    """A list of blocks of `clients` random adapters. Pairs of neighbours are alike, to a different degree in every block."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(blocks):
        block = {}
        for name, (wide, out) in LAYERS.items():
            p, q = rng.normal(size=(clients, wide, rank)), rng.normal(size=(clients, rank, out))
            for i in range(1, clients, 2):
                p[i], q[i] = p[i - 1] + rng.uniform(0.2, 2) * p[i], q[i - 1] + 0.3 * q[i]
            block[name] = Factors(p.astype(dtype), q.astype(dtype))
        found.append(block)
    return found


def dense(block):
    """f64[N, D]: the task vectors of a block."""
    return np.concatenate([(p @ q).reshape(len(p), -1) for p, q in block.values()], axis=1).astype(float)


def product(block):
    return np.concatenate([(p @ q).ravel() for p, q in block.values()])


# --- the plain implementation: dense vectors, and every similarity computed again in every step -----------------------------


def plain_cosine(x, y):
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return round(float(x @ y / lengths), 6) if lengths else 0.0


def plain_steps(vectors):
    """[(block, members of both groups)] of dense vectors [B][N, D]."""
    groups = [[(i,) for i in range(len(block))] for block in vectors]
    steps = []
    while any(len(block) > 1 for block in groups):
        best = None
        for b, block in enumerate(groups):
            for one, other in itertools.combinations(sorted(block), 2):
                similarity = min(plain_cosine(vectors[b][i], vectors[b][j]) for i in one for j in other)
                if best is None or similarity > best[0]:
                    best = similarity, b, one, other
        similarity, b, one, other = best
        groups[b] = [group for group in groups[b] if group not in (one, other)] + [tuple(sorted(one + other))]
        steps.append((b, tuple(sorted(one + other)), similarity))
    return steps


def plain_ties(vectors, density):
    kept = []
    for vector in vectors:
        least = sorted(abs(x) for x in vector)[len(vector) - int(np.ceil(density * len(vector)))]
        kept.append([x if abs(x) >= least else 0.0 for x in vector])
    merged = []
    for entries in zip(*kept, strict=True):
        sign = np.sign(sum(entries))
        agree = [x for x in entries if x * sign > 0]
        merged.append(sum(agree) / len(agree) if agree else 0.0)
    return np.array(merged)


PLAIN = {
    "average": lambda vectors: vectors.mean(0),
    "task_arithmetic": lambda vectors: 1.5 * vectors.mean(0),
    "ties": lambda vectors: plain_ties(vectors, 0.3),
}
MERGES = {
    "average": merging.average(),
    "task_arithmetic": merging.task_arithmetic(1.5),
    "ties": merging.ties(0.3, rank=8),  # the full rank of these layers, so that nothing is cut
}


@pytest.mark.parametrize("seed", range(4))
def test_groups_and_their_order_are_those_of_dense_vectors(seed):
    blocks = adapters(seed=seed)
    found = merging.order(np.stack([merging.cosines(merging.gram(block)) for block in blocks]))
    assert [(step.block, step.members) for step in found] == [step[:2] for step in plain_steps(list(map(dense, blocks)))]
    np.testing.assert_allclose([step.similarity for step in found], [s[2] for s in plain_steps(list(map(dense, blocks)))])


@pytest.mark.parametrize("name", MERGES)
def test_a_merged_block_is_that_of_dense_vectors(name):
    for block in adapters(seed=3):
        for members in ((0, 1), (1, 2, 4), (0, 1, 2, 3, 4)):
            merged = MERGES[name](block, members)
            np.testing.assert_allclose(product(merged.block), PLAIN[name](dense(block)[list(members)]), atol=1e-10)
            assert merged.error < 1e-7


def test_gram_matrices_are_those_of_dense_vectors_in_f32_too():
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        for block in adapters(dtype=dtype):
            vectors = dense(block)
            np.testing.assert_allclose(merging.gram(block), vectors @ vectors.T, rtol=tolerance, atol=tolerance * 50)


def test_one_model_is_the_mean_and_n_models_are_everybodys_own():
    blocks = adapters()
    steps = merging.order(np.stack([merging.cosines(merging.gram(block)) for block in blocks]))
    assert merging.groups_at(steps, 1, 5, WEIGHTS) == [[(0, 1, 2, 3, 4)]] * 2
    assert merging.groups_at(steps, 5, 5, WEIGHTS) == [[(i,) for i in range(5)]] * 2
    for block in blocks:
        np.testing.assert_allclose(product(merging.average()(block, (0, 1, 2, 3, 4)).block), dense(block).mean(0), atol=1e-12)
        for i in range(5):
            np.testing.assert_array_equal(product(merging.own(block, i)), dense(block)[i])


def test_a_size_is_reached_by_the_fewest_steps():
    blocks = adapters()
    steps = merging.order(np.stack([merging.cosines(merging.gram(block)) for block in blocks]))
    for size in (1, 1.25, 2, 2.6, 3.75, 4.9, 5):
        groups = merging.groups_at(steps, size, 5, WEIGHTS)
        reached = merging.size_of(groups, WEIGHTS)
        assert reached <= size + 1e-9 and all(sorted(sum(block, ())) == [0, 1, 2, 3, 4] for block in groups)
        done = sum(5 - len(block) for block in groups)
        before = merging.groups_at(steps[: done - 1], 1, 5, WEIGHTS) if done else groups
        assert not done or merging.size_of(before, WEIGHTS) > size
    assert merging.size_of([[(0, 1)], [(0,), (1,)]], WEIGHTS) == 1.25  # (1 · 3 + 2 · 1) / 4
    with pytest.raises(ValueError, match="size=6: 1 to 5 expected, since there are 5 adapters"):
        merging.groups_at(steps, 6, 5, WEIGHTS)
    assert merging.group_of([(0, 2), (1,)], 2) == (0, 2)


def test_the_similarity_of_groups_is_the_least_of_their_members():
    similarity = np.array([[[1, 0.9, 0.1, 0], [0.9, 1, 0.8, 0], [0.1, 0.8, 1, 0.2], [0, 0, 0.2, 1]]])
    found = merging.order(similarity)
    # After (0, 1), the pair (2, 3) has 0.2, and (0, 1) with 2 has min(0.1, 0.8).
    assert [(step.members, step.similarity) for step in found] == [((0, 1), 0.9), ((2, 3), 0.2), ((0, 1, 2, 3), 0.0)]


def test_ties_go_to_the_lower_block_and_the_lower_adapters():
    equal = np.full((2, 3, 3), 0.5)
    expected = [(0, (0, 1)), (0, (0, 1, 2)), (1, (0, 1)), (1, (0, 1, 2))]
    assert [(step.block, step.members) for step in merging.order(equal)] == expected
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(1, 6, 2)), rng.normal(size=(1, 2, 8))
    # Three equal task vectors with unequal factors: rounding errors must not decide.
    block = {"x": Factors(np.concatenate([p, 3 * p, p * 7]), np.concatenate([q, q / 3, q / 7]))}
    assert (merging.cosines(merging.gram(block)) == 1).all()


def test_a_zero_vector_is_like_no_other():
    similar = merging.cosines(np.array([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(similar, [[1, 1, 0], [1, 1, 0], [0, 0, 0]])


def test_a_cut_is_the_best_approximation_and_says_what_it_loses():
    block = adapters()[0]
    whole = merging.average()(block, (0, 1, 2)).block
    merged = merging.average(rank=3)(block, (0, 1, 2))
    lost, total = 0.0, 0.0
    for name, (p, q) in merged.block.items():
        u, sigma, v = np.linalg.svd(whole[name].p @ whole[name].q)
        np.testing.assert_allclose(p @ q, u[:, :3] * sigma[:3] @ v[:3], atol=1e-10)
        lost, total = lost + (sigma[3:] ** 2).sum(), total + (sigma**2).sum()
    assert merged.error == pytest.approx((lost / total) ** 0.5) and merged.error > 0.05
    exact = merging.task_arithmetic(1.0, rank=6)(block, (0, 1, 2))
    np.testing.assert_allclose(product(exact.block), product(whole), atol=1e-10)


def test_ties_says_what_its_rank_loses():
    block = adapters()[0]
    full, low = merging.ties(0.3, rank=8)(block, (0, 1, 2)), merging.ties(0.3, rank=2)(block, (0, 1, 2))
    assert {name: p.shape[1] for name, (p, _) in low.block.items()} == {"attention": 2, "mlp": 2}
    missing = np.linalg.norm(product(full.block) - product(low.block)) / np.linalg.norm(product(full.block))
    assert low.error == pytest.approx(missing) and missing > 0.1
    default = merging.ties(0.3)(block, (0, 1))  # n·r, and at most the layer's own rank
    assert {name: p.shape[1] for name, (p, _) in default.block.items()} == {"attention": 4, "mlp": 4}


def test_ties_by_hand():
    """Each vector keeps two entries: [4, 3, 0, 0] and [0, 5, 0, -6]."""
    p = np.array([[[1.0]], [[1.0]]])
    q = np.array([[[4.0, 3.0, -0.5, 0.1]], [[-0.2, 5.0, 0.1, -6.0]]])
    found = merging.ties(0.5)({"x": Factors(p, q)}, (0, 1)).block["x"]
    np.testing.assert_allclose(found.p @ found.q, [[4.0, 4.0, 0.0, -6.0]], atol=1e-12)
