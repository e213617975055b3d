"""Peers that are servers of their own: Chroma and Milvus Lite."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.peer_engines import (
    TOP_K,
    Absent,
    Corpus,
    Effort,
    EngineOptions,
    Floats,
    Found,
    Search,
    Variant,
    versions_of,
)

T = TypeVar("T")
_START_S, _STOP_S = 120.0, 600.0
_NAME = "items"


class Chroma:
    """`chroma run` and its HTTP client.

    Source: Chroma's documentation, "Configure": the collection's HNSW parameters, of which
    ef_search can be changed later. A running server goes on with the value that it loaded the
    index with, so a change is followed by a start.
    """

    variants = (Variant("hnsw", "ef_search"),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        import chromadb
        from chromadb.config import Settings

        self._options = options
        self._server: subprocess.Popen[bytes] | None = None
        self._effort: Effort | None = None
        settings = Settings(anonymized_telemetry=False)
        self._connect = lambda: chromadb.HttpClient("127.0.0.1", options.port, settings=settings)
        self.versions = versions_of("chromadb")
        self._hnsw = {
            "space": "ip",
            "max_neighbors": options.m,
            "ef_construction": options.ef_construction,
        }
        self.settings = {**self._hnsw, "transport": "HTTP, one client for all threads"}

    def load(self, corpus: Corpus) -> None:
        """Add all items; what was added is indexed by the time that a query is answered."""
        client = self._start()
        items = client.create_collection(
            _NAME, configuration={"hnsw": self._hnsw}, embedding_function=None
        )
        for batch, vectors in corpus.batches(client.get_max_batch_size()):
            items.add(
                ids=[item.item_id for item in batch],
                embeddings=vectors,
                metadatas=[{"title": i.title, "attributes": i.attributes} for i in batch],
            )
        items.query(query_embeddings=[corpus.vectors[0]], n_results=TOP_K)

    def open(self) -> None:
        """Start the server."""
        self._items = self._start().get_collection(_NAME, embedding_function=None)

    def tune(self, effort: Effort) -> None:
        """Change the collection, and start the server anew where that is a change."""
        if effort == self._effort:
            return
        self._items.modify(configuration={"hnsw": {"ef_search": effort.value}})
        self.close()
        self.open()
        self._effort = effort

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search through the one client, which is safe to share."""
        yield self._search

    def process_ids(self) -> list[int]:
        """Return the server."""
        return [self._server.pid] if self._server else []

    def close(self) -> None:
        """Stop the server."""
        stop(self._server)

    def _search(self, vector: Floats) -> Sequence[Found]:
        found = self._items.query(
            query_embeddings=[vector], n_results=TOP_K, include=["metadatas", "distances"]
        )
        return [
            Found(item_id, kept["title"], kept["attributes"])
            for item_id, kept in zip(found["ids"][0], found["metadatas"][0], strict=True)
        ]

    def _start(self) -> Any:
        folder, port = self._options.folder, self._options.port
        self._server = start(
            "chroma", "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)
        )
        return answering(self._server, self._connect)


class MilvusLite:
    """`milvus-lite server` and pymilvus.

    Source: Milvus Lite's README, "Standalone gRPC Server": the mode for a long-running process with
    more than one client. Its index is FAISS's HNSW, one for each segment of up to 100,000 rows.
    """

    variants = (Variant("hnsw", "ef"),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        import milvus_lite  # noqa: F401
        from pymilvus import DataType, MilvusClient

        self._options, self._types = options, DataType
        self._server: subprocess.Popen[bytes] | None = None
        self._new_client: Callable[[], Any] = lambda: MilvusClient(
            f"http://127.0.0.1:{options.port}"
        )
        self._client: Any = None
        self._ef = TOP_K
        self.versions = versions_of("milvus-lite", "pymilvus", "faiss-cpu")
        self._index = {"M": options.m, "efConstruction": options.ef_construction}
        self.settings = {"index_type": "HNSW", "metric_type": "IP", **self._index}

    def load(self, corpus: Corpus) -> None:
        """Insert all items, flush them to segments, index those."""
        from pymilvus import MilvusException

        client = self._start()
        client.create_collection(_NAME, schema=self._schema(client))
        for batch, vectors in corpus.batches(1_000):
            rows = [
                {**item._asdict(), "vector": vector}
                for item, vector in zip(batch, vectors, strict=True)
            ]
            client.insert(_NAME, rows)
        client.flush(_NAME)
        # Segments are merged in the background, which ends before the server does: indexes are
        # of what remains.
        self.close()
        client = self._start()
        index = client.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="IP", params=self._index)
        try:
            client.create_index(_NAME, index)
        except MilvusException:
            # While indexes are built the server breaks off a connection that is pinged too often;
            # the client asks once more, and is told that they are there already.
            if not client.list_indexes(_NAME):
                raise
        client.load_collection(_NAME)

    def open(self) -> None:
        """Start the server and have it load the collection."""
        self._start().load_collection(_NAME)

    def tune(self, effort: Effort) -> None:
        """Keep ef for the searches to come."""
        self._ef = effort.value

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search through the one client, which is safe to share."""
        asked = {"metric_type": "IP", "params": {"ef": self._ef}}

        def search(vector: Floats) -> Sequence[Found]:
            [hits] = self._client.search(
                _NAME,
                data=[vector],
                limit=TOP_K,
                search_params=asked,
                output_fields=["title", "attributes"],
            )
            return [
                Found(hit["item_id"], hit["entity"]["title"], hit["entity"]["attributes"])
                for hit in hits
            ]

        yield search

    def process_ids(self) -> list[int]:
        """Return the server."""
        return [self._server.pid] if self._server else []

    def close(self) -> None:
        """Stop the server, its client first."""
        if self._client is not None:
            self._client.close()
        stop(self._server)

    def _connect(self) -> Any:
        client = self._new_client()
        # A client may come with the connection of an earlier one, to a server not up yet.
        client.list_collections()
        return client

    def _schema(self, client: Any) -> Any:
        schema = client.create_schema(auto_id=False)
        texts = self._types.VARCHAR
        schema.add_field("item_id", texts, is_primary=True, max_length=256)
        schema.add_field("title", texts, max_length=65_535)
        schema.add_field("attributes", texts, max_length=65_535)
        schema.add_field("vector", self._types.FLOAT_VECTOR, dim=self._options.dim)
        return schema

    def _start(self) -> Any:
        folder, port = self._options.folder / "data", self._options.port
        self._server = start(
            "milvus-lite", "server", "--data-dir", str(folder), "--host", "127.0.0.1",
            "--port", str(port),
        )  # fmt: skip
        self._client = answering(self._server, self._connect)
        return self._client


def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a program that lies beside this interpreter."""
    path = Path(sys.executable).parent / program
    return subprocess.Popen([path, *arguments], stdout=subprocess.DEVNULL)


def answering(server: subprocess.Popen[bytes], connect: Callable[[], T]) -> T:
    """Return what `connect` returns as soon as a server lets it.

    Raises:
        Absent: the server ended, or does not answer in time.
    """
    stop_s, last = time.monotonic() + _START_S, ""
    while time.monotonic() < stop_s:
        if server.poll() is not None:
            raise Absent(f"the server ended with status {server.returncode}")
        try:
            return connect()
        except Exception as exc:  # each library has errors of its own for a server not up yet
            last = str(exc)
            time.sleep(0.2)
    stop(server)
    raise Absent(f"the server does not answer: {last}")


def stop(server: subprocess.Popen[bytes] | None) -> None:
    """Stop a server as Ctrl-C does, which lets it finish what it is at; wait for its end."""
    if server is None:
        return
    server.send_signal(signal.SIGINT)
    try:
        server.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
