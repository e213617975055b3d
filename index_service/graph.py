"""HNSW over 8-bit codes: finds candidates, which full vectors then score."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index_service.scoring import Rows
from rpc.errors import DataLoss


class Graph:
    """A graph whose nodes are distinct vectors; safe to search from several threads at once."""

    def __init__(self, hnsw: Any, projection: NDArray[np.float32] | None) -> None:
        """Put the parts together; `Graph.open` reads them from a file.

        Args:
            hnsw: faiss.IndexHNSWSQ over codes.
            projection: shape (dim, code_dim), what queries are multiplied by; None when codes have
                as many dimensions as vectors.
        """
        self._hnsw = hnsw
        self.projection = projection
        self.num_nodes: int = hnsw.ntotal

    @classmethod
    def open(cls, path: Path, dim: int, faiss_version: str) -> "Graph":
        """Map a graph over vectors of a dim; links and codes stay file-backed.

        Args:
            path: what the build wrote.
            dim: length of a vector.
            faiss_version: what wrote it, for errors.

        Raises:
            DataLoss: it cannot be read, or is something else.
        """
        # FAISS would not tell a damaged file from one that cannot be opened.
        path.open("rb").close()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as exc:
            raise DataLoss(
                str(path),
                f"FAISS {faiss.__version__} cannot read it; it was written with {faiss_version}",
            ) from exc
        hnsw, projection = _parts(index)
        if not isinstance(hnsw, faiss.IndexHNSWSQ) or index.d != dim:
            raise DataLoss(str(path), f"is not an HNSW graph over vectors of dim {dim}")
        return cls(hnsw, projection)

    @classmethod
    def of(cls, index: Any) -> "Graph":
        """Return a graph that was built in this process."""
        return cls(*_parts(index))

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        ef_search: int,
        allowed: NDArray[np.uint8] | None = None,
    ) -> list[Rows]:
        """Return for each query the nodes found, best by their codes first.

        Args:
            queries: shape (q, dim).
            k: how many nodes to return, fewer when fewer are found.
            ef_search: candidates kept while searching.
            allowed: one bit a node, least significant first; None for all.
        """
        parameters = _unfiltered(ef_search) if allowed is None else _filtered(ef_search, allowed)
        if self.projection is not None:
            queries = queries @ self.projection
        _, nodes = self._hnsw.search(queries, k, params=parameters)
        # Where too few are found, -1 fills the end.
        return [found if found[-1] >= 0 else found[found >= 0] for found in nodes]


@lru_cache(maxsize=64)
def _unfiltered(ef_search: int) -> Any:
    """Return parameters of a search of all nodes.

    The heap without a bound is the faster one, but knows no selector. Source:
    index_service/LOG.md, entry 5.
    """
    return faiss.SearchParametersHNSW(efSearch=ef_search, bounded_queue=False)


def _filtered(ef_search: int, allowed: NDArray[np.uint8]) -> Any:
    """Return parameters of a search of some nodes.

    Always both: parameters with a selector alone would search with efSearch 16.
    """
    return faiss.SearchParametersHNSW(efSearch=ef_search, sel=faiss.IDSelectorBitmap(allowed))


def _parts(index: Any) -> tuple[Any, NDArray[np.float32] | None]:
    """Return the HNSW index, and the projection before it if there is one."""
    if not isinstance(index, faiss.IndexPreTransform) or index.chain.size() != 1:
        return index, None
    linear = faiss.downcast_VectorTransform(index.chain.at(0))
    if not isinstance(linear, faiss.LinearTransform):
        return None, None
    hnsw = faiss.downcast_index(index.index)
    # The index owns its parts and goes with the last name for it.
    hnsw.referenced_objects = [index]
    matrix = faiss.vector_to_array(linear.A).reshape(linear.d_out, linear.d_in)
    return hnsw, np.ascontiguousarray(matrix.T)
