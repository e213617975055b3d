"""What the gateway and the build stages need of a catalogue, whichever database keeps it.

`CatalogStore` answers the gateway: a few items by id, never blocking the event loop, never waiting
long. `BulkCatalog` serves the processes that write and export whole catalogues.

Every change of an item takes the next sequence number, and both databases keep the number of an
item's latest change, removals included. The changes after a number are therefore the rows with a
larger one: the compacted change log that shards follow.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import xxhash

from gateway.catalog.item import AttributeKind
from rpc.errors import FailedPrecondition, InvalidArgument, Unavailable

SCHEMA_VERSION = 1
ALLOWED_URLS = "sqlite:///ABSOLUTE/PATH or postgresql://USER@HOST:PORT/DATABASE"


@dataclass(frozen=True, slots=True)
class CatalogSize:
    """How many items there are, and the number of the newest change (0: never changed)."""

    items: int
    seq: int


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How long a catalogue is waited for, and how many connections it is asked over."""

    connect_timeout_s: float = 1.0
    query_timeout_s: float = 2.0
    # After a failure, further calls fail at once for this long; then one tries again.
    retry_after_s: float = 0.5
    connections_max: int = 4


class CatalogStore(Protocol):
    """Items by id, for a service's event loop.

    Raises:
        Unavailable: (every method) the database does not answer in time; reason CATALOG_DOWN. The
            store recovers by itself once the database is back.
    """

    kind: str

    def items_at_hand(self, item_ids: Sequence[str]) -> dict[str, bytes] | None:
        """Return what `get_items` would where that takes no wait; else None. Never raises."""

    async def get_items(self, item_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized vitrine.v1.Item of each id; unknown ids are absent."""

    async def size(self) -> CatalogSize:
        """Return the number of items and the newest sequence number."""

    async def close(self) -> None:
        """Let go of all connections."""


class Snapshot(Protocol):
    """The whole catalogue as of one sequence number, whatever is written meanwhile."""

    catalog_id: str
    size: CatalogSize

    def iter_items_sorted(self) -> Iterator[tuple[str, bytes]]:
        """Yield (item_id, serialized item) in UTF-8 byte order of item_id."""


class BulkCatalog(Protocol):
    """Writes and reads whole catalogues, one process at a time, in bounded memory.

    Raises:
        Unavailable: (every method) the database failed; reason CATALOG_DOWN.
    """

    kind: str

    def upsert_many(
        self, batch: Sequence[tuple[str, bytes]], new_attributes: Mapping[str, AttributeKind]
    ) -> int:
        """Write items (each id once) and the attributes first seen in them, in one transaction.

        An item whose bytes are already stored keeps its sequence number.

        Returns:
            How many items changed.
        """

    def mark_seen(self, item_ids: Sequence[str]) -> set[str]:
        """Remember ids for this connection; return those it had been told before."""

    def delete_unseen(self) -> int:
        """Remove every item that was not marked as seen; return how many there were."""

    def read_schema(self) -> dict[str, AttributeKind]:
        """Return the kind of every attribute by name."""

    def clear_schema(self) -> None:
        """Forget all attributes: before a replacement brings its own."""

    def size(self) -> CatalogSize:
        """Return the number of items and the newest sequence number."""

    def transaction(self) -> AbstractContextManager[None]:
        """Make all writes inside it appear at once, or not at all."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open an unchanging view of the whole catalogue."""

    def close(self) -> None:
        """Let go of the connection."""


def open_catalog(url: str, limits: StoreLimits | None = None) -> CatalogStore:
    """Return the store behind a URL; it connects when first asked.

    Raises:
        InvalidArgument: the URL names no known kind of database.
    """
    limits = limits or StoreLimits()
    if _scheme_of(url) == "sqlite":
        from gateway.catalog.sqlite import SqliteCatalog, path_of

        return SqliteCatalog(path_of(url), limits)
    from gateway.catalog.postgres import PostgresCatalog

    return PostgresCatalog(url, limits)


def open_bulk_catalog(url: str) -> BulkCatalog:
    """Open a catalogue for whole reads and writes; makes its tables when it has none.

    Raises:
        InvalidArgument: the URL names no known kind of database.
        Unavailable: the database cannot be reached.
        FailedPrecondition: the tables are of another version of this software.
    """
    if _scheme_of(url) == "sqlite":
        from gateway.catalog.sqlite import path_of
        from gateway.catalog.sqlite_bulk import SqliteBulkCatalog

        return SqliteBulkCatalog(path_of(url))
    from gateway.catalog.postgres_bulk import PostgresBulkCatalog

    return PostgresBulkCatalog(url)


def content_hash(item: bytes) -> bytes:
    """Return the 16 bytes that tell whether a stored item changed."""
    return xxhash.xxh3_128_digest(item)


def check_schema_version(version: int) -> None:
    """Refuse tables that this software does not know.

    Raises:
        FailedPrecondition: they are of another version.
    """
    if version != SCHEMA_VERSION:
        raise FailedPrecondition(
            "CATALOG_VERSION",
            f"the catalogue has schema version {version}; this software reads version "
            f"{SCHEMA_VERSION}: use the software that wrote it, or ingest into a new catalogue",
            expected=SCHEMA_VERSION,
            got=version,
        )


def check_kinds(stored: Mapping[str, AttributeKind], written: Mapping[str, AttributeKind]) -> None:
    """Refuse attributes that the catalogue knows as another kind.

    Raises:
        FailedPrecondition: names the first such attribute.
    """
    for name, kind in written.items():
        if (known := stored.get(name, kind)) != kind:
            message = f"attribute {name} is a {kind} here and a {known} in the catalogue"
            raise FailedPrecondition("ATTRIBUTE_KIND", message, expected=known, got=kind)


def catalog_down(detail: object) -> Unavailable:
    """Return the error of a database that does not answer."""
    return Unavailable("CATALOG_DOWN", f"the catalogue does not answer: {detail}")


def catalog_failed(detail: object) -> Unavailable:
    """Return the error of a database that gave up in the middle of a whole read or write."""
    return Unavailable(
        "CATALOG_DOWN", f"the catalogue failed: {detail}; once that is put right, run this again"
    )


def _scheme_of(url: str) -> str:
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return scheme
    if scheme in ("postgresql", "postgres"):
        return "postgres"
    raise InvalidArgument("catalog", _without_password(url), ALLOWED_URLS)


def _without_password(url: str) -> str:
    return url if "@" not in url else f"...@{url.rsplit('@', 1)[1]}"
