"""ProxRouter (arXiv 2510.09852): which adapter answers a question, from its distance to reference questions.

    U_m(x) = Σᵢ wᵢ(x) V_im,   wᵢ(x) ∝ pᵢ exp(−φᵢ(x) / τ),   the answer is by argmax_m U_m(x)

V_im is the utility of adapter m at reference i: its accuracy less λ times its cost. φᵢ is the cosine distance to reference i.
A question that is equally far from all references gets the prior p alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SHARPNESS = 20.0  # 1/τ of the paper
FLOOR = 1e-2  # of a cluster's spread: a cluster of one question has spread 0


class References(NamedTuple):
    """What a router compares questions with: K reference questions or clusters, each with a weight and M utilities.

    values[k, m] is the utility of adapter m at reference k.
    """

    centre: np.ndarray  # f[D], which is subtracted from every embedding
    points: np.ndarray  # f[K, D], of length 1
    prior: np.ndarray  # f[K], adds up to 1
    values: np.ndarray  # f[K, M]
    nearest: int  # the nearest references that count for a question; 0: all


Build = Callable[[np.ndarray, np.ndarray], References]  # (embeddings f[n, D], utilities f[n, M]) of n questions


def neighbours(nearest: int = 100) -> Build:
    """Returns a builder of `References` that keeps every question as a reference.

    A question is compared with its `nearest` references alone.
    """

    def build(embedded: np.ndarray, values: np.ndarray) -> References:
        embedded, values = _checked(embedded, values)
        centre, count = embedded.mean(0), len(embedded)
        return References(centre, unit(embedded - centre), np.full(count, 1 / count), values, min(nearest, count))

    return build


def clusters(count: int = 32, seed: int = 0) -> Build:
    """Returns a builder of `References` that are centroids of k-means by cosine: at most `count` clusters of the questions.

    Prior pᵢ ∝ nᵢ / sᵢ: the cluster's size over its mean distance to the centroid, which has a floor. A cluster's utility is
    the mean over its questions.
    """

    def build(embedded: np.ndarray, values: np.ndarray) -> References:
        embedded, values = _checked(embedded, values)
        centre = embedded.mean(0)
        points = unit(embedded - centre)
        centroids, label = k_means(points, count, seed)
        member = label == np.arange(len(centroids))[:, None]  # [K, n]
        sizes = member.sum(1)
        spread = (member * (1 - centroids @ points.T)).sum(1) / sizes
        prior = sizes / np.maximum(spread, FLOOR)
        return References(centre, centroids, prior / prior.sum(), member @ values / sizes[:, None], 0)

    return build


def weights(references: References, embedded: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """How much each reference counts for each question: f[q, D] -> f[q, K]. Rows add up to 1; near references count more."""
    distance = 1 - unit(np.asarray(embedded, float) - references.centre) @ references.points.T
    logits = np.log(np.maximum(references.prior, np.finfo(float).tiny)) - sharpness * distance
    if references.nearest:
        # Of equally distant references the first ones count: a stable sort decides the same everywhere.
        far = np.argsort(distance, axis=1, kind="stable")[:, references.nearest :]
        np.put_along_axis(logits, far, -np.inf, axis=1)
    scaled = np.exp(logits - logits.max(1, keepdims=True))
    return scaled / scaled.sum(1, keepdims=True)


def utilities(references: References, embedded: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """The utility that the references predict for each adapter on each question: f[q, D] -> f[q, M]."""
    return weights(references, embedded, sharpness) @ references.values


def route(references: References, embedded: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """The number of the adapter with the largest predicted utility for each question: f[q, D] -> int[q].

    Ties go to the lower one.
    """
    # Rounded: sums of equal values in another order differ in the last bits, which must not decide a tie.
    return np.argmax(np.round(utilities(references, embedded, sharpness), 9), axis=1)


def k_means(points: np.ndarray, count: int, seed: int = 0, rounds: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Clusters points by cosine distance: f[n, D] of length 1 -> centroids f[K, D], and each point's centroid int[n].

    K is at most `count`.

    It starts from k-means++ (Arthur and Vassilvitskii 2007), with the cosine distance. No cluster is empty.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    chosen = [int(rng.integers(len(points)))]
    distance = 1 - points @ points[chosen[0]]
    while len(chosen) < count and distance.max() > 1e-9:
        share = np.maximum(distance, 0)
        chosen.append(int(rng.choice(len(points), p=share / share.sum())))
        distance = np.minimum(distance, 1 - points @ points[chosen[-1]])
    centroids, label = points[chosen], np.full(len(points), -1)
    for _ in range(rounds):
        found = np.argmax(points @ centroids.T, axis=1)
        if (found == label).all():
            break
        label = found
        full = np.unique(label)
        label = np.searchsorted(full, label)
        centroids = unit(np.stack([points[label == i].sum(0) for i in range(len(full))]))
    return centroids, label


def unit(x: np.ndarray) -> np.ndarray:
    """Scales each row of f[n, D] to length 1; a zero row stays zero, so that its cosine distance to everything is 1."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(length > 0, x / np.where(length > 0, length, 1), 0)


def _checked(embedded: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    embedded, values = np.asarray(embedded, float), np.asarray(values, float)
    if embedded.ndim != 2 or values.ndim != 2 or len(embedded) != len(values) or not values.size:
        raise ValueError(
            f"references: embeddings [n, D] and utilities [n, M] of the same n > 0 questions expected, got "
            f"{list(embedded.shape)} and {list(values.shape)}"
        )
    return embedded, values
