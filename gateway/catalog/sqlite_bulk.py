"""The catalogue in one SQLite file, written and read whole by the build stages."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import orjson

from gateway.catalog.item import AttributeKind
from gateway.catalog.store import (
    SCHEMA_VERSION,
    CatalogSize,
    catalog_failed,
    check_kinds,
    check_schema_version,
    content_hash,
)
from rpc.buckets import bucket_of

BUSY_TIMEOUT_S = 30.0
CACHE_KIB = 64 * 1024

_READ_HASHES = """
    SELECT item_id, content_hash FROM items WHERE item_id IN (SELECT value FROM json_each(?))
"""
_UPSERT_ITEM = """
    INSERT INTO items (item_id, bucket, seq, content_hash, item) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (item_id) DO UPDATE
    SET seq = excluded.seq, content_hash = excluded.content_hash, item = excluded.item
"""
_REMOVE_UNSEEN = """
    INSERT INTO removals (item_id, bucket, seq)
    SELECT item_id, bucket, (SELECT seq FROM catalog_state) + row_number() OVER (ORDER BY item_id)
    FROM items WHERE NOT EXISTS (SELECT 1 FROM temp.seen WHERE seen.item_id = items.item_id)
"""


class SqliteBulkCatalog:
    """One read-write connection; readers in other processes go on meanwhile (WAL)."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        with _as_catalog_error():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(path)
            try:
                self._make_tables()
            except BaseException:
                self._connection.close()
                raise

    def upsert_many(
        self, batch: Sequence[tuple[str, bytes]], new_attributes: Mapping[str, AttributeKind]
    ) -> int:
        """Write items and the attributes first seen in them; return how many items changed."""
        with self.transaction():
            self._add_attributes(new_attributes)
            asked = _json([item_id for item_id, _ in batch])
            stored = dict(self._connection.execute(_READ_HASHES, (asked,)).fetchall())
            hashed = [(item_id, content_hash(item), item) for item_id, item in batch]
            changed = [row for row in hashed if stored.get(row[0]) != row[1]]
            if changed:
                self._write(changed, sum(row[0] not in stored for row in changed))
            return len(changed)

    def mark_seen(self, item_ids: Sequence[str]) -> set[str]:
        """Remember ids for this connection; return those it had been told before."""
        asked = _json(sorted(item_ids))
        with _as_catalog_error():
            again = self._connection.execute(
                "SELECT item_id FROM temp.seen WHERE item_id IN (SELECT value FROM json_each(?))",
                (asked,),
            ).fetchall()
            self._connection.execute(
                "INSERT OR IGNORE INTO temp.seen SELECT value FROM json_each(?)", (asked,)
            )
        return {item_id for (item_id,) in again}

    def delete_unseen(self) -> int:
        """Remove every item that was not marked as seen; return how many there were."""
        with self.transaction():
            removed = self._connection.execute(_REMOVE_UNSEEN).rowcount
            self._connection.execute(
                "DELETE FROM items WHERE item_id NOT IN (SELECT item_id FROM temp.seen)"
            )
            self._advance(changes=removed, items=-removed)
        return removed

    def read_schema(self) -> dict[str, AttributeKind]:
        """Return the kind of every attribute by name."""
        with _as_catalog_error():
            return dict(self._connection.execute("SELECT name, kind FROM attributes").fetchall())

    def clear_schema(self) -> None:
        """Forget all attributes."""
        with self.transaction():
            self._connection.execute("DELETE FROM attributes")

    def size(self) -> CatalogSize:
        """Return the number of items and the newest sequence number."""
        with _as_catalog_error():
            return self._read_state()[1]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside it appear at once, or not at all; may be nested."""
        with _as_catalog_error():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:  # SQLite has ended it itself on a full disk
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator["SqliteSnapshot"]:
        """Open an unchanging view of the whole catalogue."""
        with _as_catalog_error():
            self._connection.execute("BEGIN")
            try:
                yield SqliteSnapshot(self._connection, *self._read_state())
            finally:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Move what was written from the log into the file, durably, and close."""
        with _as_catalog_error():
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._connection.close()

    def _write(self, changed: Sequence[tuple[str, bytes, bytes]], num_new: int) -> None:
        seq = self._advance(changes=len(changed), items=num_new)
        self._connection.executemany(
            _UPSERT_ITEM,
            [
                (item_id, bucket_of(item_id), seq + place, digest, item)
                for place, (item_id, digest, item) in enumerate(changed, start=1)
            ],
        )
        if num_new:
            self._connection.execute(
                "DELETE FROM removals WHERE item_id IN (SELECT value FROM json_each(?))",
                (_json([item_id for item_id, _, _ in changed]),),
            )

    def _advance(self, changes: int, items: int) -> int:
        """Take the next sequence numbers; return the newest before them."""
        seq = self._read_state()[1].seq
        self._connection.execute(
            "UPDATE catalog_state SET seq = seq + ?, items = items + ?", (changes, items)
        )
        return seq

    def _add_attributes(self, kinds: Mapping[str, AttributeKind]) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO attributes (name, kind) VALUES (?, ?)", list(kinds.items())
        )
        if kinds:
            check_kinds(self.read_schema(), kinds)

    def _read_state(self) -> tuple[str, CatalogSize]:
        row = self._connection.execute(
            "SELECT catalog_id, items, seq FROM catalog_state"
        ).fetchone()
        return row[0], CatalogSize(row[1], row[2])

    def _make_tables(self) -> None:
        with self.transaction():
            known = "SELECT 1 FROM sqlite_master WHERE name = 'catalog_state'"
            if self._connection.execute(known).fetchone() is None:
                script = files("gateway.catalog").joinpath("sqlite.sql").read_text()
                for statement in script.split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(
                    "INSERT INTO catalog_state VALUES (1, ?, ?, 0, 0)",
                    (SCHEMA_VERSION, uuid4().hex),
                )
        version = self._connection.execute("SELECT schema_version FROM catalog_state").fetchone()
        check_schema_version(version[0])
        self._connection.execute("CREATE TEMP TABLE seen (item_id TEXT PRIMARY KEY) WITHOUT ROWID")


class SqliteSnapshot:
    """A read transaction; WAL keeps its view while others write."""

    def __init__(self, connection: sqlite3.Connection, catalog_id: str, size: CatalogSize) -> None:
        self._connection = connection
        self.catalog_id = catalog_id
        self.size = size

    def iter_items_sorted(self) -> Iterator[tuple[str, bytes]]:
        """Yield (item_id, serialized item) in UTF-8 byte order of item_id."""
        with _as_catalog_error():
            yield from self._connection.execute("SELECT item_id, item FROM items ORDER BY item_id")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut may take the last batches, never the file's soundness; `close` makes all durable.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA temp_store = FILE")
    connection.execute(f"PRAGMA temp.cache_size = -{CACHE_KIB}")
    return connection


@contextmanager
def _as_catalog_error() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise catalog_failed(exc) from exc


def _json(item_ids: list[str]) -> str:
    return orjson.dumps(item_ids).decode()
