"""One shard's attribute columns, laid out so that a condition finds its rows without a scan."""

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyroaring import BitMap

from index_service.generation.manifest import AttributeKind

Value = str | float | bool | int
Bound = tuple[Value, bool]
RowNumbers = NDArray[np.uint32]

ARROW_TYPES: dict[AttributeKind, pa.DataType] = {
    AttributeKind.KEYWORD: pa.string(),
    AttributeKind.KEYWORD_LIST: pa.list_(pa.string()),
    AttributeKind.NUMBER: pa.float64(),
    AttributeKind.BOOL: pa.bool_(),
    AttributeKind.TIME: pa.timestamp("us", tz="UTC"),
}
"""The type of a column in attributes.arrow; null where an item lacks the attribute."""


class Column(Protocol):
    """Finds the rows of one attribute."""

    @property
    def present(self) -> RowNumbers:
        """Rows that have the attribute."""

    def equal(self, value: Any) -> RowNumbers:
        """Return the rows whose value, or one of whose values, is this."""


class Attributes:
    """All columns of one shard."""

    def __init__(self, items: int, columns: dict[str, Column]) -> None:
        self._columns = columns
        self.all_rows = BitMap()
        self.all_rows.add_range(0, items)

    @classmethod
    def of_table(cls, table: pa.Table) -> "Attributes":
        """Lay out the columns of attributes.arrow; costs a sort of each."""
        columns = {name: _column(table.column(name)) for name in table.column_names}
        return cls(table.num_rows, columns)

    def equal(self, attribute: str, values: Sequence[Value]) -> BitMap:
        """Return the rows that hold one of the values."""
        column = self._columns[attribute]
        return _bitmap(np.concatenate([column.equal(value) for value in values]))

    def between(self, attribute: str, lower: Bound | None, upper: Bound | None) -> BitMap:
        """Return the rows whose number or time lies between two bounds: (value, inclusive)."""
        column = self._columns[attribute]
        assert isinstance(column, OrderedColumn), f"{attribute} has no order"
        return _bitmap(column.between(lower, upper))

    def present(self, attribute: str) -> BitMap:
        """Return the rows that have the attribute."""
        return _bitmap(self._columns[attribute].present)


class KeywordColumn:
    """Distinct keywords in order, and for each the rows that hold it."""

    def __init__(self, keywords: pa.Array, codes: NDArray[np.int32], rows: RowNumbers) -> None:
        """Group rows by keyword.

        Args:
            keywords: distinct strings, in any order.
            codes: for each pair of keyword and row, the place of the keyword.
            rows: for each pair, the row, ascending.
        """
        order = pc.array_sort_indices(keywords).to_numpy()
        self._keywords = keywords.take(pa.array(order))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        ranks = rank[codes]
        self._rows = rows[np.argsort(ranks, kind="stable")]
        counts = np.bincount(ranks, minlength=len(order))
        self._starts = np.concatenate(([0], np.cumsum(counts)))
        self.present = np.unique(rows)

    def equal(self, value: str) -> RowNumbers:
        """Return the rows that hold a keyword, ascending."""
        # UTF-8 keeps the order of code points, so Arrow's order is Python's.
        place = bisect_left(
            range(len(self._keywords)), value, key=lambda each: self._keywords[each].as_py()
        )
        if place == len(self._keywords) or self._keywords[place].as_py() != value:
            return self._rows[:0]
        return self._rows[self._starts[place] : self._starts[place + 1]]


class OrderedColumn:
    """Numbers or times in order, and the row of each."""

    def __init__(self, values: NDArray[Any], rows: RowNumbers) -> None:
        order = np.argsort(values, kind="stable")
        self._values = values[order]
        self._rows = rows[order]
        self.present = rows

    def equal(self, value: float) -> RowNumbers:
        """Return the rows of a value."""
        return self.between((value, True), (value, True))

    def between(self, lower: Bound | None, upper: Bound | None) -> RowNumbers:
        """Return the rows of the values between two bounds."""
        first, after = 0, len(self._values)
        if lower is not None:
            first = int(self._values.searchsorted(lower[0], "left" if lower[1] else "right"))
        if upper is not None:
            after = int(self._values.searchsorted(upper[0], "right" if upper[1] else "left"))
        return self._rows[first:after]


class FlagColumn:
    """Rows by truth value."""

    def __init__(self, flags: NDArray[np.bool_], rows: RowNumbers) -> None:
        self._rows = {True: rows[flags], False: rows[~flags]}
        self.present = rows

    def equal(self, value: bool) -> RowNumbers:
        """Return the rows of a truth value."""
        return self._rows[value]


def _column(chunked: pa.ChunkedArray) -> Column:
    """Lay out one column by its type."""
    values = _one_array(chunked)
    rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)).astype(np.uint32)
    kind = values.type
    if pa.types.is_list(kind):
        # Null and empty lists contribute nothing to either.
        parents = pc.list_parent_indices(values).to_numpy().astype(np.uint32)
        return _keyword_column(pc.list_flatten(values), parents)
    valid = values.drop_null()
    if pa.types.is_string(kind):
        return _keyword_column(valid, rows)
    if pa.types.is_boolean(kind):
        return FlagColumn(valid.to_numpy(zero_copy_only=False), rows)
    if pa.types.is_timestamp(kind):
        valid = valid.cast(pa.int64())
    return OrderedColumn(valid.to_numpy(zero_copy_only=False), rows)


def _keyword_column(keywords: pa.Array, rows: RowNumbers) -> KeywordColumn:
    encoded = keywords.dictionary_encode()
    return KeywordColumn(encoded.dictionary, encoded.indices.to_numpy(), rows)


def _one_array(chunked: pa.ChunkedArray) -> pa.Array:
    combined = chunked.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _bitmap(rows: RowNumbers) -> BitMap:
    # pyroaring copies an array.array at once, and a numpy array number by number.
    numbers = array("I")
    numbers.frombytes(rows.tobytes())
    return BitMap(numbers)
