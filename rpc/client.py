"""Channels to other services, with every option that matters written out."""

from collections.abc import Iterable

import grpc
import orjson

from rpc.telemetry import REQUEST_ID_CHARS_MAX, REQUEST_ID_KEY, request_id

_SERVICE_CONFIG = orjson.dumps({"loadBalancingConfig": [{"round_robin": {}}]}).decode()


def open_channel(target: str, message_bytes_max: int) -> grpc.aio.Channel:
    """Return a channel to one service, balanced over all addresses that its name has.

    Args:
        target: a gRPC target: "host:port", "dns:///name:port", "ipv4:10.0.0.1:1,10.0.0.2:1".
        message_bytes_max: largest message sent or received, in bytes.
    """
    return grpc.aio.insecure_channel(
        target,
        options=(
            ("grpc.max_send_message_length", message_bytes_max),
            ("grpc.max_receive_message_length", message_bytes_max),
            ("grpc.service_config", _SERVICE_CONFIG),
            # No other channel's failed attempts at an address hold this one up.
            ("grpc.use_local_subchannel_pool", 1),
            # A peer that is stopped, not closed, is noticed by its silence.
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # A peer that comes back is found again within about a second.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1_000),
            # Retries are the caller's decision, where it knows what they cost.
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
        ),
    )


def outgoing_metadata(request_ids: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries the request id on; a shared call carries several."""
    joined = ",".join(request_ids) or request_id.get()
    return ((REQUEST_ID_KEY, joined[:REQUEST_ID_CHARS_MAX]),) if joined else ()
