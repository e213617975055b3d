"""Vectors on the wire: bytes and back, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rpc.errors import InvalidArgument
from rpc.vectors import pack, unit, unpack, unpack_unit

FLOATS = st.floats(-1e6, 1e6, width=32)
ROWS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=FLOATS)


@given(ROWS)
def test_unpacking_gives_back_what_was_packed(rows):
    assert np.array_equal(unpack(pack(rows), rows.shape[1]), rows)


def test_the_wire_is_little_endian_row_major_float32():
    transposed = np.array([[1.0, 3.0], [2.0, 4.0]], dtype=">f8").T
    assert pack(transposed) == np.array([1, 2, 3, 4], dtype="<f4").tobytes()


@pytest.mark.parametrize(("num_bytes", "dim"), [(7, 2), (12, 2), (8, 0), (8, -1)])
def test_a_length_that_is_no_multiple_of_a_row_is_refused(num_bytes, dim):
    with pytest.raises(InvalidArgument, match=f"query is .?{num_bytes} bytes"):
        unpack(bytes(num_bytes), dim, field="query")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(InvalidArgument, match="finite"):
        unpack(pack(np.array([0.0, bad])), 2)
    with pytest.raises(InvalidArgument, match="finite"):
        unit(np.array([0.0, bad], dtype=np.float32))


def test_zeros_have_no_direction():
    with pytest.raises(InvalidArgument, match="direction"):
        unit(np.zeros(3, dtype=np.float32))


@given(arrays(np.float32, 4, elements=FLOATS).filter(np.any))
def test_a_scaled_vector_has_length_one_and_its_direction(vector):
    scaled = unit(vector)
    assert np.array_equal(unpack_unit(pack(scaled), 4), scaled)
    length = np.linalg.norm(vector.astype(np.float64))
    assert np.allclose(scaled * length, vector, rtol=1e-5, atol=length * 1e-6)


def test_a_length_off_by_more_than_a_percent_is_refused_with_its_value():
    unpack_unit(pack(np.array([0.0, 1.005])), 2)
    with pytest.raises(InvalidArgument, match=r"query is .?of length 1.0200"):
        unpack_unit(pack(np.array([0.0, 1.02])), 2, "query")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_unit_vector_is_finite(bad):
    with pytest.raises(InvalidArgument, match="finite"):
        unpack_unit(pack(np.array([1.0, bad])), 2)


def test_a_unit_vector_has_its_dim():
    with pytest.raises(InvalidArgument, match=r"12 bytes.*8 bytes, dim 2"):
        unpack_unit(bytes(12), 2)


def test_values_too_large_to_square_are_finite_all_the_same():
    rows = np.full((1, 2), 3e38, dtype=np.float32)
    assert np.array_equal(unpack(pack(rows), 2), rows)
