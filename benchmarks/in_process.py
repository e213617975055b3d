"""The same encoder and the same index in one process: what no network and no gateway would give."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import faiss
import orjson

from encoder_service.bundle import load_bundle
from encoder_service.encoder import Encoder, load_encoder
from gateway.merge import Hits, merge
from index_service.generation.manifest import read_manifest, shard_folder
from index_service.planner import PlanLimits
from index_service.query import Query
from index_service.segment import Segment
from index_service.shard import search_segment
from rpc.active import read_active


class InProcess:
    """Encodes a query, searches every shard of the promoted generation in turn, merges."""

    def __init__(self, home: Path) -> None:
        generations = home / "generations"
        folder = generations / f"{read_active(str(generations)).generation:06d}"
        manifest = read_manifest(folder)
        self.effort = manifest.gate.effort
        self.items = manifest.items
        self.encoder: Encoder = load_encoder(
            load_bundle(home / "bundles" / manifest.encoder.encoder_id)
        )
        self._segments = [
            Segment.open(
                folder / shard_folder(entry.shard),
                entry.items,
                manifest.encoder.dim,
                manifest.faiss_version,
            )
            for entry in manifest.shards
        ]
        self._limits = PlanLimits()

    def search(self, text: str, top_k: int = 10) -> Hits:
        """Return the best hits for a text."""
        query = Query(embedding=self.encoder.encode([text])[0], fetch_k=top_k)
        found = (
            search_segment(segment, [query], self.effort, self._limits, _never)[0]
            for segment in self._segments
        )
        return merge((Hits(tuple(f.item_ids), tuple(f.scores.tolist())) for f in found), top_k)

    def searches_a_second(self, texts: Sequence[str], threads: int, seconds: float) -> float:
        """Return how many searches all threads together do a second, each query once."""
        lock, remaining, counts = threading.Lock(), iter(texts), [0] * threads
        stop_s = time.perf_counter() + seconds

        def work(number: int) -> None:
            faiss.omp_set_num_threads(1)
            while time.perf_counter() < stop_s:
                with lock:
                    text = next(remaining, None)
                if text is None:
                    return
                self.search(text)
                counts[number] += 1

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        started_s = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(counts) / (time.perf_counter() - started_s)


def pretty(figures: object) -> str:
    """Return figures as indented JSON, for people."""
    return orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode()


def _never() -> None:
    """Never stop."""
