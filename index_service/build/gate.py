"""The gate: the smallest ef_search that finds what must be found, measured before publishing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from index_service.build.workers import Advance
from index_service.generation.manifest import PROBES_FILE, GateEntry, shard_folder
from index_service.planner import PlanLimits
from index_service.recall import (
    ScoreTable,
    approximate_scores,
    exact_scores,
    median_us,
    merge_tables,
    share_found,
)
from index_service.segment import Segment

EF_SEARCH_GRID = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True, slots=True)
class GateTask:
    """One shard to measure."""

    staging: Path
    shard: int
    items: int
    dim: int


@dataclass(frozen=True, slots=True, eq=False)
class ShardScores:
    """What exact search and each ef_search of the grid found on one shard."""

    exact: ScoreTable
    found: list[ScoreTable]
    seconds: list[NDArray[np.float64]]


def measure_shard(task: GateTask, advance: Advance) -> ShardScores:
    """Search one shard with every probe, exactly and at every ef_search, one query at a time."""
    files = task.staging / shard_folder(task.shard)
    segment = Segment.open(files, task.items, task.dim, faiss.__version__)
    probes = np.load(task.staging / PROBES_FILE)
    limits = PlanLimits()
    exact = exact_scores(segment, probes, limits, _never)
    found, seconds = [], []
    for ef_search in EF_SEARCH_GRID:
        table, times = approximate_scores(segment, probes, ef_search, limits, _never)
        found.append(table)
        seconds.append(times)
        advance(len(probes))
    return ShardScores(exact, found, seconds)


def choose(measured: Sequence[ShardScores], required_recall: float) -> GateEntry:
    """Return the gate at the smallest ef_search that reaches the recall, or at the largest one.

    Recall is that of a whole search: of the best ten over all shards, not of each shard's own.
    """
    exact = merge_tables([scores.exact for scores in measured])
    recalls = [
        share_found(exact, merge_tables([scores.found[number] for scores in measured]))
        for number in range(len(EF_SEARCH_GRID))
    ]
    reaching = (number for number, recall in enumerate(recalls) if recall >= required_recall)
    number = next(reaching, len(EF_SEARCH_GRID) - 1)
    return GateEntry(
        ann_recall_at_10=recalls[number],
        required_ann_recall_at_10=required_recall,
        ef_search=EF_SEARCH_GRID[number],
        probes=len(exact),
        search_p50_us=median_us(np.concatenate([scores.seconds[number] for scores in measured])),
    )


def _never() -> None:
    """Never stop."""
