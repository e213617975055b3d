"""How sure a mean is, and a difference of two: over clusters of queries, by resampling.

Reviews of one product are not independent: what makes one of them hard makes all of them hard. So
whole products are drawn, never single reviews.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
_BLOCK = 500


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it lies with a confidence of 95 %."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: Values, clusters: Sequence[str], seed: int = 7) -> Interval:
    """Return the mean over queries with its percentile bootstrap interval.

    Args:
        values: a measure's value for each query.
        clusters: which queries belong together.
        seed: of the resampling.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; clusters as
        in Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
    """
    sums, sizes = _by_cluster(values, clusters)
    draw = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    even = np.full(len(sums), 1.0 / len(sums))
    for start in range(0, RESAMPLES, _BLOCK):
        times = draw.multinomial(len(sums), even, size=_BLOCK)
        means[start : start + _BLOCK] = (times @ sums) / (times @ sizes)
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def paired_p_value(
    values: Values, baseline: Values, clusters: Sequence[str], seed: int = 7
) -> float:
    """Return how likely so large a difference would be if both were alike, two-sided.

    Each cluster's difference gets a sign at random: a paired randomization test.

    Args:
        values: a measure's value for each query.
        baseline: the same queries' values of the system compared with.
        clusters: which queries belong together.
        seed: of the signs.

    Source: Smucker, Allan and Carterette, A Comparison of Statistical Significance Tests for
        Information Retrieval Evaluation (CIKM 2007), section 3.1.
    """
    sums, _ = _by_cluster(values - baseline, clusters)
    draw = np.random.default_rng(seed)
    observed = abs(sums.sum())
    as_large = 0
    for _ in range(0, RESAMPLES, _BLOCK):
        signs = draw.choice(np.array([-1.0, 1.0]), size=(_BLOCK, len(sums)))
        as_large += int((np.abs(signs @ sums) >= observed - 1e-9).sum())
    # The order that was seen counts as one of them, so that no p value is 0.
    return (as_large + 1) / (RESAMPLES + 1)


def _by_cluster(values: Values, clusters: Sequence[str]) -> tuple[Values, Values]:
    """Return the sum and the size of each cluster."""
    _, places = np.unique(np.array(clusters), return_inverse=True)
    sums: Values = np.bincount(places, weights=values).astype(np.float64)
    return sums, np.bincount(places).astype(np.float64)
