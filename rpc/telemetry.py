"""Logs and metrics: structured lines with a request id, counters by method and code."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from random import getrandbits
from typing import Any, TextIO

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

REQUEST_ID_KEY = "x-request-id"
REQUEST_ID_CHARS_MAX = 1024
BACKLOG_S = 0.1
LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

request_id: ContextVar[str] = ContextVar("request_id", default="")


def new_request_id() -> str:
    """Return 32 hex digits that no other request has; a name, not a secret."""
    return f"{getrandbits(128):032x}"


class _LogStream:
    """A stream that loses lines when it has no room or nobody reads it; calls go on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or lose the text."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or lose what is buffered."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure_logging(role: str, level: str, log_format: str) -> None:
    """Send structured logs to stderr, each line with the role and the request id."""

    def add_origin(
        _logger: Any,
        _method: str,
        event: MutableMapping[str, Any],
    ) -> MutableMapping[str, Any]:
        event["role"] = role
        if current := request_id.get():
            event.setdefault("request_id", current)
        event.setdefault("timestamp", utc(time.time()))
        return event

    to_text: Any = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            add_origin,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            to_text,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=_LogStream(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return the logger that `configure_logging` set up."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def utc(seconds: float) -> str:
    """Return a time since the epoch as log lines have it.

    >>> utc(0.5)
    '1970-01-01T00:00:00.500000Z'
    """
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


class Backlog(Collector):
    """Counts and log lines that wait until the answers they tell of are out.

    A core that writes a line for one shard is a core that another shard of the same search waits
    for. What is added is written together a moment later, and always before metrics are read.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def add(self, write: Callable[..., None], *arguments: Any) -> None:
        """Call `write` a moment later. To be used on the event loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(BACKLOG_S, self.write_all)
        self._waiting.append((write, arguments))

    def write_all(self) -> None:
        """Write what waits, now."""
        waiting, self._waiting = self._waiting, []
        for write, arguments in waiting:
            write(*arguments)

    def collect(self) -> Iterable[Metric]:
        """Bring the metrics after this one up to date; has none of its own."""
        self.write_all()
        return ()


class RpcMetrics:
    """What every server counts about its calls."""

    def __init__(self, role: str, version: str) -> None:
        self.registry = CollectorRegistry()
        # The first in the registry: it is read in order.
        self.backlog = Backlog()
        self.registry.register(self.backlog)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Info("vitrine_service", "What this process is.", registry=self.registry).info(
            {"role": role, "version": version}
        )
        self.calls = Counter(
            "vitrine_rpc_calls_total",
            "Calls ended, by method and gRPC status.",
            ["method", "code"],
            registry=self.registry,
        )
        self.latency_s = Histogram(
            "vitrine_rpc_latency_seconds",
            "Time from a call's arrival to its end, in seconds.",
            ["method"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "vitrine_rpc_in_flight", "Calls being served now.", registry=self.registry
        )
        self.serving = Gauge(
            "vitrine_serving", "1 while health says SERVING, else 0.", registry=self.registry
        )


def _to_json(event: Any, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
