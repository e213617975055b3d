"""ann_recall@k: how much of what exact search finds, approximate search finds too."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index_service.planner import Effort, PlanLimits
from index_service.query import Query
from index_service.segment import Segment
from index_service.shard import Stop, search_segment

RECALL_K = 10

ScoreTable = NDArray[np.float32]
"""The best scores of each probe, shape (probes, k), descending, -inf where there are fewer hits."""

Found = tuple[ScoreTable, NDArray[np.float64]]
"""What was found on a shard, and the seconds that each probe took."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Recall and time of one effort over some probes."""

    ann_recall_at_10: float
    effort: Effort
    probes: int
    search_p50_us: float
    tenth_scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """Of each probe on each shard, the score of the tenth best that was found; -inf for none."""


def probe_recall(
    segment: Segment,
    probes: NDArray[np.float32],
    effort: Effort,
    limits: PlanLimits,
    stop: Stop,
) -> Measurement:
    """Measure ann_recall@10 of one shard against exact search."""
    exact = exact_scores(segment, probes, limits, stop)
    return measurement(exact, [approximate_scores(segment, probes, effort, limits, stop)], effort)


def measurement(
    exact: ScoreTable, found: Sequence[Found], effort: Effort, tolerance: float = 0.0
) -> Measurement:
    """Return what an effort came to over all shards.

    Args:
        exact: the exact best over all shards.
        found: what was found on each shard.
        effort: with what effort.
        tolerance: how far a hit's score may be below that of exact search.
    """
    together = merge_tables([scores for scores, _ in found]) + np.float32(tolerance)
    return Measurement(
        ann_recall_at_10=share_found(exact, together),
        effort=effort,
        probes=len(exact),
        search_p50_us=median_us(np.concatenate([seconds for _, seconds in found])),
        tenth_scores=np.concatenate([scores[:, RECALL_K - 1] for scores, _ in found]),
    )


def exact_scores(
    segment: Segment, probes: NDArray[np.float32], limits: PlanLimits, stop: Stop
) -> ScoreTable:
    """Return the scores of the exact best hits."""
    queries = [Query(embedding=probe, fetch_k=RECALL_K, exact=True) for probe in probes]
    return _table(
        [hits.scores for hits in search_segment(segment, queries, Effort(1), limits, stop)]
    )


def approximate_scores(
    segment: Segment,
    probes: NDArray[np.float32],
    effort: Effort,
    limits: PlanLimits,
    stop: Stop,
) -> Found:
    """Return the scores of what a search finds, one probe at a time, and the seconds of each."""
    found: list[NDArray[np.float32]] = []
    seconds = np.zeros(len(probes))
    for number, probe in enumerate(probes):
        query = Query(embedding=probe, fetch_k=RECALL_K)
        started_s = time.perf_counter()
        [hits] = search_segment(segment, [query], effort, limits, stop)
        seconds[number] = time.perf_counter() - started_s
        found.append(hits.scores)
    return _table(found), seconds


def share_found(exact: ScoreTable, found: ScoreTable) -> float:
    """Return the mean share of the exact best that was found; 1 where nothing can be found.

    A hit counts when it scores no worse than the last of the exact best: among items of equal
    score, which are common where titles repeat, any is as good as another.

    >>> exact = np.array([[0.9, 0.5, 0.5], [0.9, 0.8, -np.inf]], dtype=np.float32)
    >>> found = np.array([[0.9, 0.5, 0.1], [0.8, 0.7, -np.inf]], dtype=np.float32)
    >>> round(share_found(exact, found), 4)
    0.5833
    """
    possible = np.isfinite(exact).sum(axis=1)
    asked = possible > 0
    if not asked.any():
        return 1.0
    least = exact[np.arange(len(exact)), np.maximum(possible - 1, 0)]
    good = (found >= least[:, np.newaxis]).sum(axis=1)
    return float((np.minimum(good, possible)[asked] / possible[asked]).mean())


def merge_tables(tables: list[ScoreTable]) -> ScoreTable:
    """Return the best scores over all shards."""
    together = np.concatenate(tables, axis=1)
    return -np.sort(-together, axis=1)[:, :RECALL_K]


def median_us(seconds: NDArray[np.float64]) -> float:
    """Return the median in microseconds; zero of nothing."""
    return round(float(np.median(seconds)) * 1e6, 1) if seconds.size else 0.0


def _table(scores: list[NDArray[np.float32]]) -> ScoreTable:
    table = np.full((len(scores), RECALL_K), -np.inf, dtype=np.float32)
    for row, row_scores in zip(table, scores, strict=True):
        row[: len(row_scores)] = row_scores
    return table
