"""Ids by row, and rows by id."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from index_service.item_ids import ItemIds

IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=30).map(
    sorted
)


@given(IDS, st.integers(0, 3), st.data())
def test_rows_and_ids_lead_to_each_other(ids, skipped, data):
    # A slice has its first row elsewhere in the buffers.
    item_ids = ItemIds(pa.array(["", *"abc"][:skipped] + ids, type=pa.string())[skipped:])
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1))) if ids else []
    assert item_ids.of(np.array(rows, dtype=np.int64)) == [ids[row] for row in rows]
    assert [item_ids.row_of(each) for each in ids] == list(range(len(ids)))


@given(IDS, st.text(st.characters(exclude_categories=["Cs"])))
def test_an_unknown_id_has_no_row(ids, other):
    known = [each for each in ids if each != other]
    assert ItemIds(pa.array(known, type=pa.string())).row_of(other) is None
