"""The sums of `benchmarks.peers`: recall by score, the smallest value that is enough, ratios."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
K = 10
ALLOWANCE = 1e-3
"""What a hit may score less than the tenth best: vectors are stored in different widths."""
STRICT = 1e-6
"""What sums of other orders differ by."""
_BLOCK_ROWS = 65_536


def values_between(lowest: int, highest: int) -> tuple[int, ...]:
    """Return values to try of a search parameter, a tenth apart, both ends among them.

    >>> values_between(10, 15)
    (10, 11, 12, 13, 14, 15)
    >>> values_between(100, 130)
    (100, 110, 121, 130)
    """
    values = [lowest]
    while values[-1] < highest:
        values.append(min(highest, max(values[-1] + 1, round(values[-1] * 1.1))))
    return tuple(values)


def smallest_enough(
    values: Sequence[int], recall_at: Callable[[int], float], required: float
) -> int | None:
    """Return the smallest of ascending values with the recall required; None if none has it.

    Recall is taken to rise with the value.

    >>> smallest_enough([10, 20, 40], lambda value: value / 40, 0.5)
    20
    """
    if recall_at(values[-1]) < required:
        return None
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if recall_at(values[middle]) >= required:
            high = middle
        else:
            low = middle + 1
    return values[high]


def tenth_scores(vectors: Floats, queries: Floats) -> Floats:
    """Return the exact tenth best score of each query, or its last where there are fewer vectors.

    Args:
        vectors: shape (items, dim).
        queries: shape (queries, dim).
    """
    best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        scores = queries @ vectors[start : start + _BLOCK_ROWS].T
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :K]
    tenth: Floats = best[:, -1]
    return tenth


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows the exact answers to some queries."""

    vectors: Floats
    queries: Floats
    tenth: Floats

    @classmethod
    def over(cls, vectors: Floats, queries: Floats) -> "Judge":
        """Search exactly."""
        return cls(vectors, queries, tenth_scores(vectors, queries))

    def recall(
        self, first: int, found: Sequence[Sequence[int]], allowance: float = ALLOWANCE
    ) -> float:
        """Return ann_recall@10 of the rows found for consecutive queries from `first` on.

        A row counts once, and when its exact score is at most `allowance` below the tenth best:
        items with equal vectors stand in for each other.
        """
        wanted = min(K, len(self.vectors))
        shares = []
        for query, rows in enumerate(found, start=first):
            scores = self.vectors[list(dict.fromkeys(rows))] @ self.queries[query]
            good = int((scores >= self.tenth[query] - allowance).sum())
            shares.append(min(wanted, good) / wanted)
        return statistics.mean(shares)


def ratios(own: Sequence[float], peers: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the median over rounds of Vitrine's rate over the peers' in the same round.

    >>> ratios([10.0, 12.0, 30.0], {"a": [5.0, 6.0, 10.0], "b": [2.0, 3.0, 5.0]})
    {'to_each': {'a': 2.0, 'b': 5.0}, 'to_best': 2.0, 'to_median': 2.86}
    """
    if not peers:
        return {"to_each": {}, "to_best": None, "to_median": None}
    rounds = list(zip(*peers.values(), strict=True))
    return {
        "to_each": {name: _median_ratio(own, rates) for name, rates in peers.items()},
        "to_best": _median_ratio(own, [max(rates) for rates in rounds]),
        "to_median": _median_ratio(own, [statistics.median(rates) for rates in rounds]),
    }


def _median_ratio(own: Sequence[float], others: Sequence[float]) -> float:
    return round(
        statistics.median(mine / theirs for mine, theirs in zip(own, others, strict=True)), 2
    )
