"""Embeddings on the wire: little-endian float32, row-major, with their dim beside them."""

import math

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
    # One pass that makes no array of its own: where the sum of squares is finite, all values are.
    if not math.isfinite(np.vdot(rows, rows)) and not np.isfinite(rows).all():
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


def unpack_unit(packed: bytes, dim: int, field: str = "embedding") -> Vectors:
    """Return the one vector in `packed` as float32 of shape (dim,), read-only.

    Raises:
        InvalidArgument: it is of another dim, has a value that is not finite, or its length is off
            from 1 by more than 1 %.
    """
    if len(packed) != dim * WIRE_DTYPE.itemsize:
        allowed = f"{dim * WIRE_DTYPE.itemsize} bytes, dim {dim} in float32"
        raise InvalidArgument(field, f"{len(packed)} bytes", allowed)
    vector: Vectors = np.frombuffer(packed, dtype=WIRE_DTYPE)
    length = math.sqrt(np.vdot(vector, vector))
    if abs(length - 1.0) <= _UNIT_TOLERANCE:
        return vector
    unpack(packed, dim, field)  # what is not finite has a sentence of its own
    raise InvalidArgument(field, f"of length {length:.4f}", "length 1 (unit vectors)")
