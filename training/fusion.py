"""One ranked list of two: by rank (RRF) or by score, as `SearchRequest.fusion` says it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

RRF_K = 60
# FAISS's score where it found no more.
NOTHING_FOUND = float(np.finfo(np.float32).min)
NO_WORD_SHARED = 0.0  # BM25's score of an item with none of a query's words


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of each query, best first, and their scores, both of shape (q, k)."""

    rows: Rows
    scores: Floats

    def of(self, place: int) -> "Hits":
        """Return those of one query, of shape (1, k)."""
        return Hits(self.rows[place : place + 1], self.scores[place : place + 1])


def reciprocal_ranks(
    dense: Hits,
    lexical: Hits,
    lexical_weight: float,
    k: int = RRF_K,
    *,
    no_hit: float = NO_WORD_SHARED,
) -> list[dict[int, float]]:
    """Return each query's row -> 1 / (k + dense rank) + lexical_weight / (k + lexical rank).

    Args:
        dense: what one side found.
        lexical: what the other found.
        lexical_weight: of the other side.
        k: how little the first ranks stand out.
        no_hit: a lexical score that is not above it is no hit.

    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion outperforms Condorcet and
        individual Rank Learning Methods (SIGIR 2009).
    """
    return [
        _sum(
            {row: 1.0 / (k + rank) for rank, row in enumerate(left, start=1)},
            {row: lexical_weight / (k + rank) for rank, row in enumerate(right, start=1)},
        )
        for left, right in zip(_found(dense), _found(lexical, no_hit), strict=True)
    ]


def weighted_scores(
    dense: Hits,
    lexical: Hits,
    alpha: float | Sequence[float],
    *,
    no_hit: float = NO_WORD_SHARED,
) -> list[dict[int, float]]:
    """Return each query's row -> alpha x dense + (1 - alpha) x lexical score.

    Each side is scaled to 0..1 over its candidates; what a side did not find has 0 there.

    Args:
        dense: what one side found.
        lexical: what the other found.
        alpha: of all queries, or one for each.
        no_hit: a lexical score that is not above it is no hit.
    """
    alphas = np.broadcast_to(alpha, len(dense.rows)).tolist()
    sides = zip(_found(dense), _found(lexical, no_hit), alphas, strict=True)
    return [
        _sum(
            {row: share * score for row, score in _scaled(left).items()},
            {row: (1.0 - share) * score for row, score in _scaled(right).items()},
        )
        for left, right, share in sides
    ]


def ranked(scored: Sequence[Mapping[int, float]], depth: int) -> Hits:
    """Return the best rows of each query, ties by row; every query must have `depth` of them.

    >>> ranked([{7: 0.5, 3: 0.5, 9: 0.9}], 2).rows.tolist()
    [[9, 3]]
    """
    best = [
        sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:depth] for scores in scored
    ]
    return Hits(
        np.array([[row for row, _ in each] for each in best], dtype=np.int64),
        np.array([[score for _, score in each] for each in best], dtype=np.float32),
    )


def best_of(tried: Iterable[float], worth: Callable[[float], float]) -> float:
    """Return the value that is worth most; the first of equals.

    >>> best_of([0.1, 0.5, 0.9], lambda value: -abs(value - 0.6))
    0.5
    """
    return max(tried, key=worth)


def _found(hits: Hits, above: float = -np.inf) -> list[dict[int, float]]:
    """Return each query's row -> score, best first, of scores above the one of no hit."""
    return [
        {row: score for row, score in zip(rows, scores, strict=True) if score > above}
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
