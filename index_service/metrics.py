"""What an index service counts beside its calls."""

from collections.abc import Callable, Iterable

from prometheus_client import Counter, Gauge, Histogram

from index_service.holdings import Holding
from index_service.query import Hits
from index_service.sampling import Sampled
from index_service.shard import Arrival
from rpc.telemetry import LATENCY_BUCKETS_S, RpcMetrics

_CANDIDATE_BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_LOAD_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class IndexMetrics(RpcMetrics):
    """Searches by path, waiting, candidates, and what is held."""

    def __init__(self, role: str, version: str) -> None:
        super().__init__(role, version)
        self._search_s = Histogram(
            "vitrine_index_search_seconds",
            "Time of one query on its path, filter to rescoring, in seconds.",
            ["path"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._queue_s = Histogram(
            "vitrine_index_queue_seconds",
            "Time a call waited for a search thread, in seconds.",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._queries = Counter(
            "vitrine_index_queries_total",
            "Queries answered, by path.",
            ["path"],
            registry=self.registry,
        )
        self._rescored = Histogram(
            "vitrine_index_rescored_candidates",
            "Candidates rescored with full vectors, a query.",
            buckets=_CANDIDATE_BUCKETS,
            registry=self.registry,
        )
        self._load_s = Histogram(
            "vitrine_index_load_seconds",
            "Time to bring a generation, by step, in seconds.",
            ["step"],
            buckets=_LOAD_BUCKETS_S,
            registry=self.registry,
        )
        self._items = Gauge(
            "vitrine_index_items",
            "Items of a generation on this shard.",
            ["generation"],
            registry=self.registry,
        )
        self._loaded = Gauge(
            "vitrine_index_generations_loaded", "Generations held.", registry=self.registry
        )
        self._probed_recall = Gauge(
            "vitrine_index_ann_recall_at_10",
            "ann_recall@10 of this shard as last probed.",
            ["generation"],
            registry=self.registry,
        )
        self._probed: set[int] = set()

        self._recall_found = Counter(
            "vitrine_index_recall_found_total",
            "Of the exact best ten of sampled searches, those that were found, by the upper end of "
            "the band that the filter's selectivity is in.",
            ["selectivity"],
            registry=self.registry,
        )
        self._recall_possible = Counter(
            "vitrine_index_recall_possible_total",
            "The exact best ten of sampled searches, found or not.",
            ["selectivity"],
            registry=self.registry,
        )
        self._recall_dropped = Counter(
            "vitrine_index_recall_dropped_total",
            "Sampled searches that were not checked: others were waiting, or memory is short.",
            registry=self.registry,
        )

    def count_sampled(self, sampled: Sampled | None) -> None:
        """Count a search that was searched exactly as well, or was to be."""
        if sampled is None:
            self._recall_dropped.inc()
            return
        self._recall_found.labels(sampled.band).inc(sampled.found)
        self._recall_possible.labels(sampled.band).inc(sampled.possible)

    def count_search(self, hits: Iterable[Hits], queue_s: float) -> None:
        """Count one call's queries."""
        self._queue_s.observe(queue_s)
        for each in hits:
            profile = each.profile
            spent_us = profile.filter_us + profile.candidates_us + profile.rescore_us
            self._search_s.labels(profile.path).observe(spent_us / 1e6)
            self._queries.labels(profile.path).inc()
            self._rescored.observe(profile.rescored)

    def count_load(self, arrival: Arrival) -> None:
        """Count a generation brought."""
        self._load_s.labels("load").observe(arrival.load_us / 1e6)
        self._load_s.labels("warm").observe(arrival.warm_us / 1e6)

    def show_holdings(self, holdings: Iterable[Holding]) -> None:
        """Show which generations are held, and their items; forget what was probed of others."""
        loaded = [holding.loaded for holding in holdings if holding.loaded is not None]
        self._loaded.set(len(loaded))
        self._items.clear()
        for each in loaded:
            self._items.labels(str(each.manifest.generation)).set(each.segment.items)
        for gone in self._probed - {each.manifest.generation for each in loaded}:
            self._probed_recall.remove(str(gone))
            self._probed.remove(gone)

    def show_recall(self, generation: int, ann_recall_at_10: float) -> None:
        """Show a probed recall of a generation that is held."""
        self._probed.add(generation)
        self._probed_recall.labels(str(generation)).set(ann_recall_at_10)

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Export a value that is read when it is scraped."""
        Gauge(name, description, registry=self.registry).set_function(read)
