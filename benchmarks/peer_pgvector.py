"""PostgreSQL with pgvector, from the pgserver package: a server without a package manager."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.peer_engines import (
    TOP_K,
    Corpus,
    Effort,
    EngineOptions,
    Floats,
    Found,
    Search,
    Variant,
    versions_of,
)

_BATCH = 5_000
_LINK_BYTES = 8
_MIB = 2**20
_SEARCH = f"SELECT item_id, title, attributes FROM items ORDER BY embedding <#> %b LIMIT {TOP_K}"


class Pgvector:
    """One table with an HNSW index, one connection a caller over the server's socket.

    Source: pgvector's README: inner product for normalized vectors, COPY in binary before the index
    is made, maintenance_work_mem that the graph fits into, parallel workers. PostgreSQL's manual:
    a quarter of the memory for shared_buffers.
    """

    variants = (Variant("hnsw", "hnsw.ef_search"),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the libraries."""
        import pgserver
        import psycopg
        from pgvector.psycopg import register_vector

        self._options, self._ef_search = options, TOP_K
        self._pgserver, self._psycopg, self._register = pgserver, psycopg, register_vector
        self._server: Any = None
        self.versions = versions_of("pgserver", "pgvector", "psycopg")
        self.settings: dict[str, Any] = {
            "shared_buffers": f"{_memory_bytes() // 4 // _MIB}MB",
            "maintenance_work_mem": f"{_graph_bytes(options) // _MIB + 64}MB",
            "max_parallel_maintenance_workers": str(max(0, options.cores - 1)),
        }

    def load(self, corpus: Corpus) -> None:
        """Copy all items into a table, then make its index."""
        self._start()
        with self._connection() as connection:
            for name, value in self.settings.items():
                connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            connection.execute("CREATE EXTENSION vector")
        # shared_buffers need a start.
        self.close()
        self._start()
        with self._connection() as connection:
            self._register(connection)
            # It says so when a graph does not fit into maintenance_work_mem.
            connection.add_notice_handler(lambda told: print(told.message_primary, file=sys.stderr))
            connection.execute(
                "CREATE TABLE items (item_id text PRIMARY KEY, title text, attributes text, "
                f"embedding vector({self._options.dim}))"
            )
            self._copy(connection, corpus)
            connection.execute(
                "CREATE INDEX ON items USING hnsw (embedding vector_ip_ops) "
                f"WITH (m = {self._options.m}, ef_construction = {self._options.ef_construction})"
            )
            connection.execute("ANALYZE items")

    def open(self) -> None:
        """Start the server."""
        self._start()
        with self._connection() as connection:
            self.versions |= dict(
                connection.execute(
                    "SELECT 'extension ' || extname, extversion FROM pg_extension "
                    "WHERE extname = 'vector' UNION "
                    "SELECT 'postgresql', current_setting('server_version')"
                ).fetchall()
            )

    def tune(self, effort: Effort) -> None:
        """Keep hnsw.ef_search for the connections to come."""
        self._ef_search = effort.value

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search with a connection of its own and a prepared statement."""
        with self._connection() as connection:
            self._register(connection)
            connection.execute(f"SET hnsw.ef_search = {self._ef_search}")

            def search(vector: Floats) -> Sequence[Found]:
                rows = connection.execute(_SEARCH, (vector,), prepare=True).fetchall()
                return [Found(*row) for row in rows]

            yield search

    def process_ids(self) -> list[int]:
        """Return the server; its workers are its children."""
        return [self._server.get_pid()] if self._server else []

    def close(self) -> None:
        """Stop the server."""
        if self._server:
            self._server.cleanup()
            self._server = None

    def _start(self) -> None:
        self._options.folder.mkdir(parents=True, exist_ok=True)
        self._server = self._pgserver.get_server(self._options.folder / "data")

    def _connection(self) -> Any:
        return self._psycopg.connect(self._server.get_uri(), autocommit=True)

    def _copy(self, connection: Any, corpus: Corpus) -> None:
        into = "COPY items (item_id, title, attributes, embedding) FROM STDIN (FORMAT BINARY)"
        with connection.cursor() as cursor, cursor.copy(into) as copy:
            copy.set_types(["text", "text", "text", "vector"])
            for batch, vectors in corpus.batches(_BATCH):
                for item, vector in zip(batch, vectors, strict=True):
                    copy.write_row((*item, vector))


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _graph_bytes(options: EngineOptions) -> int:
    """Return about what a graph takes while it is built: vectors, links, and half as much again.

    A node has 2 m links on the lowest layer and m on every other, each a pointer and a distance.
    """
    links = 3 * options.m * 2 * _LINK_BYTES
    return int(1.5 * options.items * (4 * options.dim + links))
