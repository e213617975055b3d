"""What the encoder service counts."""

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from encoder_service.lanes import Lane
from encoder_service.pool import Done, WorkerPool
from rpc.telemetry import LATENCY_BUCKETS_S, RpcMetrics

_LANE_LABELS = ["lane"]


class EncoderMetrics:
    """Counters and histograms of encoding, by lane ("query", "rerank" or "item")."""

    def __init__(self, rpc: RpcMetrics) -> None:
        """Register the metrics beside those of every service."""
        self._registry = rpc.registry
        self._backlog = rpc.backlog
        self._texts = self._counter("vitrine_encoder_texts_total", "Texts or pairs run.")
        self._tokens = self._counter("vitrine_encoder_tokens_total", "Tokens run.")
        self._truncated = self._counter(
            "vitrine_encoder_truncated_total", "Texts that were cut at max_tokens."
        )
        self._dropped = self._counter(
            "vitrine_encoder_dropped_total",
            "Texts that were never run: their caller had left, or their call had failed.",
        )
        self._queue_wait_s = self._histogram(
            "vitrine_encoder_queue_wait_seconds",
            "Time a call's first text waited for a free worker.",
        )
        self._inference_s = self._histogram(
            "vitrine_encoder_inference_seconds",
            "Time from a call's first text being taken to its last one being done.",
        )
        self._queue_texts = self._gauge(
            "vitrine_encoder_queue_texts", "Texts waiting for a free worker now."
        )
        self._queue_tokens = self._gauge(
            "vitrine_encoder_queue_tokens", "Tokens of the texts that wait now."
        )
        self.reference_cosine = Gauge(
            "vitrine_encoder_reference_cosine",
            "Mean cosine of the reference texts, encoded at start, to their recorded vectors.",
            registry=rpc.registry,
        )
        self.reference_cosine_least = Gauge(
            "vitrine_encoder_reference_cosine_least",
            "Least cosine of any reference text, encoded at start, to its recorded vector.",
            registry=rpc.registry,
        )
        self.reranker_spearman = Gauge(
            "vitrine_encoder_reranker_spearman",
            "Rank correlation of the reference pairs, scored at start, with their recorded scores; "
            "0 without a reranker.",
            registry=rpc.registry,
        )
        self.reference_check_overridden = Gauge(
            "vitrine_encoder_reference_check_overridden",
            "1 when the service serves although one of those three is too low, else 0.",
            registry=rpc.registry,
        )

    def ended(self, lane: Lane, done: Done) -> None:
        """Count one call's texts, once its answer is out."""
        self._backlog.add(self._count, lane, done)

    def _count(self, lane: Lane, done: Done) -> None:
        self._texts[lane].inc(len(done.values))
        self._tokens[lane].inc(done.tokens)
        if done.truncated:
            self._truncated[lane].inc(len(done.truncated))
        self._queue_wait_s[lane].observe(done.queue_us / 1e6)
        self._inference_s[lane].observe(done.compute_us / 1e6)

    def dropped(self, lane: Lane, texts: int) -> None:
        """Count texts that will not be run."""
        self._dropped[lane].inc(texts)

    def watch(self, pool: WorkerPool) -> None:
        """Read the queue's depth whenever metrics are asked for."""
        for lane in Lane:
            self._queue_texts[lane].set_function(partial(pool.waiting_texts, lane))
            self._queue_tokens[lane].set_function(partial(pool.waiting_tokens, lane))

    def _counter(self, name: str, description: str) -> dict[Lane, Counter]:
        counter = Counter(name, description, _LANE_LABELS, registry=self._registry)
        return {lane: counter.labels(lane.label) for lane in Lane}

    def _gauge(self, name: str, description: str) -> dict[Lane, Gauge]:
        gauge = Gauge(name, description, _LANE_LABELS, registry=self._registry)
        return {lane: gauge.labels(lane.label) for lane in Lane}

    def _histogram(self, name: str, description: str) -> dict[Lane, Histogram]:
        histogram = Histogram(
            name, description, _LANE_LABELS, buckets=LATENCY_BUCKETS_S, registry=self._registry
        )
        return {lane: histogram.labels(lane.label) for lane in Lane}
