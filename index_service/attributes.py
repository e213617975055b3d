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

# A few values are found sooner one by one than all at once.
_VALUES_ALONE_MAX = 8


Groups = tuple[pa.Array, NDArray[Any], RowNumbers]
"""Distinct values in order; the order of all values, stable; where in it each distinct one begins,
and where the last one ends."""

_VALUES_LOOKED_AT = 8_192
_DISTINCT_SHARE_MAX = 1 / 4


class Column(Protocol):
    """Finds the rows of one attribute."""

    @property
    def present(self) -> RowNumbers:
        """Rows that have the attribute."""

    def one_of(self, values: Sequence[Any]) -> RowNumbers:
        """Return the rows that hold one of the values; a row may come more than once."""


class Attributes:
    """All columns of one shard."""

    def __init__(self, items: int, columns: dict[str, Column]) -> None:
        self._columns = columns
        self.all_rows = BitMap()
        self.all_rows.add_range(0, items)

    @classmethod
    def of_table(cls, table: pa.Table) -> "Attributes":
        """Lay out the columns of attributes.arrow; costs a sort of each."""
        columns = {}
        for name in table.column_names:
            columns[name] = _column(table.column(name))
            # Arrow would keep what laying it out has taken beside the column.
            pa.default_memory_pool().release_unused()
        return cls(table.num_rows, columns)

    def one_of(self, attribute: str, values: Sequence[Value]) -> BitMap:
        """Return the rows that hold one of the values."""
        return _bitmap(self._columns[attribute].one_of(values))

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

    def __init__(self, values: pa.Array, rows: RowNumbers) -> None:
        """Group rows by keyword.

        Args:
            values: a string for each pair of keyword and row.
            rows: for each pair, the row, ascending.
        """
        group = _sorted_groups if _mostly_distinct(values) else _encoded_groups
        self._keywords, order, self._starts = group(values)
        self._rows = rows[order]
        self.present = rows if _ascends(rows) else np.unique(rows)

    def one_of(self, values: Sequence[str]) -> RowNumbers:
        """Return the rows that hold one of the keywords."""
        places = self._places_of(values)
        return _pieces(self._rows, self._starts[places], self._starts[places + 1])

    def _places_of(self, values: Sequence[str]) -> NDArray[np.int64]:
        """Return the places of those values that are keywords here."""
        if not len(self._keywords):
            return np.empty(0, dtype=np.int64)
        wanted = pa.array(values, type=pa.string())
        if len(values) <= _VALUES_ALONE_MAX:
            places = np.array([self._place_of(value) for value in values], dtype=np.int64)
        else:
            places = _lower_bounds(self._keywords, wanted)
        places = np.minimum(places, len(self._keywords) - 1)
        held = pc.equal(self._keywords.take(pa.array(places)), wanted)
        return np.compress(held.to_numpy(zero_copy_only=False), places)

    def _place_of(self, value: str) -> int:
        """Return how many keywords come before a value."""
        # UTF-8 keeps the order of code points, so Arrow's order is Python's.
        return bisect_left(
            range(len(self._keywords)), value, key=lambda each: self._keywords[each].as_py()
        )


class OrderedColumn:
    """Numbers or times in order, and the row of each."""

    def __init__(self, values: NDArray[Any], rows: RowNumbers) -> None:
        order = np.argsort(values, kind="stable")
        self._values = values[order]
        self._rows = rows[order]
        self.present = rows

    def one_of(self, values: Sequence[float]) -> RowNumbers:
        """Return the rows of the values."""
        wanted = np.asarray(values)
        firsts = self._values.searchsorted(wanted, "left")
        return _pieces(self._rows, firsts, self._values.searchsorted(wanted, "right"))

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

    def one_of(self, values: Sequence[bool]) -> RowNumbers:
        """Return the rows of the truth values."""
        return np.concatenate([self._rows[value] for value in set(values)])


def _column(chunked: pa.ChunkedArray) -> Column:
    """Lay out one column by its type."""
    values = _one_array(chunked)
    rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False)).astype(np.uint32)
    kind = values.type
    if pa.types.is_list(kind):
        # Null and empty lists contribute nothing to either.
        parents = pc.list_parent_indices(values).to_numpy().astype(np.uint32)
        return KeywordColumn(pc.list_flatten(values), parents)
    valid = values.drop_null()
    if pa.types.is_string(kind):
        return KeywordColumn(valid, rows)
    if pa.types.is_boolean(kind):
        return FlagColumn(valid.to_numpy(zero_copy_only=False), rows)
    if pa.types.is_timestamp(kind):
        valid = valid.cast(pa.int64())
    return OrderedColumn(valid.to_numpy(zero_copy_only=False), rows)


def _mostly_distinct(values: pa.Array) -> bool:
    """Tell by some of the values whether few of them repeat."""
    step = max(1, len(values) // _VALUES_LOOKED_AT)
    some = values.take(pa.array(np.arange(0, len(values), step)))
    return bool(pc.count_distinct(some).as_py() > _DISTINCT_SHARE_MAX * len(some))


def _sorted_groups(values: pa.Array) -> Groups:
    """Group by sorting: an index of many distinct values would take hundreds of bytes for each."""
    order = pc.array_sort_indices(values)
    values = values.take(order)
    first = np.ones(len(values), dtype=bool)
    first[1:] = pc.not_equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False)
    starts = np.append(np.flatnonzero(first), len(values)).astype(np.uint32)
    return values.filter(pa.array(first)), order.to_numpy(), starts


def _encoded_groups(values: pa.Array) -> Groups:
    """Group by numbers in place of values, several times as fast where many repeat."""
    encoded = values.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary)
    rank = np.empty(len(order), dtype=np.min_scalar_type(len(order)))
    rank[order.to_numpy()] = np.arange(len(order))
    ranks = rank[encoded.indices.to_numpy()]
    counts = np.bincount(ranks, minlength=len(order))
    starts = np.append(0, np.cumsum(counts)).astype(np.uint32)
    return encoded.dictionary.take(order), np.argsort(ranks, kind="stable"), starts


def _ascends(rows: RowNumbers) -> bool:
    return bool((rows[1:] > rows[:-1]).all())


def _one_array(chunked: pa.ChunkedArray) -> pa.Array:
    combined = chunked.combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined


def _lower_bounds(ordered: pa.Array, wanted: pa.Array) -> NDArray[np.int64]:
    """Return for each wanted string how many of the ordered ones, one or more, come before it.

    A binary search for all at once, in native code that lets other threads run.
    """
    low = np.zeros(len(wanted), dtype=np.int64)
    high = np.full(len(wanted), len(ordered))
    for _ in range(len(ordered).bit_length()):
        middle = np.minimum((low + high) // 2, len(ordered) - 1)
        before = pc.less(ordered.take(pa.array(middle)), wanted).to_numpy(zero_copy_only=False)
        is_open = low < high
        low = np.where(is_open & before, middle + 1, low)
        high = np.where(is_open & ~before, middle, high)
    return low


def _pieces(
    rows: RowNumbers, firsts: NDArray[np.integer[Any]], afters: NDArray[np.integer[Any]]
) -> RowNumbers:
    """Return rows[first:after] of each pair, one after the other."""
    pairs = zip(firsts.tolist(), afters.tolist(), strict=True)
    return np.concatenate([rows[:0], *(rows[first:after] for first, after in pairs)])


def _bitmap(rows: RowNumbers) -> BitMap:
    # pyroaring copies an array.array at once, and a numpy array number by number.
    numbers = array("I")
    numbers.frombytes(rows.tobytes())
    return BitMap(numbers)
