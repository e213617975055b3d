"""One shard's files of one generation: graph, vectors, ids, attributes. Never changes."""

import mmap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyroaring import BitMap

from index_service.attributes import Attributes
from index_service.copies import Copies, Mask
from index_service.filter import Filter, evaluate, size_of
from index_service.generation.manifest import (
    ATTRIBUTES_FILE,
    GRAPH_FILE,
    ITEM_IDS_FILE,
    NODES_FILE,
    VECTORS_FILE,
)
from index_service.graph import Graph
from index_service.half_scan import HalfScan
from index_service.halffloat import to_float32
from index_service.item_ids import ItemIds
from index_service.scan import scan
from index_service.scattered import ScatteredRows
from index_service.scoring import Halves, Rows, Scores, score
from rpc.errors import DataLoss

# Queries times ef_search in one call of FAISS.
_GRAPH_VISITS_MAX = 32_768
# More queries share the blocks of `scan.scan`. Source: index_service/LOG.md, entry 8.
_HALF_SCAN_QUERIES_MAX = 2
# What scanning in place costs, over what copying a row and scanning the copy does: of each row
# passed, of each that matches, and of each run of these. Source: index_service/LOG.md, entry 24.
_PASSED, _IN_PLACE, _RUN = 0.03, 0.45, 1.7

FILTER_BYTES_MAX = 4 * 1024 * 1024
"""What remembered filters themselves may take: one may have 10,000 values."""


class Matches:
    """The rows that a filter leaves, in the forms that the two ways of searching want."""

    def __init__(self, bitmap: BitMap, items: int, copies: Copies) -> None:
        self._bitmap = bitmap
        self._items = items
        self._copies = copies
        self.count = len(bitmap)

    def __contains__(self, row: int) -> bool:
        return row in self._bitmap

    @property
    def rows(self) -> Rows:
        """All matching rows, ascending."""
        return np.frombuffer(self._bitmap.to_array(), dtype=np.uint32).astype(np.int64)

    @cached_property
    def scan_cost(self) -> float:
        """What scanning these rows costs, in rows that are copied and scanned."""
        return min(self.count, self._cost_in_place)

    @cached_property
    def are_scattered(self) -> bool:
        """Tell whether rows are better copied side by side than scanned where they lie."""
        return self.count < self._cost_in_place

    @cached_property
    def _cost_in_place(self) -> float:
        rows = self.rows
        runs = 1 + np.count_nonzero(np.diff(rows) > 1) if len(rows) else 0
        return _PASSED * self._items + _IN_PLACE * self.count + _RUN * runs

    @cached_property
    def mask(self) -> Mask:
        """True for each row that matches, shape (items,)."""
        mask = np.zeros(self._items, dtype=bool)
        mask[self.rows] = True
        return mask

    @cached_property
    def row_bits(self) -> NDArray[np.uint8]:
        """One bit a row, least significant first."""
        return np.packbits(self.mask, bitorder="little")

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """One bit a node of the graph, least significant first, as FAISS reads them."""
        return np.packbits(self._copies.mask_of_nodes(self.mask), bitorder="little")


class RecentMatches:
    """The matches of recent filters; safe to use from several threads at once."""

    def __init__(self, filters_max: int) -> None:
        """Remember so many filters, fewer where those are large."""
        self._filters_max = filters_max
        self._found: OrderedDict[Filter, Matches] = OrderedDict()
        self._filter_bytes = 0
        self._lock = Lock()

    def get(self, tree: Filter) -> Matches | None:
        """Return the matches of a filter, if remembered."""
        with self._lock:
            if found := self._found.get(tree):
                self._found.move_to_end(tree)
            return found

    def put(self, tree: Filter, matches: Matches) -> None:
        """Remember the matches of a filter; forget those not asked for longest."""
        with self._lock:
            if tree not in self._found:
                self._filter_bytes += size_of(tree)
            self._found[tree] = matches
            while len(self._found) > self._filters_max or self._filter_bytes > FILTER_BYTES_MAX:
                self._filter_bytes -= size_of(self._found.popitem(last=False)[0])


class Segment:
    """Mapped files of one shard; safe to search from several threads at once."""

    def __init__(
        self,
        graph: Graph,
        copies: Copies,
        halves: Halves,
        item_ids: pa.Array,
        attributes: Attributes | None,
        filters_cached_max: int = 0,
        in_order: Halves | None = None,
    ) -> None:
        """Put the parts together; `Segment.open` reads them from files.

        Args:
            graph: a node for each distinct vector.
            copies: which rows each node stands for.
            halves: the vectors, float16 of shape (items, dim).
            item_ids: strings in ascending order; a row's id.
            attributes: the columns that filters ask; None where no filter will come.
            filters_cached_max: how many filters' matches are remembered.
            in_order: the same vectors, mapped to be read one after the other.
        """
        self.items, self.dim = halves.shape
        self._graph = graph
        self._copies = copies
        self._halves = halves
        self._scattered = ScatteredRows(halves)
        self._in_order = halves if in_order is None else in_order
        self._half_scan = HalfScan(self._in_order)
        self._names = ItemIds(item_ids)
        self._attributes = attributes
        self._recent = RecentMatches(filters_cached_max)

    @classmethod
    def open(
        cls, files: Path, items: int, dim: int, faiss_version: str, filters_cached_max: int = 0
    ) -> "Segment":
        """Map one shard's verified files.

        Args:
            files: the shard's folder.
            items: how many rows each file must have.
            dim: length of a vector.
            faiss_version: what wrote the graph, for errors.
            filters_cached_max: how many filters' matches are remembered.

        Raises:
            DataLoss: a file cannot be read, or has another number of rows.
        """
        table = read_table(files / ATTRIBUTES_FILE)
        _require_rows(files / ATTRIBUTES_FILE, table.num_rows, items)
        parts = _mapped(files, items, dim, faiss_version)
        in_order = map_halves(files / VECTORS_FILE, items, dim)
        return cls(*parts, Attributes.of_table(table), filters_cached_max, in_order)

    @classmethod
    def open_unfiltered(cls, files: Path, items: int, dim: int, faiss_version: str) -> "Segment":
        """Map one shard's files but its attributes, which cost most memory; no filter may come."""
        return cls(*_mapped(files, items, dim, faiss_version), attributes=None)

    def matches(self, tree: Filter, stop: Callable[[], None]) -> Matches:
        """Return the rows that a filter leaves; the answer to a recent filter is remembered.

        Args:
            tree: the filter, checked.
            stop: called before each condition; raises when nobody waits for the answer any more.
        """
        if found := self._recent.get(tree):
            return found
        assert self._attributes is not None, "the segment was opened without attributes"
        found = Matches(evaluate(tree, self._attributes, stop), self.items, self._copies)
        self._recent.put(tree, found)
        return found

    def search_graph(
        self,
        queries: NDArray[np.float32],
        wanted: int,
        candidates: int,
        ef_search: int,
        matches: Matches | None,
        stop: Callable[[], None],
    ) -> list[Rows]:
        """Return for each query the rows that HNSW finds, best by their codes first.

        Args:
            queries: shape (q, dim).
            wanted: how many rows are of use where rows share a vector.
            candidates: how many distinct vectors to return, fewer when fewer are found.
            ef_search: candidates kept while searching.
            matches: the rows that may be found; None for all.
            stop: called between batches; raises when nobody waits for the answer any more.
        """
        allowed = None if matches is None else matches.mask
        bits = None if matches is None else matches.bits
        k = min(candidates, self._copies.num_nodes)
        # FAISS cannot be interrupted: a call of its own takes a fraction of a second at most.
        batch = max(1, _GRAPH_VISITS_MAX // ef_search)
        found: list[Rows] = []
        for start in range(0, len(queries), batch):
            stop()
            nodes = self._graph.search(queries[start : start + batch], k, ef_search, bits)
            found += [self._copies.rows_of(each, wanted, allowed) for each in nodes]
        return found

    def scan(
        self,
        queries: NDArray[np.float32],
        k: Sequence[int],
        matches: Matches | None,
        stop: Callable[[], None],
    ) -> list[Rows]:
        """Return for each query rows that are certain to hold its k best."""
        if len(queries) <= _HALF_SCAN_QUERIES_MAX:
            pairs = zip(queries, k, strict=True)
            found = [self._half_scanned(query, each, matches, stop) for query, each in pairs]
            certain = [rows for rows in found if rows is not None]
            if len(certain) == len(found):
                return certain
        return scan(self._in_order, None if matches is None else matches.rows, queries, k, stop)

    def _half_scanned(
        self, query: NDArray[np.float32], k: int, matches: Matches | None, stop: Callable[[], None]
    ) -> Rows | None:
        if matches is None:
            return self._half_scan.rows(query, k, None, stop)
        if matches.are_scattered:
            return self._half_scan.gathered(query, k, matches.rows, stop)
        return self._half_scan.rows(query, k, matches.row_bits, stop)

    @property
    def memory_is_short(self) -> bool:
        """Tell whether vectors had to be read from the disk lately."""
        return self._scattered.missing

    def score(self, query: NDArray[np.float32], rows: Rows) -> Scores:
        """Return the final scores of rows for a query of shape (dim,)."""
        return score(query, self._scattered.take(rows))

    def embeddings(self, rows: Rows) -> NDArray[np.float32]:
        """Return stored vectors, shape (n, dim)."""
        return to_float32(self._halves[rows])

    def item_ids(self, rows: Rows) -> list[str]:
        """Return the ids of rows."""
        return self._names.of(rows)

    def row_of(self, item_id: str) -> int | None:
        """Return the row of an item; None when it is not on this shard."""
        return self._names.row_of(item_id)


def _mapped(
    files: Path, items: int, dim: int, faiss_version: str
) -> tuple[Graph, Copies, Halves, pa.Array]:
    """Map graph, vectors and ids, and group rows by node."""
    item_ids = read_item_ids(files / ITEM_IDS_FILE)
    graph = Graph.open(files / GRAPH_FILE, dim, faiss_version)
    halves = map_halves(files / VECTORS_FILE, items, dim, scattered=True)
    nodes = np.fromfile(files / NODES_FILE, dtype="<u4")
    _require_rows(files / ITEM_IDS_FILE, len(item_ids), items)
    _require_rows(files / NODES_FILE, len(nodes), items)
    num_nodes = int(nodes.max()) + 1 if len(nodes) else 0
    _require_rows(files / GRAPH_FILE, graph.num_nodes, num_nodes)
    return graph, Copies(nodes), halves, item_ids


def _require_rows(path: Path, count: int, expected: int) -> None:
    if count != expected:
        raise DataLoss(str(path), f"has {count} rows, not {expected}")


def map_halves(path: Path, items: int, dim: int, *, scattered: bool = False) -> Halves:
    """Map a file of raw little-endian float16 rows, shape (items, dim).

    Args:
        path: the file.
        items: how many rows.
        dim: length of a row.
        scattered: rows will be read here and there, and nothing is to be read ahead: where memory
            is short, that would push the graph out. Source: index_service/LOG.md, entry 20.

    Raises:
        DataLoss: the file has another size.
    """
    size = path.stat().st_size
    if size != items * dim * 2:
        raise DataLoss(str(path), f"has {size} bytes, not {items} x {dim} float16 numbers")
    if not items:
        return np.empty((0, dim), dtype=np.float16)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if scattered:
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype="<f2").reshape(items, dim)


def read_item_ids(path: Path) -> pa.Array:
    """Map a file of ids, a string each."""
    column = read_table(path).column("item_id")
    return column.chunk(0) if column.num_chunks else pa.array([], type=pa.string())


def read_table(path: Path) -> pa.Table:
    """Map an Arrow file.

    Raises:
        DataLoss: it is none.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as exc:
        raise DataLoss(str(path), f"is not an Arrow file: {exc}") from exc
