"""This project's own index in a peer's place within its client's process: vectors in, ids out."""

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
from gateway.merge import Hits, merge
from index_service.generation.manifest import read_manifest, shard_folder
from index_service.planner import PlanLimits
from index_service.query import Query
from index_service.segment import Segment
from index_service.shard import search_segment

AS_PROMOTED = Variant("as promoted", "", 0, 0)


class OwnShards:
    """All shards of a generation, whose folder the options name, searched by one thread."""

    variants = (AS_PROMOTED, Variant("hnsw", "ef_search"))

    def __init__(self, options: EngineOptions) -> None:
        """Read the manifest."""
        self._folder = options.folder
        self._manifest = read_manifest(options.folder)
        self._ef_search = 0
        self.versions = versions_of("faiss-cpu")
        self.settings: dict[str, Any] = {"m": options.m, "ef_construction": options.ef_construction}

    def load(self, corpus: Corpus) -> None:
        """Do nothing: the generation was built before."""

    def open(self) -> None:
        """Map the shards."""
        manifest = self._manifest
        self._segments = [
            Segment.open_unfiltered(
                self._folder / shard_folder(entry.shard),
                entry.items,
                manifest.encoder.dim,
                manifest.faiss_version,
            )
            for entry in manifest.shards
        ]

    def tune(self, effort: Effort) -> None:
        """Keep ef_search for the searches to come; none: as the gate says."""
        self._ef_search = 0 if effort.variant == AS_PROMOTED.name else effort.value

    @contextmanager
    def searcher(self) -> Iterator[Search]:
        """Return a search of one shard after the other."""
        ef_search, effort, limits = self._ef_search, self._manifest.gate.effort, PlanLimits()

        def search(vector: Floats) -> Sequence[Found]:
            query = Query(embedding=vector, fetch_k=TOP_K, ef_search=ef_search)
            found = [
                search_segment(segment, [query], effort, limits, _never)[0]
                for segment in self._segments
            ]
            hits = merge((Hits(tuple(f.item_ids), tuple(f.scores.tolist())) for f in found), TOP_K)
            return [Found(item_id, "", "") for item_id in hits.item_ids]

        yield search

    def process_ids(self) -> list[int]:
        """Return none."""
        return []

    def close(self) -> None:
        """Do nothing."""


def _never() -> None:
    """Never stop."""
