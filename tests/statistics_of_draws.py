"""Is a sample from the distribution that it claims? Shared by the tests of the draw and of the sampler."""

import numpy as np


def chi_square(counts, probabilities):
    """The statistic in standard deviations from its mean, over cells with enough expected counts."""
    expected = counts.sum() * probabilities
    cells = expected >= 5
    statistic = np.sum((counts[cells] - expected[cells]) ** 2 / expected[cells])
    return (statistic - cells.sum()) / np.sqrt(2 * cells.sum())
