"""The score of an item for a query, the same number on every path, shard and machine."""

import numpy as np
from numpy.typing import NDArray

from index_service.halffloat import to_float32

# Rows scored at once: 1,024 x 768 in float64 is 6 MiB.
_BLOCK_ROWS = 1024
_FEW_ROWS = 64

Halves = NDArray[np.float16]
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


def score(query: NDArray[np.float32], halves: Halves) -> Scores:
    """Return the inner products of a query and stored rows.

    A score depends on the query and its own row alone: each product of a float32 and a float16 is
    exact in float64, each row is summed on its own, by numpy's pairwise summation over contiguous
    values, whose order depends on dim alone (BLAS would choose by the number of rows and the
    processor). So HNSW and exact search, and any number of shards, agree to the last bit.

    Args:
        query: shape (dim,).
        halves: shape (n, dim), C order.

    Returns:
        shape (n,); larger is better.

    >>> score(np.array([1, 0], np.float32), np.array([[0.5, 1], [1, 0]], np.float16)).tolist()
    [0.5, 1.0]
    """
    query64 = query.astype(np.float64)
    scores = np.empty(len(halves), dtype=np.float32)
    for start in range(0, len(halves), _BLOCK_ROWS):
        products = np.multiply(_floats(halves[start : start + _BLOCK_ROWS]), query64)
        scores[start : start + _BLOCK_ROWS] = products.sum(axis=1)
    return scores


def _floats(halves: Halves) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return the same numbers in a precision that is multiplied fast.

    For few rows the calls of `to_float32` cost more than numpy's slow conversion.
    """
    return halves.astype(np.float64) if len(halves) <= _FEW_ROWS else to_float32(halves)


def best(scores: Scores, rows: Rows, k: int) -> NDArray[np.intp]:
    """Return the places of the k best, by score descending, then row ascending.

    Rows are in the order of item ids, so this is the order of hits that callers are promised.

    >>> best(np.array([0.5, 0.9, 0.9], np.float32), np.array([1, 7, 3]), 2).tolist()
    [2, 1]
    """
    return np.lexsort((rows, -scores))[:k]
