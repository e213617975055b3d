"""What the encoder service counts."""

from prometheus_client import Counter, Gauge, Histogram

from encoder_service.pool import Encoded, EncoderPool, Lane
from rpc.telemetry import LATENCY_BUCKETS_S, RpcMetrics


class EncoderMetrics:
    """Counters and histograms of encoding, by lane ("query" or "item")."""

    def __init__(self, rpc: RpcMetrics) -> None:
        """Register the metrics beside those of every service."""
        registry = rpc.registry
        self.texts = Counter(
            "vitrine_encoder_texts_total", "Texts encoded.", ["lane"], registry=registry
        )
        self.tokens = Counter(
            "vitrine_encoder_tokens_total", "Tokens encoded.", ["lane"], registry=registry
        )
        self.truncated = Counter(
            "vitrine_encoder_truncated_total",
            "Texts that were cut at max_tokens.",
            ["lane"],
            registry=registry,
        )
        self.queue_wait_s = Histogram(
            "vitrine_encoder_queue_wait_seconds",
            "Time a call's first text waited for a free worker.",
            ["lane"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.inference_s = Histogram(
            "vitrine_encoder_inference_seconds",
            "Time from a call's first text being taken to its last one being done.",
            ["lane"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.queue_depth = Gauge(
            "vitrine_encoder_queue_texts",
            "Texts waiting for a free worker now.",
            ["lane"],
            registry=registry,
        )
        self.reference_cosine = Gauge(
            "vitrine_encoder_reference_cosine",
            "Mean cosine of the reference texts, encoded at start, to their recorded vectors.",
            registry=registry,
        )
        self.reference_check_overridden = Gauge(
            "vitrine_encoder_reference_check_overridden",
            "1 when the service serves although that cosine is too low, else 0.",
            registry=registry,
        )

    def ended(self, lane: Lane, encoded: Encoded) -> None:
        """Count one call's texts."""
        self.texts.labels(lane.value).inc(len(encoded.vectors))
        self.tokens.labels(lane.value).inc(encoded.tokens)
        self.truncated.labels(lane.value).inc(len(encoded.truncated))
        self.queue_wait_s.labels(lane.value).observe(encoded.queue_us / 1e6)
        self.inference_s.labels(lane.value).observe(encoded.compute_us / 1e6)

    def watch(self, pool: EncoderPool) -> None:
        """Read the queue's depth whenever metrics are asked for."""
        self.queue_depth.labels("query").set_function(lambda: pool.waiting(Lane.QUERY))
        self.queue_depth.labels("item").set_function(lambda: pool.waiting(Lane.ITEM))
