"""An order of a graph's nodes in which neighbours lie close to each other in memory."""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index_service.scoring import Rows

Nodes = NDArray[np.int32]

_BLOCK_NODES = 4096


def neighbourhood(hnsw: Any, count: int) -> Rows:
    """Return the nodes of a graph, breadth first from its entry point along the lowest level.

    A search reads the codes of all neighbours of a node at once; in this order many of them share
    pages of memory. Source: index_service/LOG.md, entry 5.

    Args:
        hnsw: faiss.HNSW.
        count: how many nodes it has.

    Returns:
        shape (count,), each node once; those that no link leads to come last, ascending.
    """
    if not count:
        return np.empty(0, dtype=np.int64)
    seen = np.zeros(count, dtype=bool)
    layers = [_unseen(np.array([hnsw.entry_point], dtype=np.int32), seen)]
    while layers[-1].size:
        # Marking what a block reaches at once leaves each node to the first block that does.
        layers.append(
            np.concatenate([_unseen(links, seen) for links in _lowest_links(hnsw, layers[-1])])
        )
    return np.concatenate([*layers, np.flatnonzero(~seen)], dtype=np.int64)


def _lowest_links(hnsw: Any, nodes: Nodes) -> Iterator[Nodes]:
    """Yield the links of nodes on the lowest level, those of some nodes at a time."""
    neighbors, offsets = _view(hnsw.neighbors), _view(hnsw.offsets)
    places = np.arange(hnsw.nb_neighbors(0))
    for start in range(0, len(nodes), _BLOCK_NODES):
        block = nodes[start : start + _BLOCK_NODES]
        links = neighbors[offsets[block].astype(np.int64)[:, np.newaxis] + places]
        # -1 where there is none.
        yield links[links >= 0]


def _view(vector: Any) -> NDArray[Any]:
    """Return the numbers of one of FAISS's vectors where they lie, without a copy."""
    numbers: NDArray[Any] = faiss.rev_swig_ptr(vector.data(), vector.size())
    return numbers


def _unseen(nodes: Nodes, seen: NDArray[np.bool_]) -> Nodes:
    """Return the nodes not seen yet, once each, in order of first appearance; mark them seen."""
    fresh = nodes[~seen[nodes]]
    places = np.unique(fresh, return_index=True)[1]
    fresh = fresh[np.sort(places)]
    seen[fresh] = True
    return fresh
