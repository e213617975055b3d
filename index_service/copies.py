"""Rows with equal vectors: the graph knows each distinct vector once, and this knows its rows.

HNSW links every node to its nearest. Where more rows than a node has links share a vector, they
link to each other alone, and a search that comes among them never leaves: with 20 vectors of 500
copies each among 10,000 others, recall stays at 0.8 whatever ef_search is. Titles that hundreds of
items share are common in catalogues.
"""

import numpy as np
import xxhash
from numpy.typing import NDArray

from index_service.scoring import Halves, Rows

Nodes = NDArray[np.uint32]
Mask = NDArray[np.bool_]


def nodes_of(halves: Halves) -> Nodes:
    """Return the node of each row: rows of equal vectors share one, numbered as they first appear.

    >>> nodes_of(np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float16)).tolist()
    [0, 1, 0]
    """
    digests = bytearray().join(map(xxhash.xxh3_128_digest, halves))
    high, low = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2).T
    # Stable, so that of equal digests the first row comes first.
    order = np.lexsort((low, high))
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    first = order[starts]
    numbers = np.empty(len(first), dtype=np.uint32)
    numbers[np.argsort(first)] = np.arange(len(first), dtype=np.uint32)
    nodes: Nodes = np.empty(len(order), dtype=np.uint32)
    nodes[order] = np.repeat(numbers, np.diff(np.append(np.flatnonzero(starts), len(order))))
    return nodes


def first_rows(nodes: Nodes) -> Rows:
    """Return the first row of each node."""
    return np.unique(nodes, return_index=True)[1]


class Copies:
    """Translates between nodes of the graph and rows."""

    def __init__(self, nodes: Nodes) -> None:
        """Group rows by node.

        Args:
            nodes: the node of each row, shape (items,), every node from 0 to the largest at least
                once.
        """
        counts = np.bincount(nodes)
        self.num_nodes = len(counts)
        self._nodes = nodes
        self._has_copies = self.num_nodes < len(nodes)
        # 32 bits: these stay in memory.
        self._rows = np.argsort(nodes, kind="stable").astype(np.uint32)
        if self._has_copies:
            self._starts = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)

    def mask_of_nodes(self, rows: Mask) -> Mask:
        """Return which nodes have at least one of the rows in a mask."""
        if not self._has_copies:
            return rows[self._rows]
        mask = np.zeros(self.num_nodes, dtype=bool)
        mask[self._nodes[rows]] = True
        return mask

    def rows_of(self, nodes: Rows, most: int, allowed: Mask | None) -> Rows:
        """Return the rows of some nodes: of each, the first `most` that are allowed.

        More would be of no use to a caller who wants `most` rows: copies score alike, and the
        first rows come first.
        """
        if not self._has_copies:
            return self._rows[nodes].astype(np.int64)
        starts = self._starts[nodes].astype(np.int64)
        counts = self._starts[nodes + 1] - starts
        ends = np.cumsum(counts)
        begins = ends - counts
        places = np.arange(counts.sum()) - np.repeat(begins, counts)
        rows: Rows = self._rows[np.repeat(starts, counts) + places].astype(np.int64)
        good = np.ones(len(rows), dtype=bool) if allowed is None else allowed[rows]
        # How many allowed rows of the same node come before.
        before = np.cumsum(good) - good
        within = before - np.repeat(before[begins], counts)
        kept: Rows = rows[good & (within < most)]
        return kept


def renumbered(nodes: Nodes, order: Rows) -> Nodes:
    """Return the node of each row once node `order[n]` is called n.

    >>> renumbered(np.array([0, 1, 0, 2], dtype=np.uint32), np.array([2, 0, 1])).tolist()
    [1, 2, 1, 0]
    """
    names = np.empty(len(order), dtype=np.uint32)
    names[order] = np.arange(len(order), dtype=np.uint32)
    renamed: Nodes = names[nodes]
    return renamed
