"""Writes one shard's files: ids, attributes, vectors, graph."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index_service.build.columns import arrow_schema, columns
from index_service.build.neighbourhood import neighbourhood
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import Advance
from index_service.copies import first_rows, nodes_of, renumbered
from index_service.generation.manifest import (
    ATTRIBUTES_FILE,
    GRAPH_FILE,
    ITEM_IDS_FILE,
    NODES_FILE,
    VECTORS_FILE,
    AttributeKind,
    IndexParameters,
    shard_folder,
)
from index_service.halffloat import to_float32
from index_service.scoring import Halves, Rows
from index_service.segment import map_halves
from rpc.files import sync_folder
from rpc.terminal import CommandError

_BLOCK_ROWS = 4096
_WRITE_BYTES = 1024 * 1024
_LENGTH_TOLERANCE = 0.01
_UPPER_LINKS = 2
"""Links above the lowest level, a node: m / (m - 1) in the mean."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardTask:
    """One shard to write."""

    work: WorkFolder
    staging: Path
    shard: int
    rows: Rows
    """The shard's rows in the work folder, ascending."""
    schema: Mapping[str, AttributeKind]
    parameters: IndexParameters
    projection: NDArray[np.float32] | None
    """What codes are made with, shape (dim, code_dim); None to code whole vectors."""

    @property
    def folder(self) -> Path:
        """Where the finished files are."""
        return self.staging / shard_folder(self.shard)


def write_shard(task: ShardTask, advance: Advance) -> None:
    """Write a shard's files unless they are there; they appear all at once, durably.

    Raises:
        CommandError: a vector is not of unit length.
        OSError: there is no room.
    """
    if task.folder.exists():
        advance(len(task.rows))
        return
    with appearing(task.folder) as part:
        _write_items(task, part)
        _write_vectors(task, part / VECTORS_FILE)
        dim = task.work.encoder.dim
        write_graph(part, len(task.rows), dim, task.parameters, task.projection, advance)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes its name, durably, once the body has ended well."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    yield part
    sync_folder(part)
    part.rename(folder)
    sync_folder(folder.parent)


def write_graph(
    part: Path,
    items: int,
    dim: int,
    parameters: IndexParameters,
    projection: NDArray[np.float32] | None,
    advance: Advance,
) -> None:
    """Write the graph over the vectors that a shard's folder holds, and the node of each row.

    Args:
        part: the folder, vectors in it.
        items: how many.
        dim: length of a vector.
        parameters: m, ef_construction and seed.
        projection: what codes are made with, shape (dim, code_dim).
        advance: told of the items done.
    """
    halves = map_halves(part / VECTORS_FILE, items, dim)
    nodes = nodes_of(halves)
    graph, order = build_graph(halves, first_rows(nodes), parameters, projection, advance)
    with durable(part / NODES_FILE) as file:
        file.write(renumbered(nodes, order).astype("<u4").tobytes())
    # Copies are not in the graph, but they are done.
    advance(items - graph.ntotal)
    with durable(part / GRAPH_FILE) as file:
        # FAISS's own writer would not notice that the last bytes found no room.
        faiss.write_index(graph, faiss.PyCallbackIOWriter(file.write, _WRITE_BYTES))


def build_graph(
    halves: Halves,
    rows: Rows,
    parameters: IndexParameters,
    projection: NDArray[np.float32] | None,
    advance: Advance,
) -> tuple[Any, Rows]:
    """Return an HNSW graph over 8-bit codes of some rows; the same vectors give the same graph.

    Its nodes are in the order of `neighbourhood`, so that a search reads memory that lies together.

    Args:
        halves: shape (items, dim).
        rows: the row of each node.
        parameters: m, ef_construction and seed.
        projection: shape (dim, code_dim), what vectors are multiplied by before they are coded.
        advance: told of the rows added.

    Returns:
        The graph, and for each node the place of its row in `rows`.
    """
    graph = faiss.IndexHNSWSQ(
        halves.shape[1] if projection is None else projection.shape[1],
        faiss.ScalarQuantizer.QT_8bit,
        parameters.m,
        faiss.METRIC_INNER_PRODUCT,
    )
    graph.hnsw.efConstruction = parameters.ef_construction
    graph.hnsw.rng = faiss.RandomGenerator(parameters.seed)
    graph.train(_extremes(halves, projection))
    _reserve(graph, len(rows))
    for block in _blocks(len(rows)):
        graph.add(_projected(halves[rows[block]], projection))
        advance(block.stop - block.start)
    order = neighbourhood(graph.hnsw, len(rows))
    graph.permute_entries(order)
    return graph if projection is None else _behind(projection, graph), order


def _reserve(graph: Any, count: int) -> None:
    """Make room for the links and codes of so many nodes.

    Vectors that grow as they are filled would for a moment take three times what they hold.
    """
    links = graph.hnsw.nb_neighbors(0) + _UPPER_LINKS
    codes = faiss.downcast_index(graph.storage)
    for vector, size in (
        (graph.hnsw.neighbors, count * links),
        (codes.codes, count * codes.code_size),
    ):
        # The room stays when the size goes.
        vector.resize(size)
        vector.resize(0)


def _projected(halves: Halves, projection: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return what is coded of some vectors."""
    floats = to_float32(halves)
    return floats if projection is None else floats @ projection


def _behind(projection: NDArray[np.float32], graph: Any) -> Any:
    """Return an index that projects queries before it searches the graph."""
    dim, code_dim = projection.shape
    linear = faiss.LinearTransform(dim, code_dim, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(projection.T).ravel(), linear.A)
    linear.is_trained = True
    return faiss.IndexPreTransform(linear, graph)


def _extremes(halves: Halves, projection: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the least and the largest value of each dimension, shape (2, code_dim).

    They are all that an 8-bit quantizer learns (FAISS's RS_minmax), so training on these two rows
    is training on all.
    """
    if not len(halves):
        return np.zeros((2, halves.shape[1]), dtype=np.float32)
    blocks = (_projected(halves[block], projection) for block in _blocks(len(halves)))
    extremes = [(floats.min(axis=0), floats.max(axis=0)) for floats in blocks]
    lows, highs = zip(*extremes, strict=True)
    return np.stack([np.min(lows, axis=0), np.max(highs, axis=0)])


def _write_items(task: ShardTask, part: Path) -> None:
    """Write ids and attribute columns."""
    id_arrays: list[pa.Array] = [pa.array([], type=pa.string())]
    with (
        durable(part / ATTRIBUTES_FILE) as file,
        pa.ipc.new_file(file, arrow_schema(task.schema)) as attributes,
    ):
        for item_ids, items in _own_items(task):
            id_arrays.append(item_ids)
            pairs = zip(item_ids.to_pylist(), items.to_pylist(), strict=True)
            attributes.write_batch(columns(pairs, task.schema))
    # One array, so that a row is a place in it.
    write_item_ids(part, pa.concat_arrays(id_arrays))


def write_item_ids(part: Path, item_ids: pa.Array) -> None:
    """Write the id of each row."""
    with durable(part / ITEM_IDS_FILE) as file:
        table = pa.record_batch([item_ids], names=["item_id"])
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_batch(table)


def _own_items(task: ShardTask) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Yield ids and serialized items of the shard's rows, in order, some at a time."""
    for batch in task.work.batches():
        first, after = np.searchsorted(
            task.rows, [batch.first_row, batch.first_row + len(batch.item_ids)]
        )
        if after > first:
            places = pa.array(task.rows[first:after] - batch.first_row)
            yield batch.item_ids.take(places), batch.items.take(places)


def _write_vectors(task: ShardTask, path: Path) -> None:
    """Copy the shard's rows of the work folder's vectors."""
    halves = task.work.vectors()
    with durable(path) as file:
        for block in _blocks(len(task.rows)):
            rows = task.rows[block]
            _require_unit(halves[rows], rows)
            file.write(halves[rows].tobytes())


def _require_unit(halves: Halves, rows: Rows) -> None:
    lengths = np.linalg.norm(to_float32(halves), axis=1)
    # Written so that NaN is off, too.
    off = np.flatnonzero(~(np.abs(lengths - 1.0) <= _LENGTH_TOLERANCE))
    if off.size:
        raise CommandError(
            f"the vector of row {rows[off[0]]} has length {lengths[off[0]]}, not 1; "
            "run the embed stage again"
        )


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, rows))


@contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; once closed, its content is on the disk."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
