"""Reading vectors here and there in a mapped file, where memory may be short."""

import mmap
import resource

import numpy as np

from index_service.page_advice import will_need
from index_service.scoring import Halves, Rows

TURNS_AHEAD = 64
"""After a read from the disk, how many times pages are asked for before they are needed."""

# Where a thread's own reads are not counted, those of the process are.
_WHOSE_READS = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)


class ScatteredRows:
    """Rows of a mapped file; safe to read from several threads at once.

    Where pages are missing, reading one row after the other waits for the disk once a row. Asking
    for all of them first lets the disk work side by side, but costs a microsecond a row, so it is
    done for a while after a read only. Source: index_service/LOG.md, entry 23.
    """

    def __init__(self, halves: Halves) -> None:
        """Look at vectors of shape (items, dim), C order; they must not move or go."""
        self._halves = halves
        self._turns_ahead = 0

    @property
    def missing(self) -> bool:
        """Tell whether rows had to be read from the disk lately: memory is short."""
        return self._turns_ahead > 0

    def take(self, rows: Rows) -> Halves:
        """Return copies of rows, shape (n, dim)."""
        # Threads that change this at once are a turn off, no more.
        if self._turns_ahead > 0:
            self._turns_ahead -= 1
            self._ask_for(rows)
            return self._halves.take(rows, axis=0)
        reads_before = _reads()
        taken = self._halves.take(rows, axis=0)
        if _reads() > reads_before:
            self._turns_ahead = TURNS_AHEAD
        return taken

    def _ask_for(self, rows: Rows) -> None:
        """Tell the kernel that the pages of some rows will be needed; it reads what is missing."""
        row_bytes = self._halves.strides[0]
        first = self._halves.ctypes.data + np.sort(rows) * row_bytes
        starts = first // mmap.PAGESIZE * mmap.PAGESIZE
        will_need(starts, first + row_bytes - starts)


def _reads() -> int:
    """Return how often this thread has waited for a page from the disk."""
    return resource.getrusage(_WHOSE_READS).ru_majflt
