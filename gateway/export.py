"""Export: the catalogue as of one sequence number, as an Arrow file for the later build stages.

    DIR/items.arrow   Arrow IPC file; item_id: string, item: binary (serialized vitrine.v1.Item);
                      rows unique and sorted by item_id in UTF-8 byte order
    DIR/export.json   written last: {"format_version", "catalog_id", "seq", "items"}

Running it again with an unchanged catalogue does nothing.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import orjson
import pyarrow as pa
import typer

from gateway.catalog.store import Snapshot, open_bulk_catalog
from rpc.files import replace_file, sync_folder
from rpc.terminal import CommandError, errors_as_sentences, print_result, progress_bar

FORMAT_VERSION = 1
ITEMS_FILE = "items.arrow"
EXPORT_FILE = "export.json"
BATCH_ROWS_MAX = 8_192
BATCH_BYTES_MAX = 32 * 1024 * 1024
SCHEMA = pa.schema([pa.field("item_id", pa.string(), False), pa.field("item", pa.binary(), False)])


def export(catalog_url: str, folder: Path) -> dict[str, Any]:
    """Write the catalogue into a folder, unless it is there already; return what it holds.

    Raises:
        CommandError: the catalogue is empty.
        Unavailable: the database failed.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with closing(open_bulk_catalog(catalog_url)) as catalog, catalog.snapshot() as snapshot:
        description = _describe(snapshot)
        if not snapshot.size.items:
            raise CommandError("the catalogue holds no item; write some with gateway.ingest first")
        done_before = _is_exported(folder, description)
        if not done_before:
            _write(snapshot, folder, description)
    return {
        "items": description["items"],
        "seq": description["seq"],
        "bytes": (folder / ITEMS_FILE).stat().st_size,
        "seconds": round(time.monotonic() - started, 3),
        "done_before": done_before,
    }


def _describe(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "catalog_id": snapshot.catalog_id,
        "seq": snapshot.size.seq,
        "items": snapshot.size.items,
    }


def _is_exported(folder: Path, description: dict[str, Any]) -> bool:
    try:
        found = orjson.loads((folder / EXPORT_FILE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False
    return found == description and (folder / ITEMS_FILE).is_file()


def _write(snapshot: Snapshot, folder: Path, description: dict[str, Any]) -> None:
    """Write the rows aside and put them in place, then say so in export.json."""
    (folder / EXPORT_FILE).unlink(missing_ok=True)
    aside = folder / f".{ITEMS_FILE}.writing"
    try:
        _write_rows(snapshot, aside)
        aside.replace(folder / ITEMS_FILE)
    finally:
        aside.unlink(missing_ok=True)  # a full disk is not left fuller
    sync_folder(folder)
    replace_file(folder / EXPORT_FILE, orjson.dumps(description))


def _write_rows(snapshot: Snapshot, path: Path) -> None:
    num_items = snapshot.size.items
    with progress_bar("exporting items", num_items) as advance, path.open("wb") as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for batch in _batches(snapshot.iter_items_sorted()):
                writer.write_batch(batch)
                advance(batch.num_rows)
        file.flush()
        os.fsync(file.fileno())


def _batches(rows: Iterable[tuple[str, bytes]]) -> Iterator[pa.RecordBatch]:
    """Gather rows into record batches that are bounded in rows and in bytes."""
    item_ids: list[str] = []
    items: list[bytes] = []
    num_bytes = 0
    for item_id, item in rows:
        item_ids.append(item_id)
        items.append(item)
        num_bytes += len(item)
        if len(items) >= BATCH_ROWS_MAX or num_bytes >= BATCH_BYTES_MAX:
            yield _batch(item_ids, items)
            item_ids, items, num_bytes = [], [], 0
    if items:
        yield _batch(item_ids, items)


def _batch(item_ids: list[str], items: list[bytes]) -> pa.RecordBatch:
    columns = [pa.array(item_ids, pa.string()), pa.array(items, pa.binary())]
    return pa.record_batch(columns, schema=SCHEMA)


def main(
    catalog: Annotated[
        str,
        typer.Option(envvar="VITRINE_CATALOG", help="sqlite:///ABSOLUTE/PATH or postgresql://..."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write items.arrow and export.json to.")],
) -> None:
    """Write the catalogue as an Arrow file, sorted by item_id."""
    with errors_as_sentences():
        print_result(export(catalog, out))


if __name__ == "__main__":
    typer.run(main)
