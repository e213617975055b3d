"""Peers within their client's process: LanceDB; and hnswlib, usearch and FAISS, vectors alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from benchmarks.peer_engines import (
    TOP_K,
    VALUES_MAX,
    Corpus,
    Effort,
    EngineOptions,
    Floats,
    Found,
    Search,
    Variant,
    versions_of,
)

_BATCH = 10_000


class _InClient:
    """An engine without a server."""

    def process_ids(self) -> list[int]:
        """Return none."""
        return []

    def close(self) -> None:
        """Do nothing."""


class LanceDb(_InClient):
    """One table with an IVF_HNSW_SQ index in one partition.

    Source: LanceDB's documentation of `HnswSq`: one partition works well for most tables; and of
    `refine_factor`: candidates for a factor as many hits are scored again with full vectors.
    """

    variants = (
        Variant("unrefined", "ef"),
        Variant("refine_factor 2", "ef", 2 * TOP_K),
        Variant("refine_factor 5", "ef", 5 * TOP_K),
    )

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        import lancedb

        self._options, self._lancedb = options, lancedb
        self._effort = Effort("unrefined", VALUES_MAX)
        self._columns = list(Found._fields)
        self.versions = versions_of("lancedb", "pyarrow")
        self.settings: dict[str, Any] = {
            "distance_type": "dot",
            "num_partitions": 1,
            "m": options.m,
            "ef_construction": options.ef_construction,
        }

    def load(self, corpus: Corpus) -> None:
        """Write all items as a table, then make its index."""
        import pyarrow as pa
        from lancedb.index import HnswSq

        texts = [pa.field(name, pa.string()) for name in self._columns]
        wide = pa.list_(pa.float32(), self._options.dim)
        schema = pa.schema([*texts, pa.field("vector", wide)])

        def batches() -> Iterator[Any]:
            for batch, vectors in corpus.batches(_BATCH):
                columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
                values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=wide)
                yield pa.record_batch([*columns, values], schema=schema)

        database = self._lancedb.connect(str(self._options.folder))
        table = database.create_table("items", data=batches(), schema=schema)
        table.create_index("vector", config=HnswSq(**self.settings))

    def open(self) -> None:
        """Open the table."""
        self._table = self._lancedb.connect(str(self._options.folder)).open_table("items")

    def tune(self, effort: Effort) -> None:
        """Keep ef and refine_factor for the searches to come."""
        self._effort = effort

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search of the one table, which is safe to share."""
        effort = self._effort
        factor = {"refine_factor 2": 2, "refine_factor 5": 5}.get(effort.variant)

        def search(vector: Floats) -> Sequence[Found]:
            asked = self._table.search(vector, vector_column_name="vector").distance_type("dot")
            # Selecting columns without the distance writes a warning for every search.
            asked = asked.ef(effort.value).nprobes(1).limit(TOP_K)
            asked = asked.select([*self._columns, "_distance"])
            if factor:
                asked = asked.refine_factor(factor)
            return [Found(*(row[name] for name in self._columns)) for row in asked.to_list()]

        yield search


class Hnswlib(_InClient):
    """hnswlib's HNSW over float32 vectors, searched by one thread."""

    variants = (Variant("hnsw", "ef"),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        from hnswlib import Index

        self._options, self._kind = options, Index
        self._file = str(options.folder / "index.hnswlib")
        self.versions = versions_of("hnswlib")
        self.settings = {"M": options.m, "ef_construction": options.ef_construction}

    def load(self, corpus: Corpus) -> None:
        """Build on all cores."""
        index = self._kind(space="ip", dim=self._options.dim)
        index.init_index(max_elements=self._options.items, **self.settings)
        index.add_items(np.array(corpus.vectors), num_threads=self._options.cores)
        index.save_index(self._file)

    def open(self) -> None:
        """Load the index."""
        self._index = self._kind(space="ip", dim=self._options.dim)
        self._index.load_index(self._file)

    def tune(self, effort: Effort) -> None:
        """Set ef."""
        self._index.set_ef(effort.value)

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search that gives rows for ids."""
        yield lambda vector: _rows(self._index.knn_query(vector, TOP_K, num_threads=1)[0][0])


class Usearch(_InClient):
    """usearch's HNSW over float32 vectors, searched by one thread."""

    variants = (Variant("hnsw", "expansion_search"),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        from usearch.index import Index

        self._options, self._kind = options, Index
        self._file = options.folder / "index.usearch"
        self.versions = versions_of("usearch")
        self.settings = {"connectivity": options.m, "expansion_add": options.ef_construction}

    def load(self, corpus: Corpus) -> None:
        """Build on all cores."""
        index = self._kind(ndim=self._options.dim, metric="ip", dtype="f32", **self.settings)
        vectors = corpus.vectors
        index.add(np.arange(len(vectors)), np.array(vectors), threads=self._options.cores)
        index.save(str(self._file))

    def open(self) -> None:
        """Load the index."""
        self._index = self._kind.restore(str(self._file))

    def tune(self, effort: Effort) -> None:
        """Set expansion_search."""
        self._index.expansion_search = effort.value

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search that gives rows for ids."""
        yield lambda vector: _rows(self._index.search(vector, TOP_K, threads=1).keys)


class FaissHnswFlat(_InClient):
    """FAISS's HNSW over float32 vectors, searched by one thread."""

    variants: tuple[Variant, ...] = (Variant("hnsw", "efSearch"),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        import faiss

        self._options, self._faiss = options, faiss
        self._file = str(options.folder / "index.faiss")
        self._asked: Any = None
        self.versions = versions_of("faiss-cpu")
        self.settings: dict[str, Any] = {
            "m": options.m,
            "ef_construction": options.ef_construction,
        }

    def load(self, corpus: Corpus) -> None:
        """Build on all cores."""
        self._faiss.omp_set_num_threads(self._options.cores)
        index = self._empty()
        index.add(np.array(corpus.vectors))
        self._faiss.write_index(index, self._file)

    def open(self) -> None:
        """Load the index; search it on one thread."""
        self._faiss.omp_set_num_threads(1)
        self._index = self._faiss.read_index(self._file)

    def tune(self, effort: Effort) -> None:
        """Keep efSearch for the searches to come."""
        self._asked = self._faiss.SearchParametersHNSW(efSearch=effort.value)

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search that gives rows for ids."""
        yield lambda vector: _rows(
            self._index.search(vector[np.newaxis], TOP_K, params=self._asked)[1][0]
        )

    def _empty(self) -> Any:
        index = self._faiss.IndexHNSWFlat(
            self._options.dim, self._options.m, self._faiss.METRIC_INNER_PRODUCT
        )
        index.hnsw.efConstruction = self._options.ef_construction
        return index


class FaissFlat(FaissHnswFlat):
    """FAISS's exact search, by one thread."""

    variants = (Variant("exact", "", 0, 0),)

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""
        super().__init__(options)
        self.settings = {}

    def tune(self, effort: Effort) -> None:
        """Do nothing: an exact search has no parameter."""

    def _empty(self) -> Any:
        return self._faiss.IndexFlatIP(self._options.dim)


def _rows(found: Any) -> Sequence[Found]:
    return [Found(str(row), "", "") for row in found.tolist()]
