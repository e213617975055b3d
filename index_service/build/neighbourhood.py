"""An order of a graph's nodes in which neighbours lie close to each other in memory."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index_service.scoring import Rows


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
    links = _lowest_links(hnsw, count)
    seen = np.zeros(count, dtype=bool)
    layers = []
    layer = np.array([hnsw.entry_point], dtype=np.int64)
    while layer.size:
        seen[layer] = True
        layers.append(layer)
        reached = links[layer].ravel()
        layer = _first_seen(reached[reached >= 0])
        layer = layer[~seen[layer]]
    return np.concatenate([*layers, np.flatnonzero(~seen)])


def _lowest_links(hnsw: Any, count: int) -> NDArray[np.int64]:
    """Return the links of each node on the lowest level, shape (count, 2 m), -1 where none is."""
    offsets = faiss.vector_to_array(hnsw.offsets)[:count].astype(np.int64)
    places = offsets[:, np.newaxis] + np.arange(hnsw.nb_neighbors(0))
    links: NDArray[np.int64] = faiss.vector_to_array(hnsw.neighbors)[places].astype(np.int64)
    return links


def _first_seen(nodes: Rows) -> Rows:
    """Return nodes without repetition, in order of first appearance."""
    places = np.unique(nodes, return_index=True)[1]
    return nodes[np.sort(places)]
