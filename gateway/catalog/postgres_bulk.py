"""The catalogue in PostgreSQL, written and read whole by the build stages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, LiteralString, cast
from uuid import uuid4

import psycopg
from psycopg.pq import TransactionStatus

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
from rpc.errors import FailedPrecondition

CONNECT_TIMEOUT_S = 5
EXPORT_FETCH_ROWS = 2_000
# Held while tables are made, so that two first writers do not both make them.
_MAKE_TABLES_LOCK = 0x76697472

_MAKE_SESSION_TABLES: LiteralString = """
    CREATE TEMP TABLE seen (item_id text COLLATE "C" PRIMARY KEY);
    CREATE TEMP TABLE incoming (
        item_id text COLLATE "C", bucket integer, content_hash bytea, item bytea, place bigint)
"""
_KEEP_CHANGED: LiteralString = """
    DELETE FROM incoming USING items
    WHERE items.item_id = incoming.item_id AND items.content_hash = incoming.content_hash
"""
_COUNT_NEW: LiteralString = """
    SELECT count(*), count(*) FILTER (WHERE items.item_id IS NULL)
    FROM incoming LEFT JOIN items USING (item_id)
"""
_UPSERT_ITEMS: LiteralString = """
    INSERT INTO items (item_id, bucket, seq, content_hash, item)
    SELECT item_id, bucket, %s + row_number() OVER (ORDER BY place), content_hash, item
    FROM incoming
    ON CONFLICT (item_id) DO UPDATE
    SET seq = excluded.seq, content_hash = excluded.content_hash, item = excluded.item
"""
_REMOVE_UNSEEN: LiteralString = """
    WITH removed AS (
        DELETE FROM items WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.item_id = items.item_id)
        RETURNING item_id, bucket)
    INSERT INTO removals (item_id, bucket, seq)
    SELECT item_id, bucket, %s + row_number() OVER (ORDER BY item_id) FROM removed
"""


class PostgresBulkCatalog:
    """One read-write connection. Writers take turns, so numbers are taken in order of commit."""

    kind = "postgres"

    def __init__(self, url: str) -> None:
        with _as_catalog_error():
            self._connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="vitrine-bulk",
            )
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
            self._read_state(lock=True)
            self._add_attributes(new_attributes)
            self._copy_in(batch)
            self._connection.execute(_KEEP_CHANGED)
            changed, num_new = self._one_row(_COUNT_NEW)
            if changed:
                seq = self._advance(changes=changed, items=num_new)
                self._connection.execute(_UPSERT_ITEMS, (seq,))
                self._connection.execute(
                    "DELETE FROM removals USING incoming WHERE removals.item_id = incoming.item_id"
                )
        return int(changed)

    def mark_seen(self, item_ids: Sequence[str]) -> set[str]:
        """Remember ids for this connection; return those it had been told before."""
        asked = list(item_ids)
        with _as_catalog_error():
            again = self._connection.execute(
                "SELECT item_id FROM seen WHERE item_id = ANY(%s)", (asked,)
            ).fetchall()
            self._connection.execute(
                "INSERT INTO seen SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", (asked,)
            )
        return {item_id for (item_id,) in again}

    def delete_unseen(self) -> int:
        """Remove every item that was not marked as seen; return how many there were."""
        with self.transaction():
            seq = self._read_state(lock=True)[1].seq
            self._connection.execute("ANALYZE seen")
            removed = self._connection.execute(_REMOVE_UNSEEN, (seq,)).rowcount
            self._advance(changes=removed, items=-removed)
        return removed

    def read_schema(self) -> dict[str, AttributeKind]:
        """Return the kind of every attribute by name."""
        with _as_catalog_error():
            rows = self._connection.execute("SELECT name, kind FROM attributes").fetchall()
            return dict(cast("list[tuple[str, AttributeKind]]", rows))

    def clear_schema(self) -> None:
        """Forget all attributes."""
        with self.transaction():
            self._read_state(lock=True)
            self._connection.execute("DELETE FROM attributes")

    def size(self) -> CatalogSize:
        """Return the number of items and the newest sequence number."""
        with _as_catalog_error():
            return self._read_state()[1]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside it appear at once, or not at all; may be nested."""
        with _as_catalog_error():
            if self._connection.info.transaction_status != TransactionStatus.IDLE:
                yield
                return
            with self._connection.transaction():
                yield

    @contextmanager
    def snapshot(self) -> Iterator["PostgresSnapshot"]:
        """Open an unchanging view of the whole catalogue."""
        with self.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield PostgresSnapshot(self._connection, *self._read_state())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _copy_in(self, batch: Sequence[tuple[str, bytes]]) -> None:
        self._connection.execute("TRUNCATE incoming")
        copying: LiteralString = "COPY incoming FROM STDIN WITH (FORMAT BINARY)"
        with self._connection.cursor() as cursor, cursor.copy(copying) as copy:
            copy.set_types(["text", "int4", "bytea", "bytea", "int8"])
            for place, (item_id, item) in enumerate(batch):
                copy.write_row((item_id, bucket_of(item_id), content_hash(item), item, place))
        # So that the planner looks the few rows up in large tables instead of reading those whole.
        self._connection.execute("ANALYZE incoming (item_id)")

    def _advance(self, changes: int, items: int) -> int:
        """Take the next sequence numbers; return the newest before them."""
        seq, _ = self._one_row(
            "UPDATE catalog_state SET seq = seq + %s, items = items + %s RETURNING seq, items",
            (changes, items),
        )
        return int(seq) - changes

    def _add_attributes(self, kinds: Mapping[str, AttributeKind]) -> None:
        if not kinds:
            return
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO attributes (name, kind) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                list(kinds.items()),
            )
        check_kinds(self.read_schema(), kinds)

    def _read_state(self, lock: bool = False) -> tuple[str, CatalogSize]:
        query: LiteralString = "SELECT catalog_id, items, seq FROM catalog_state"
        row = self._one_row(query + " FOR UPDATE" if lock else query)
        return row[0], CatalogSize(row[1], row[2])

    def _make_tables(self) -> None:
        _check_encoding(self._connection)
        with self.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKE_TABLES_LOCK,))
            if self._one_row("SELECT to_regclass('catalog_state')")[0] is None:
                script = files("gateway.catalog").joinpath("postgres.sql").read_bytes()
                self._connection.execute(script)
                self._connection.execute(
                    "INSERT INTO catalog_state VALUES (1, %s, %s, 0, 0)",
                    (SCHEMA_VERSION, uuid4().hex),
                )
        check_schema_version(self._one_row("SELECT schema_version FROM catalog_state")[0])
        self._connection.execute(_MAKE_SESSION_TABLES)

    def _one_row(self, query: LiteralString, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row = self._connection.execute(query, parameters).fetchone()
        assert row is not None
        return row


class PostgresSnapshot:
    """A repeatable-read transaction, read through a cursor that stays on the server."""

    def __init__(
        self, connection: psycopg.Connection[Any], catalog_id: str, size: CatalogSize
    ) -> None:
        self._connection = connection
        self.catalog_id = catalog_id
        self.size = size

    def iter_items_sorted(self) -> Iterator[tuple[str, bytes]]:
        """Yield (item_id, serialized item) in UTF-8 byte order of item_id."""
        with _as_catalog_error(), self._connection.cursor("export", binary=True) as cursor:
            cursor.itersize = EXPORT_FETCH_ROWS
            cursor.execute('SELECT item_id, item FROM items ORDER BY item_id COLLATE "C"')
            for item_id, item in cursor:
                yield item_id, bytes(item)


def _check_encoding(connection: psycopg.Connection[Any]) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise FailedPrecondition(
            "CATALOG_ENCODING",
            f"the database has encoding {encoding}; create it with ENCODING 'UTF8'",
            expected="UTF8",
            got=encoding,
        )


@contextmanager
def _as_catalog_error() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        raise catalog_failed((str(exc).strip() or type(exc).__name__).splitlines()[0]) from exc
