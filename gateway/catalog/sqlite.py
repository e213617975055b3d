"""The catalogue in one SQLite file, read by a service's event loop."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import orjson

from gateway.catalog.store import (
    CatalogSize,
    StoreLimits,
    catalog_down,
    check_schema_version,
)
from rpc.deadlines import Alarms
from rpc.errors import InvalidArgument, VitrineError
from rpc.threads import Threads

T = TypeVar("T")

_READ_ITEMS = "SELECT item_id, item FROM items WHERE item_id IN ({})"
# A page's items are asked by parameters, which SQLite has a statement ready for; many as one list.
_PARAMETERS_MAX = 100
_MANY = "SELECT value FROM json_each(?)"
_PREFIX = "sqlite://"
# The event loop reads a page of items itself, which is sooner done than handed to a thread and
# back. After a read that was not short, the file being slow or cold, the thread reads for a while.
_SHORT_READ_S = 0.002
_LOOP_SPARED_S = 1.0
_LOCK_TIMEOUT_S = 1.0


class SqliteCatalog:
    """Answers from two read-only connections: one of the event loop, one of a thread.

    What takes a wait (many items, a lock, a slow disk, a file that is gone) is the thread's. The
    file may appear, vanish and be replaced while the store is open.
    """

    kind = "sqlite"

    def __init__(self, path: Path, limits: StoreLimits) -> None:
        self._limits = limits
        self._at_hand = _Reader(path, lock_timeout_s=0.0)
        self._loop_spared_until_s = 0.0
        self._reader = _Reader(path, _LOCK_TIMEOUT_S)
        self._alarms = Alarms()
        self._thread = Threads("catalog-sqlite", 1)

    def items_at_hand(self, item_ids: Sequence[str]) -> dict[str, bytes] | None:
        """Return the items when there are few and reading is fast just now; else None."""
        started_s = time.monotonic()
        if len(item_ids) > _PARAMETERS_MAX or started_s < self._loop_spared_until_s:
            return None
        try:
            return self._at_hand.get_items(item_ids)
        except (sqlite3.Error, OSError, VitrineError):
            return None  # the thread finds out why, and waits if that helps
        finally:
            now_s = time.monotonic()
            if now_s - started_s > _SHORT_READ_S:
                self._loop_spared_until_s = now_s + _LOOP_SPARED_S

    async def get_items(self, item_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized items by id; unknown ids are absent."""
        return await self._ask(lambda: self._reader.get_items(item_ids))

    async def size(self) -> CatalogSize:
        """Return the number of items and the newest sequence number."""
        return await self._ask(self._reader.size)

    async def close(self) -> None:
        """Close the connections; a read in progress is interrupted."""
        self._alarms.close()
        self._at_hand.close()
        self._reader.interrupt()
        self._thread.run(self._reader.close)
        self._thread.close()

    async def _ask(self, read: Callable[[], T]) -> T:
        timeout_s = self._limits.query_timeout_s
        reading = self._thread.run(read)
        try:
            return await self._alarms.within(reading, timeout_s)
        except TimeoutError as exc:
            self._reader.interrupt()
            raise catalog_down(f"no answer from SQLite within {timeout_s} s") from exc
        except (sqlite3.Error, OSError) as exc:
            raise catalog_down(exc) from exc


class _Reader:
    """A connection, used from one thread only (but for `interrupt`)."""

    def __init__(self, path: Path, lock_timeout_s: float) -> None:
        self._path = path
        self._lock_timeout_s = lock_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] = (0, 0)

    def get_items(self, item_ids: Sequence[str]) -> dict[str, bytes]:
        if len(item_ids) <= _PARAMETERS_MAX:
            statement, asked = _READ_ITEMS.format(",".join("?" * len(item_ids))), tuple(item_ids)
        else:
            statement, asked = _READ_ITEMS.format(_MANY), (orjson.dumps(list(item_ids)).decode(),)
        return dict(self._connected().execute(statement, asked).fetchall())

    def size(self) -> CatalogSize:
        row = self._connected().execute("SELECT items, seq FROM catalog_state").fetchone()
        return CatalogSize(*row)

    def interrupt(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        """Return a connection to the file that bears the name now."""
        found = self._path.stat()
        if self._connection is None or self._file != (found.st_dev, found.st_ino):
            self.close()
            self._connection = self._connect()
            self._file = (found.st_dev, found.st_ino)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=self._lock_timeout_s,
            # Made and used on one thread; closed and interrupted from another.
            check_same_thread=False,
        )
        try:
            version = connection.execute("SELECT schema_version FROM catalog_state").fetchone()
            check_schema_version(version[0])
        except BaseException:
            connection.close()
            raise
        return connection


def path_of(url: str) -> Path:
    """Return the file that a catalogue URL names.

    Raises:
        InvalidArgument: it names no absolute path.

    >>> path_of("sqlite:///data/catalog.sqlite").as_posix()
    '/data/catalog.sqlite'
    """
    path = url.removeprefix(_PREFIX)
    if not path.startswith("/") or not path.strip("/"):
        raise InvalidArgument("catalog", url, "sqlite:///ABSOLUTE/PATH")
    return Path("/" + path.lstrip("/"))
