"""Exact search of few queries: FAISS multiplies stored half-precision rows where they lie."""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index_service.scan import margin
from index_service.scoring import Halves, Rows

_BLOCK_ROWS = 65_536
"""Searched in one call, about 10 ms; a multiple of 8, so that blocks share a bitmap."""

_GATHERED_ROWS = 4_096
"""Copied at once: 3 MiB of 384 dimensions."""

_SPARE = 32
"""Rows kept beyond k: those within the margin of the k-th best must be among them."""


class HalfScan:
    """Rows in place, without a copy; safe to search from several threads at once.

    About three times as fast as converting and multiplying blocks (`scan.scan`) for one query, and
    slower for several, which share those blocks. Source: index_service/LOG.md, entry 8.
    """

    def __init__(self, halves: Halves) -> None:
        """Look at vectors of shape (items, dim), C order; they must not move or go."""
        self._dim = halves.shape[1]
        self._halves = halves
        self._blocks = [
            (start, _view(halves[start : start + _BLOCK_ROWS]))
            for start in range(0, len(halves), _BLOCK_ROWS)
        ]

    def rows(
        self,
        query: NDArray[np.float32],
        k: int,
        bits: NDArray[np.uint8] | None,
        stop: Callable[[], None],
    ) -> Rows | None:
        """Return rows among which the k best are certain to be, or None where too many tie.

        Args:
            query: shape (dim,), about unit length.
            k: how many hits are wanted.
            bits: the rows to look at, one bit each, least significant first; None for all.
            stop: called between blocks; raises when nobody waits for the answer any more.
        """
        best = _Best(k, margin(self._dim))
        for start, index in self._blocks:
            stop()
            scores, places = _search(index, query, best.wanted, start, bits)
            best.offer(scores, places + start)
        return best.rows()

    def gathered(
        self, query: NDArray[np.float32], k: int, rows: Rows, stop: Callable[[], None]
    ) -> Rows | None:
        """Return the same of rows that lie scattered, copied side by side first.

        Where the next row lies cannot be foreseen by the processor: copying asks for several at a
        time, multiplying in place waits for each.
        """
        best = _Best(k, margin(self._dim))
        for start in range(0, len(rows), _GATHERED_ROWS):
            stop()
            some = rows[start : start + _GATHERED_ROWS]
            index = _view(self._halves.take(some, axis=0))
            scores, places = _search(index, query, best.wanted, 0, None)
            best.offer(scores, some[places])
        return best.rows()


class _Best:
    """The best rows of each block, from which the best of all are taken."""

    def __init__(self, k: int, allowance: float) -> None:
        self._k = k
        self._allowance = allowance
        self.wanted = k + _SPARE
        self._scores = [np.empty(0, dtype=np.float32)]
        self._rows = [np.empty(0, dtype=np.int64)]
        self._left_out = -np.inf

    def offer(self, scores: NDArray[np.float32], rows: Rows) -> None:
        """Take in a block's best, at most as many as are wanted, best first."""
        if len(rows) == self.wanted:
            # Others of this block may score as much as its last.
            self._left_out = max(self._left_out, float(scores[-1]))
        self._scores.append(scores)
        self._rows.append(rows)

    def rows(self) -> Rows | None:
        """Return those among which the k best are certain to be, or None where one is missing."""
        scores, rows = np.concatenate(self._scores), np.concatenate(self._rows)
        if len(scores) <= self._k:
            return rows
        least = float(np.partition(scores, -self._k)[-self._k]) - self._allowance
        return None if self._left_out >= least else rows[scores >= least]


def _search(
    index: Any, query: NDArray[np.float32], k: int, start: int, bits: NDArray[np.uint8] | None
) -> tuple[NDArray[np.float32], Rows]:
    """Return scores, best first, and places of a block's best rows."""
    if bits is None:
        scores, rows = index.search(query[np.newaxis], k)
    else:
        own = bits[start // 8 : (start + index.ntotal + 7) // 8]
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(own))
        scores, rows = index.search(query[np.newaxis], k, params=parameters)
    found = rows[0] >= 0
    return scores[0][found], rows[0][found]


def _view(halves: Halves) -> Any:
    """Return FAISS's flat index of half-precision vectors over memory that stays ours."""
    index = faiss.IndexScalarQuantizer(
        halves.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    content = halves.view(np.uint8)
    nobody = faiss.MaybeOwnedVectorUInt8().owner
    index.codes = faiss.MaybeOwnedVectorUInt8.create_view(
        faiss.swig_ptr(content), content.nbytes, nobody
    )
    index.is_trained = True
    index.ntotal = len(halves)
    index.referenced_objects = [halves]
    return index
