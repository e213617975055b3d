"""What a shard is asked and what it answers, as plain values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_service.filter import Filter
from index_service.planner import SearchPath


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One query, validated."""

    embedding: NDArray[np.float32]
    """Shape (dim,), unit length."""
    fetch_k: int
    filter: Filter | None = None
    ef_search: int | None = None
    """None means the generation's default."""
    exact: bool = False
    exclude_item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """How a query's hits were found. Times of shared steps are divided among the queries."""

    path: SearchPath
    ef_search: int
    selectivity: float
    rescored: int
    filter_us: int
    candidates_us: int
    rescore_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """The hits of one query: score descending, then item_id ascending."""

    item_ids: list[str]
    scores: NDArray[np.float32]
    items_matched: int
    profile: Profile
