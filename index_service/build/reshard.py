"""`python -m index_service.build.reshard`: a generation cut into another number of shards.

Vectors, attributes and ids are those of the generation it is made from; only the graphs are new,
and the gate is measured anew.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer
import xxhash
from numpy.typing import NDArray

from index_service.build.gate import ShardsMeasured, choose, warn_below
from index_service.build.publish import (
    STAGING_PREFIX,
    alone,
    enough_room,
    next_number,
    publish,
    shard_entries,
)
from index_service.build.shard_files import appearing, durable, write_graph, write_item_ids
from index_service.build.workers import Advance, Workers, available_cores
from index_service.generation.manifest import (
    ATTRIBUTES_FILE,
    FORMAT_VERSION,
    GRAPH_FILE,
    ITEM_IDS_FILE,
    PROBES_FILE,
    VECTORS_FILE,
    GateEntry,
    Manifest,
    generation_folder,
    read_manifest,
    shard_folder,
)
from index_service.generation.verify import verify
from index_service.graph import Graph
from index_service.scoring import Rows
from index_service.segment import map_halves, read_item_ids, read_table
from rpc.active import read_active
from rpc.buckets import bucket_of, shard_of
from rpc.server import software_version
from rpc.terminal import CommandError, errors_as_sentences, print_result

_ITEMS_FOR_PROCESSES = 4_000
_BLOCK_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Resharded:
    """What became of it."""

    generation: int
    source: int
    items: int
    shards: int
    seconds: float
    bytes: int
    ann_recall_at_10: float
    ef_search: int
    rescored: int


@dataclass(frozen=True, slots=True, eq=False)
class ReshardTask:
    """One new shard to write."""

    source: Path
    manifest: Manifest
    staging: Path
    shard: int
    pieces: tuple[Rows, ...]
    """Of each old shard, the rows that belong to the new one, ascending."""
    projection: NDArray[np.float32] | None

    @property
    def items(self) -> int:
        """How many items the new shard has."""
        return sum(map(len, self.pieces))


def reshard(generations: Path, generation: int, num_shards: int) -> Resharded:
    """Make and publish a generation of the same items in another number of shards.

    Shards that an interrupted run has finished are kept: run it again to go on.

    Raises:
        NotFound: there is no such generation.
        DataLoss: a file of it is damaged.
        CommandError: another build is running, no room is left, it has as many shards already.
    """
    started_s = time.perf_counter()
    source = generations / generation_folder(generation)
    old = read_manifest(source)
    if old.num_shards == num_shards:
        raise CommandError(f"generation {generation} has {num_shards} shards already")
    staging = generations / f"{STAGING_PREFIX}{_key(old, num_shards)}"
    with alone(staging), enough_room(staging):
        # Damage would become part of a generation whose checksums are right.
        verify(source, old)
        staging.mkdir(exist_ok=True)
        manifest = _make(source, old, staging, num_shards, next_number(generations))
        publish(staging, generations, manifest)
    return Resharded(
        generation=manifest.generation,
        source=generation,
        items=manifest.items,
        shards=num_shards,
        seconds=round(time.perf_counter() - started_s, 3),
        bytes=manifest.size_bytes,
        ann_recall_at_10=manifest.gate.ann_recall_at_10,
        ef_search=manifest.gate.ef_search,
        rescored=manifest.gate.rescored,
    )


def _make(source: Path, old: Manifest, staging: Path, num_shards: int, number: int) -> Manifest:
    """Write everything but the manifest into the staging folder; return the manifest."""
    # 1. Where each row goes.
    homes = [_new_shards(source, shard, num_shards) for shard in range(old.num_shards)]
    projection = _projection(source, old)
    tasks = [
        ReshardTask(
            source,
            old,
            staging,
            shard,
            tuple(np.flatnonzero(home == shard) for home in homes),
            projection,
        )
        for shard in range(num_shards)
    ]
    with Workers(available_cores() if old.items >= _ITEMS_FOR_PROCESSES else 1) as workers:
        # 2. Each shard's files.
        workers.run(write_new_shard, tasks, "build shards", old.items)
        # 3. What a search over all shards finds, against exact search.
        with durable(staging / PROBES_FILE) as file:
            file.write((source / PROBES_FILE).read_bytes())
        items = [task.items for task in tasks]
        measure = ShardsMeasured(workers, staging, items, old.encoder.dim)
        gate = choose(measure, old.gate.required_ann_recall_at_10, num_shards)
    warn_below(gate)
    gate = replace(gate, queries_given=old.gate.queries_given)
    return _manifest(old, staging, items, gate, number)


def write_new_shard(task: ReshardTask, advance: Advance) -> None:
    """Write a new shard's files unless they are there; they appear all at once, durably."""
    folder = task.staging / shard_folder(task.shard)
    if folder.exists():
        advance(task.items)
        return
    manifest, dim = task.manifest, task.manifest.encoder.dim
    item_ids = _gathered_ids(task)
    order = pc.array_sort_indices(item_ids).to_numpy().astype(np.int64)
    with appearing(folder) as part:
        write_item_ids(part, item_ids.take(pa.array(order)))
        _write_attributes(task, part, order)
        _write_vectors(task, part, order)
        write_graph(part, task.items, dim, manifest.index, task.projection, advance)


def _gathered_ids(task: ReshardTask) -> pa.Array:
    """Return the ids of the new shard, old shard by old shard."""
    arrays = [
        read_item_ids(_file(task, shard, ITEM_IDS_FILE)).take(pa.array(rows))
        for shard, rows in enumerate(task.pieces)
    ]
    return pa.concat_arrays([pa.array([], type=pa.string()), *arrays])


def _write_attributes(task: ReshardTask, part: Path, order: Rows) -> None:
    """Write the attribute columns in the new order."""
    tables = [
        read_table(_file(task, shard, ATTRIBUTES_FILE)).take(pa.array(rows))
        for shard, rows in enumerate(task.pieces)
    ]
    table = pa.concat_tables(tables).take(pa.array(order))
    with (
        durable(part / ATTRIBUTES_FILE) as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=_BLOCK_ROWS)


def _write_vectors(task: ReshardTask, part: Path, order: Rows) -> None:
    """Write the vectors in the new order, a block at a time."""
    dim = task.manifest.encoder.dim
    old = [
        map_halves(_file(task, shard, VECTORS_FILE), entry.items, dim)
        for shard, entry in enumerate(task.manifest.shards)
    ]
    shards = np.repeat(np.arange(len(old)), [len(rows) for rows in task.pieces])[order]
    rows = np.concatenate(task.pieces)[order]
    with durable(part / VECTORS_FILE) as file:
        for start in range(0, len(order), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            halves = np.empty((len(order[block]), dim), dtype="<f2")
            for shard in np.unique(shards[block]).tolist():
                own = shards[block] == shard
                halves[own] = old[shard][rows[block][own]]
            file.write(halves.tobytes())


def _new_shards(source: Path, shard: int, num_shards: int) -> NDArray[np.uint16]:
    """Return the new shard of each row of an old one."""
    item_ids = read_item_ids(source / shard_folder(shard) / ITEM_IDS_FILE)
    return np.array(
        [shard_of(bucket_of(item_id), num_shards) for item_id in item_ids.to_pylist()],
        dtype=np.uint16,
    )


def _projection(source: Path, old: Manifest) -> NDArray[np.float32] | None:
    """Return what codes are made with; every shard of a generation has the same."""
    filled = next((entry.shard for entry in old.shards if entry.items), None)
    if filled is None:
        return None
    path = source / shard_folder(filled) / GRAPH_FILE
    return Graph.open(path, old.encoder.dim, old.faiss_version).projection


def _manifest(
    old: Manifest, staging: Path, items: Sequence[int], gate: GateEntry, number: int
) -> Manifest:
    return replace(
        old,
        format_version=FORMAT_VERSION,
        generation=number,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        software_version=software_version(),
        num_shards=len(items),
        faiss_version=faiss.__version__,
        gate=gate,
        shards=shard_entries(staging, items),
    )


def _file(task: ReshardTask, shard: int, name: str) -> Path:
    return task.source / shard_folder(shard) / name


def _key(old: Manifest, num_shards: int) -> str:
    """Return a name for everything that the new shards' files depend on."""
    files = [entry.sha256 for entry in old.files_by_path().values()]
    made_with = ("reshard", FORMAT_VERSION, num_shards, faiss.__version__, *files)
    return xxhash.xxh3_64_hexdigest(f"{made_with}".encode())


def main(
    generations: Annotated[Path, typer.Option(help="Folder that generations are published in.")],
    shards: Annotated[int, typer.Option(min=1, max=1024, help="How many shards to cut into.")],
    generation: Annotated[
        int, typer.Option(min=0, help="The generation to cut; 0 means the promoted one.")
    ] = 0,
) -> None:
    """Cut a generation into another number of shards, measure it, publish it as a new one."""
    with errors_as_sentences():
        number = generation or read_active(str(generations)).generation
        if not number:
            raise CommandError(f"no generation is promoted in {generations}; name one")
        print_result(asdict(reshard(generations, number, shards)))


if __name__ == "__main__":
    typer.run(main)
