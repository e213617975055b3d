"""What a gateway counts beside its calls."""

from collections.abc import Callable, Iterable

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from gateway.search import Answer
from rpc.telemetry import LATENCY_BUCKETS_S, RpcMetrics

_STAGES = ("embed", "search", "merge", "attach")


class GatewayMetrics(RpcMetrics):
    """Stages, coverage, degraded answers, caches."""

    def __init__(self, version: str) -> None:
        super().__init__("gateway", version)
        self._stage_s = Histogram(
            "vitrine_search_stage_seconds",
            "Time of one stage of a search on the gateway's clock, in seconds.",
            ["stage"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._degraded = Counter(
            "vitrine_search_degraded_total",
            "Answers that took a step down, by step.",
            ["reason"],
            registry=self.registry,
        )
        self._shard_outcomes = Counter(
            "vitrine_search_shard_outcomes_total",
            "How each shard took part in searches.",
            ["shard", "state"],
            registry=self.registry,
        )
        self._stages = {stage: self._stage_s.labels(stage) for stage in _STAGES}

    def count_answer(self, answer: Answer) -> None:
        """Count one answered search."""
        for stage, histogram in self._stages.items():
            histogram.observe(answer.stopwatch.lap_us(stage) / 1e6)
        for step in answer.degraded:
            self._degraded.labels(step.value).inc()
        for outcome in answer.coverage.outcomes:
            self._shard_outcomes.labels(str(outcome.shard), outcome.state.value).inc()

    def watch(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Export a value that is read when it is scraped."""
        Gauge(name, description, registry=self.registry).set_function(read)

    def watch_counter(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Export a count that only grows, read when it is scraped; the name ends in _total."""
        self.registry.register(_WatchedCounter(name, description, read))


class _WatchedCounter(Collector):
    """A counter whose value somebody else keeps."""

    def __init__(self, name: str, description: str, read: Callable[[], float]) -> None:
        self._about = (name, description)
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the count as it is now."""
        return (CounterMetricFamily(*self._about, value=self._read()),)
