"""One ranked list of two: by rank (RRF) or by score, as `SearchRequest.fusion` says it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

RRF_K = 60
NO_ROW = -1  # stands, as in FAISS, where nothing more was found


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of each query, best first, and their scores, both of shape (q, k).

    Where less was found, rows end with `NO_ROW`.
    """

    rows: Rows
    scores: Floats

    def of(self, place: int) -> "Hits":
        """Return those of one query, of shape (1, k)."""
        return Hits(self.rows[place : place + 1], self.scores[place : place + 1])


def reciprocal_ranks(
    dense: Hits, lexical: Hits, lexical_weight: float, k: int = RRF_K
) -> list[dict[int, float]]:
    """Return each query's row -> 1 / (k + dense rank) + lexical_weight / (k + lexical rank).

    Args:
        dense: what one side found.
        lexical: what the other found.
        lexical_weight: of the other side.
        k: how little the first ranks stand out.

    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion outperforms Condorcet and
        individual Rank Learning Methods (SIGIR 2009).
    """
    return [
        _sum(
            {row: 1.0 / (k + rank) for rank, row in enumerate(left, start=1)},
            {row: lexical_weight / (k + rank) for rank, row in enumerate(right, start=1)},
        )
        for left, right in zip(_found(dense), _found(lexical), strict=True)
    ]


def weighted_scores(
    dense: Hits, lexical: Hits, alpha: float | Sequence[float]
) -> list[dict[int, float]]:
    """Return each query's row -> alpha x dense + (1 - alpha) x lexical score.

    Each side is scaled to 0..1 over its candidates; what a side did not find has 0 there.

    Args:
        dense: what one side found.
        lexical: what the other found.
        alpha: of all queries, or one for each.
    """
    alphas = np.broadcast_to(alpha, len(dense.rows)).tolist()
    sides = zip(_found(dense), _found(lexical), alphas, strict=True)
    return [
        _sum(
            {row: share * score for row, score in _scaled(left).items()},
            {row: (1.0 - share) * score for row, score in _scaled(right).items()},
        )
        for left, right, share in sides
    ]


def ranked(scored: Sequence[Mapping[int, float]], depth: int) -> Hits:
    """Return the best rows of each query, shape (q, depth), ties by row.

    >>> ranked([{7: 0.5, 3: 0.5, 9: 0.9}, {4: 0.1}], 2).rows.tolist()
    [[9, 3], [4, -1]]
    """
    rows = np.full((len(scored), depth), NO_ROW, dtype=np.int64)
    points = np.zeros((len(scored), depth), dtype=np.float32)
    for query, scores in enumerate(scored):
        best = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:depth]
        rows[query, : len(best)] = [row for row, _ in best]
        points[query, : len(best)] = [score for _, score in best]
    return Hits(rows, points)


def best_of(tried: Iterable[float], worth: Callable[[float], float]) -> float:
    """Return the value that is worth most; the first of equals.

    >>> best_of([0.1, 0.5, 0.9], lambda value: -abs(value - 0.6))
    0.5
    """
    return max(tried, key=worth)


def _found(hits: Hits) -> list[dict[int, float]]:
    """Return each query's row -> score, best first."""
    return [
        {row: score for row, score in zip(rows, scores, strict=True) if row != NO_ROW}
        for rows, scores in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
    ]


def _scaled(scores: Mapping[int, float]) -> dict[int, float]:
    """Return scores from 0, the least, to 1, the largest; 1 where all are equal."""
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    return {row: (s - low) / (high - low) if high > low else 1.0 for row, s in scores.items()}


def _sum(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    rows = dict.fromkeys((*left, *right))
    return {row: left.get(row, 0.0) + right.get(row, 0.0) for row in rows}
