"""How hard some shards are to be searched: what a build's gate would choose for given queries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import TypeAdapter

from index_service.build.gate import choose
from index_service.generation.manifest import GateEntry
from index_service.planner import Effort, PlanLimits
from index_service.recall import (
    Measurement,
    ScoreTable,
    approximate_scores,
    measurement,
)
from index_service.segment import Segment

KERNELS_DIFFER = 1e-6
"""Scores of different kernels differ in the last digits."""

_GATE = TypeAdapter(GateEntry)


def known_gate(
    segments: Sequence[Segment],
    asked: NDArray[np.float32],
    truth: ScoreTable,
    required: float,
    cache: Path,
) -> GateEntry:
    """Return the gate of some shards, kept in the cache folder.

    Args:
        segments: the shards.
        asked: queries, shape (queries, dim).
        truth: the scores of their exact best over all shards, shape (queries, 10).
        required: least ann_recall@10.
        cache: folder of what was found out before.
    """
    items = sum(segment.items for segment in segments)
    asked_for = xxhash.xxh3_64_hexdigest(truth.tobytes() + str(required).encode())
    path = cache / f"gate_{items}_{len(segments)}_{asked_for}.json"
    if not path.exists():
        gate = choose(
            lambda efforts: [measured(segments, asked, truth, effort) for effort in efforts],
            required,
            len(segments),
        )
        path.write_bytes(_GATE.dump_json(gate))
    return _GATE.validate_json(path.read_bytes())


def measured(
    segments: Sequence[Segment], asked: NDArray[np.float32], truth: ScoreTable, effort: Effort
) -> Measurement:
    """Search all shards with every query, one at a time."""
    found = [
        approximate_scores(segment, asked, effort, PlanLimits(), lambda: None)
        for segment in segments
    ]
    return measurement(truth, found, effort, KERNELS_DIFFER)
