"""Exact search: a fast pass in float32 that keeps every row that could be among the k best."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from index_service.halffloat import to_float32
from index_service.scoring import Halves, Rows

# Float32 rows converted and multiplied at once; they stay in a core's cache.
_BLOCK_BYTES = 2 * 1024 * 1024
# Queries are unit vectors within 1 %, items within rounding to half precision.
_LENGTHS_PRODUCT_MAX = 1.02


def scan(
    halves: Halves,
    rows: Rows | None,
    queries: NDArray[np.float32],
    k: Sequence[int],
    stop: Callable[[], None],
) -> list[Rows]:
    """Return for each query rows among which its k best are certain to be.

    The pass is one matrix product a block, in float32, whose rounding depends on the processor. It
    is only trusted up to that rounding: every row within the margin of the k-th best is kept, ties
    included. `scoring.score` then decides.

    Args:
        halves: all vectors, shape (n, dim), possibly memory-mapped.
        rows: the rows to look at, ascending; None for all.
        queries: shape (q, dim), about unit length.
        k: how many hits each query wants, q numbers.
        stop: called between blocks; raises when nobody waits for the answer any more.
    """
    allowance = margin(queries.shape[1])
    kept = [_Kept(wanted, allowance) for wanted in k]
    for block_rows, floats in _blocks(halves, rows, stop):
        scores = queries @ floats.T
        for candidates, row_scores in zip(kept, scores, strict=True):
            candidates.offer(block_rows, row_scores)
    return [candidates.rows() for candidates in kept]


def _blocks(
    halves: Halves, rows: Rows | None, stop: Callable[[], None]
) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
    """Yield row numbers and their vectors in float32, a block at a time, in one buffer."""
    dim = halves.shape[1]
    block = max(1, _BLOCK_BYTES // (4 * dim))
    buffer = np.empty((block, dim), dtype=np.float32)
    count = len(halves) if rows is None else len(rows)
    for start in range(0, count, block):
        stop()
        after = min(start + block, count)
        if rows is None:
            block_rows, block_halves = np.arange(start, after), halves[start:after]
        else:
            block_rows = rows[start:after]
            block_halves = halves[block_rows]
        yield block_rows, to_float32(block_halves, out=buffer[: after - start])


class _Kept:
    """The rows that may still be among one query's k best."""

    def __init__(self, k: int, margin: float) -> None:
        self._k = k
        self._margin = margin
        self._least = -np.inf
        self._rows: list[Rows] = []
        self._scores: list[NDArray[np.float32]] = []
        self._count = 0
        self._tighten_at = 4 * k

    def offer(self, rows: Rows, scores: NDArray[np.float32]) -> None:
        """Keep those of a block's rows that are good enough so far."""
        good = np.flatnonzero(scores >= self._least)
        if not good.size:
            return
        self._rows.append(rows[good])
        self._scores.append(scores[good])
        self._count += good.size
        if self._count > self._tighten_at:
            self._tighten()
            # Doubling keeps the work linear where thousands of rows tie.
            self._tighten_at = 2 * self._count + 4 * self._k

    def rows(self) -> Rows:
        """Return what is kept in the end."""
        if not self._rows:
            return np.empty(0, dtype=np.int64)
        self._tighten()
        return self._rows[0]

    def _tighten(self) -> None:
        """Drop what is worse than the k-th best by more than the margin."""
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        if len(scores) > self._k:
            self._least = float(np.partition(scores, -self._k)[-self._k]) - self._margin
            good = scores >= self._least
            scores, rows = scores[good], rows[good]
        self._scores, self._rows, self._count = [scores], [rows], len(rows)


def margin(dim: int) -> float:
    """Return by how much a row among the k best may seem worse than the k-th.

    Both scores are off by at most gamma = dim u / (1 - dim u) times the lengths' product, whatever
    the order of summation, u = 2^-24 (Higham, "Accuracy and Stability of Numerical Algorithms",
    2nd ed., section 3.1); final scores that differ by less than one float32 step are ties.
    """
    unit_roundoff = 2.0**-24
    gamma = dim * unit_roundoff / (1 - dim * unit_roundoff)
    return 2 * gamma * _LENGTHS_PRODUCT_MAX + 2.0**-22
