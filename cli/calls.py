"""Calls to running services: a timeout on every call, plain words for every error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar, cast

import grpc
import orjson

from cli.home import Home
from cli.processes import read_state
from rpc.addresses import require_host_port
from rpc.errors import DETAILS_KEY, from_rpc_error
from rpc.health_probe import why_not_serving
from rpc.terminal import CommandError

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
DEFAULT_ADDRESS = "127.0.0.1:7700"
DEFAULT_TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Blocked:
    """What a gateway waits for before it serves: a reason for programs, and in words."""

    reason: str = ""
    message: str = ""


@contextmanager
def connect(address: str) -> Iterator[grpc.Channel]:
    """Open a channel to one server; it connects on the first call."""
    options = (
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
    )
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def call(
    method: Callable[..., T], request: Any, address: str, timeout_s: float = DEFAULT_TIMEOUT_S
) -> T:
    """Call a method and return its answer.

    Raises:
        CommandError: nothing answers at the address, or not in time.
        VitrineError: the answer is an error.
    """
    try:
        return method(request, timeout=timeout_s)
    except grpc.RpcError as exc:
        error = cast("grpc.aio.AioRpcError", exc)
        if error.code() is grpc.StatusCode.UNAVAILABLE and not _came_from_a_handler(error):
            raise CommandError(
                f"no gateway answers at {address}; start one with `vitrine up --home HOME`, "
                "or name another with --address"
            ) from exc
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise CommandError(
                f"{address} did not answer within {timeout_s:g} s ({error.details()}); "
                "allow more with --timeout"
            ) from exc
        raise from_rpc_error(error) from exc


def is_serving(address: str, timeout_s: float = HEALTH_TIMEOUT_S) -> bool:
    """Tell whether a server's health says SERVING."""
    return not why_not_serving(address, service="", timeout_s=timeout_s)


def why_blocked(http_address: str, timeout_s: float = HEALTH_TIMEOUT_S) -> Blocked:
    """Return what a gateway that does not serve yet waits for, as its health page says."""
    connection = HTTPConnection(http_address, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        health = orjson.loads(connection.getresponse().read())
        return Blocked(str(health["blocked_reason"]), str(health["blocked_on"]))
    except (OSError, HTTPException, orjson.JSONDecodeError, KeyError):
        return Blocked()
    finally:
        connection.close()


def address_or_default(address: str | None, home: Home) -> str:
    """Return the address given, else that of the home's running gateway, else the default.

    Raises:
        CommandError: the one given is no address.
    """
    if address:
        try:
            return require_host_port(address)
        except ValueError as exc:
            raise CommandError(f"--address: {exc}") from exc
    gateway = read_state(home).gateway()
    return gateway.address if gateway else DEFAULT_ADDRESS


def _came_from_a_handler(error: grpc.aio.AioRpcError) -> bool:
    """Tell an UNAVAILABLE that a service answered with from one that the transport made up."""
    trailing: Any = error.trailing_metadata()
    return any(key == DETAILS_KEY for key, _ in trailing or ())
