"""ProxRouter against a plain loop, its trivial cases, and a question that is far from all references."""

import math

import numpy as np
import pytest

from pubswap_jax.after import routing


def world(questions=40, size=5, adapters=3, seed=0):
    """Embeddings and utilities of reference questions, and some other questions."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(questions, size)) + 2, rng.uniform(size=(questions, adapters)), rng.normal(size=(7, size)) + 2


# --- the plain loop -----------------------------------------------------------------------------------------------------


def distance(x, y):
    lengths = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return 1 - sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 1.0


def plain(points, prior, values, x, nearest):
    """The utilities of each adapter for one question x."""
    near = sorted(range(len(points)), key=lambda i: distance(x, points[i]))[: nearest or len(points)]
    tilted = {i: prior[i] * math.exp(-20 * distance(x, points[i])) for i in near}
    total = sum(tilted.values())
    return [sum(tilted[i] / total * values[i][m] for i in near) for m in range(len(values[0]))]


def test_neighbours_are_those_of_a_plain_loop():
    embedded, values, asked = world()
    references = routing.neighbours(6)(embedded, values)
    centre = embedded.mean(0)
    expected = [plain(embedded - centre, [1.0] * 40, values, x - centre, 6) for x in asked]
    np.testing.assert_allclose(routing.utilities(references, asked), expected, rtol=1e-9)
    assert routing.route(references, asked).tolist() == [max(range(3), key=lambda m: (row[m], -m)) for row in expected]


def test_clusters_are_those_of_a_plain_loop():
    embedded, values, asked = world()
    references = routing.clusters(4, seed=1)(embedded, values)
    centre = embedded.mean(0)
    _, label = routing.k_means(routing.unit(embedded - centre), 4, seed=1)
    points, prior, means = [], [], []
    for cluster in range(4):
        rows = [i for i in range(40) if label[i] == cluster]
        directions = [(embedded[i] - centre) / np.linalg.norm(embedded[i] - centre) for i in rows]
        point = sum(directions)
        spread = sum(distance(one, point) for one in directions) / len(rows)
        points.append(point)
        prior.append(len(rows) / max(spread, 0.01))
        means.append([sum(values[i][m] for i in rows) / len(rows) for m in range(3)])
    expected = [plain(points, prior, means, x - centre, 0) for x in asked]
    np.testing.assert_allclose(routing.utilities(references, asked), expected, rtol=1e-9)
    assert references.prior.sum() == pytest.approx(1) and references.points.shape == (4, 5)


def test_one_adapter_or_one_reference_is_the_trivial_route():
    embedded, values, asked = world()
    for build in (routing.neighbours(), routing.clusters()):
        assert (routing.route(build(embedded, values[:, :1]), asked) == 0).all()
        alone = build(embedded[:1], values[:1])
        np.testing.assert_array_equal(routing.weights(alone, asked), np.ones((7, 1)))
        assert (routing.route(alone, asked) == values[0].argmax()).all()


def test_a_question_far_from_all_references_gets_the_prior():
    embedded, values, _ = world()
    embedded[:, -1] = 0
    for references in (routing.clusters(5)(embedded, values), routing.neighbours(40)(embedded, values)):
        outlier = references.centre + np.array([[0, 0, 0, 0, 9.0]])  # at a right angle to every reference
        np.testing.assert_allclose(routing.weights(references, outlier)[0], references.prior, rtol=1e-9)
        best = (references.prior @ references.values).argmax()
        assert routing.route(references, outlier) == [best]
        np.testing.assert_allclose(routing.weights(references, references.centre[None])[0], references.prior, rtol=1e-9)


def test_a_question_beside_a_reference_gets_its_adapter():
    embedded = np.eye(4)
    references = routing.neighbours(4)(embedded, np.eye(4))
    assert routing.route(references, embedded + 0.01).tolist() == [0, 1, 2, 3]
    weight = routing.weights(references, embedded[:1])[0]
    assert weight[0] > 0.99 and weight.sum() == pytest.approx(1)
    np.testing.assert_allclose(routing.weights(references, embedded[:1], sharpness=0.0)[0], [0.25] * 4)


def test_ties_go_to_the_lower_adapter_and_the_first_reference():
    embedded, values, asked = world()
    assert (routing.route(routing.neighbours()(embedded, np.full((40, 3), 0.7)), asked) == 0).all()
    equal = np.ones((60, 2)) * np.where(np.arange(60) % 2, -1, 1)[:, None]
    weight = routing.weights(routing.neighbours(2)(equal, np.eye(60)), equal[:1])[0]
    assert np.flatnonzero(weight).tolist() == [0, 2] and weight[0] == 0.5


def test_k_means_finds_what_is_apart_and_no_empty_cluster():
    rng = np.random.default_rng(0)
    points = routing.unit(np.repeat(np.eye(3), 10, axis=0) + 0.05 * rng.normal(size=(30, 3)))
    for seed in range(5):
        centroids, label = routing.k_means(points, 3, seed)
        assert [len(set(label[i : i + 10])) for i in (0, 10, 20)] == [1, 1, 1] and len(set(label)) == 3
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1)
    same, label = routing.k_means(np.repeat(points[:2], 5, axis=0), 32)
    assert len(same) == 2 and sorted(set(label)) == [0, 1], "no more clusters than distinct questions"


def test_references_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"of the same n > 0 questions expected, got \[3, 2\] and \[2, 1\]"):
        routing.clusters()(np.ones((3, 2)), np.ones((2, 1)))
