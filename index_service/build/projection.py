"""The directions that codes are made of: fewer numbers a vector, nearly the same inner products.

Embeddings fill their space unevenly. Along the principal directions of their second moment, two
thirds of the numbers carry nearly all of every inner product, and a graph over these is searched in
proportionally less time; full vectors decide between the candidates in the end.
"""

import numpy as np
from numpy.typing import NDArray

from index_service.halffloat import to_float32
from index_service.scoring import Halves

ENERGY_KEPT = 0.97
"""Share of the vectors' squared length that codes keep. Source: index_service/LOG.md, entry 2."""

CODE_DIM_MULTIPLE = 32
"""Codes have a multiple of this many dimensions: half a cache line, whole vector registers."""

_BLOCK_ROWS = 16_384


def fit(halves: Halves, code_dim: int | None = None) -> NDArray[np.float32] | None:
    """Return the principal directions of vectors, shape (dim, code_dim), orthonormal columns.

    Not centred: candidates are ordered by inner product, and so is what these directions keep.

    Args:
        halves: shape (items, dim).
        code_dim: how many directions; None for as few as keep `ENERGY_KEPT`.

    Returns:
        None when all directions are needed, or asked for.

    Source: K. Pearson, "On lines and planes of closest fit to systems of points in space", 1901.
    """
    dim = halves.shape[1]
    if code_dim == dim or not len(halves):
        return None
    energies, directions = np.linalg.eigh(_second_moment(halves))
    # eigh sorts ascending.
    energies, directions = energies[::-1], directions[:, ::-1]
    chosen = code_dim or dimensions_for(energies, ENERGY_KEPT)
    if chosen >= dim:
        return None
    return np.ascontiguousarray(directions[:, :chosen], dtype=np.float32)


def dimensions_for(energies: NDArray[np.float64], share: float) -> int:
    """Return the least multiple of `CODE_DIM_MULTIPLE` that keeps a share of the energy.

    >>> dimensions_for(np.array([1.0] * 40 + [0.0] * 60), 0.5)
    32
    >>> dimensions_for(np.array([1.0] * 40 + [0.0] * 60), 0.97)
    64
    """
    kept = np.cumsum(energies) / energies.sum()
    needed = int(np.searchsorted(kept, share)) + 1
    return -(-needed // CODE_DIM_MULTIPLE) * CODE_DIM_MULTIPLE


def _second_moment(halves: Halves) -> NDArray[np.float64]:
    """Return the sum of outer products, shape (dim, dim)."""
    dim = halves.shape[1]
    total = np.zeros((dim, dim))
    buffer = np.empty((min(len(halves), _BLOCK_ROWS), dim), dtype=np.float32)
    for start in range(0, len(halves), _BLOCK_ROWS):
        block = halves[start : start + _BLOCK_ROWS]
        floats = to_float32(block, out=buffer[: len(block)])
        total += floats.T @ floats
    return total
