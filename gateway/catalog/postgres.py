"""The catalogue in PostgreSQL (or what speaks its protocol), read by a service's event loop."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from gateway.catalog.store import (
    CatalogSize,
    StoreLimits,
    catalog_down,
    check_schema_version,
)
from rpc.errors import Unavailable

Rows = list[tuple[Any, ...]]
WAITING_MAX = 256


class PostgresCatalog:
    """Answers over a pool of connections, and fails at once while the server is known to be down.

    Whatever the server does (stopped, frozen, cut off), a call ends within
    `limits.query_timeout_s`: a query that does not come back is left to end on its own.
    """

    kind = "postgres"

    def __init__(self, url: str, limits: StoreLimits) -> None:
        self._url = url
        self._limits = limits
        self._pool: AsyncConnectionPool | None = None
        self._version_checked = False
        self._down_until_s = 0.0
        self._queries: set[asyncio.Task[Rows]] = set()

    def items_at_hand(self, item_ids: Sequence[str]) -> None:
        """Return None: a server is always waited for."""

    async def get_items(self, item_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the serialized items by id; unknown ids are absent."""
        query: LiteralString = "SELECT item_id, item FROM items WHERE item_id = ANY(%s)"
        return {item_id: bytes(item) for item_id, item in await self._ask(query, (list(item_ids),))}

    async def size(self) -> CatalogSize:
        """Return the number of items and the newest sequence number."""
        rows = await self._ask("SELECT items, seq FROM catalog_state", ())
        return CatalogSize(*rows[0])

    async def close(self) -> None:
        """Close all connections; queries in flight are cancelled."""
        for query in self._queries:
            query.cancel()
        if self._pool is not None:
            await self._pool.close(timeout=self._limits.connect_timeout_s)

    async def _ask(self, query: LiteralString, parameters: tuple[Any, ...]) -> Rows:
        """Run one query within its time, unless the server failed moments ago."""
        if time.monotonic() < self._down_until_s:
            raise catalog_down("it failed moments ago and is left alone until it is tried again")
        try:
            return await self._within_time(query, parameters)
        except Unavailable:
            self._down_until_s = time.monotonic() + self._limits.retry_after_s
            raise

    async def _within_time(self, query: LiteralString, parameters: tuple[Any, ...]) -> Rows:
        timeout_s = self._limits.query_timeout_s
        # A task of its own: cancelling a psycopg query waits for the server, and we do not.
        running = asyncio.create_task(self._run_retrying(query, parameters))
        self._queries.add(running)
        running.add_done_callback(self._forget)
        try:
            done, _ = await asyncio.wait({running}, timeout=timeout_s)
        finally:
            running.cancel()
        if not done:
            raise catalog_down(f"no answer from PostgreSQL within {timeout_s} s")
        try:
            return running.result()
        except (psycopg.Error, PoolTimeout, TooManyRequests, PoolClosed, OSError) as exc:
            raise catalog_down(_first_line(exc)) from exc

    async def _run_retrying(self, query: LiteralString, parameters: tuple[Any, ...]) -> Rows:
        """Run a query; once more when its connection turns out to have died while idle."""
        pool = await self._opened_pool()
        try:
            return await self._run(pool, query, parameters)
        except psycopg.OperationalError:
            await pool.check()
            return await self._run(pool, query, parameters)

    async def _run(
        self, pool: AsyncConnectionPool, query: LiteralString, parameters: tuple[Any, ...]
    ) -> Rows:
        async with pool.connection() as connection:
            if not self._version_checked:
                found = await connection.execute("SELECT schema_version FROM catalog_state")
                check_schema_version((await found.fetchall())[0][0])
                self._version_checked = True
            cursor = await connection.execute(query, parameters, binary=True)
            return await cursor.fetchall()

    async def _opened_pool(self) -> AsyncConnectionPool:
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._url,
                open=False,
                min_size=0,
                max_size=self._limits.connections_max,
                max_waiting=WAITING_MAX,
                timeout=self._limits.connect_timeout_s,
                # Attempts end with the caller's patience; the next caller starts a new one.
                reconnect_timeout=self._limits.connect_timeout_s,
                kwargs=_connection_options(self._limits),
                name="catalog-postgres",
            )
        await self._pool.open(wait=False)
        return self._pool

    def _forget(self, query: asyncio.Task[Rows]) -> None:
        self._queries.discard(query)
        if not query.cancelled():
            query.exception()  # a query given up on: its error has been told already


def _connection_options(limits: StoreLimits) -> dict[str, Any]:
    query_timeout_ms = int(limits.query_timeout_s * 1000)
    return {
        "autocommit": True,
        # libpq counts in whole seconds and takes 1 for 2.
        "connect_timeout": max(2, round(limits.connect_timeout_s)),
        "options": f"-c statement_timeout={query_timeout_ms} -c default_transaction_read_only=on",
        "application_name": "vitrine-gateway",
        # A server that vanished without a word is noticed by its silence.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
