"""Embeddings on the wire: little-endian float32, row-major, with their dim beside them."""

import numpy as np
from numpy.typing import NDArray

from rpc.errors import InvalidArgument

WIRE_DTYPE = np.dtype("<f4")
_UNIT_TOLERANCE = 1e-2

Vectors = NDArray[np.float32]


def pack(vectors: Vectors) -> bytes:
    """Return the wire form of an array of shape (dim,) or (n, dim), any float dtype.

    >>> pack(np.array([1.0, 0.0], dtype=np.float32)).hex()
    '0000803f00000000'
    """
    return np.ascontiguousarray(vectors, dtype=WIRE_DTYPE).tobytes()


def unpack(packed: bytes, dim: int, field: str = "embedding") -> Vectors:
    """Return the rows in `packed` as float32 of shape (n, dim), read-only.

    Raises:
        InvalidArgument: the length is no multiple of a row, or a value is not finite.
    """
    row_bytes = dim * WIRE_DTYPE.itemsize
    if dim < 1 or len(packed) % row_bytes:
        raise InvalidArgument(field, f"{len(packed)} bytes", f"a multiple of {row_bytes} bytes")
    rows: Vectors = np.frombuffer(packed, dtype=WIRE_DTYPE).reshape(-1, dim)
    if not np.isfinite(rows).all():
        raise InvalidArgument(field, "not finite", "finite numbers only, no NaN or infinity")
    return rows


def unit(vector: Vectors, field: str = "embedding") -> Vectors:
    """Return a vector of shape (dim,) scaled to length 1.

    Raises:
        InvalidArgument: a value is not finite, or all are zero.

    >>> unit(np.array([3.0, 4.0], dtype=np.float32)).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    if not np.isfinite(vector).all():
        raise InvalidArgument(field, "not finite", "finite numbers only, no NaN or infinity")
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if length == 0.0:
        raise InvalidArgument(field, "all zeros", "a vector with a direction")
    scaled: Vectors = (vector.astype(np.float64) / length).astype(np.float32)
    return scaled


def require_unit(rows: Vectors, field: str = "embedding") -> None:
    """Refuse rows of shape (n, dim) that are not of length 1.

    Raises:
        InvalidArgument: a row's length is off by more than 1 %.
    """
    lengths = np.linalg.norm(rows, axis=1)
    off = np.flatnonzero(np.abs(lengths - 1.0) > _UNIT_TOLERANCE)
    if off.size:
        raise InvalidArgument(field, f"of length {lengths[off[0]]:.4f}", "length 1 (unit vectors)")
