"""Search through a FAISS HNSW graph, and how much of the exact first hits it finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.fusion import Hits
from training.system_notation import HITS_MAX

Floats = NDArray[np.float32]

HNSW_M = 32
HNSW_EF_CONSTRUCTION = 200


def hnsw_graph(items: Floats) -> Any:
    """Return a FAISS HNSW graph over full vectors of shape (n, dim)."""
    import faiss

    graph = faiss.IndexHNSWFlat(items.shape[1], HNSW_M, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
    graph.add(np.ascontiguousarray(items))
    return graph


def hnsw_search(graph: Any, ef_search: int) -> Callable[[Floats], Hits]:
    """Return a search through a graph of `hnsw_graph`; ties by row."""
    import faiss

    # FAISS widens ef_search to the number of hits: fewer are asked for where it is smaller.
    asked = min(HITS_MAX, graph.ntotal, ef_search)
    options = faiss.SearchParametersHNSW(efSearch=ef_search)

    def search(queries: Floats) -> Hits:
        scores, rows = graph.search(np.ascontiguousarray(queries), asked, params=options)
        return Hits(rows, scores)

    return search


def ann_recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float | None:
    """Return the share of the exact first hits that are among as many found; None of fewer.

    Args:
        found: rows, int64 of shape (q, hits).
        exact: rows, int64 of shape (q, k).

    >>> ann_recall(np.array([[1, 2, 3]]), np.array([[1, 4]]))
    0.5
    """
    if found.shape[1] < exact.shape[1]:
        return None
    k = exact.shape[1]
    shared = (
        set(left[:k]) & set(right)
        for left, right in zip(found.tolist(), exact.tolist(), strict=True)
    )
    return sum(map(len, shared)) / exact.size
