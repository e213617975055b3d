"""A service's life: bind, announce, serve once it is ready, drain when told to stop."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from typing import Any

import orjson
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos.vitrine.v1 import exchange_pb2, exchange_pb2_grpc
from rpc.addresses import authority
from rpc.eager_accept import eager_server
from rpc.exchange import ExchangeService
from rpc.files import replace_file
from rpc.health import Health
from rpc.http import HttpServer, bind, http_app
from rpc.interceptors import CallInterceptor, Read, UnaryHandler
from rpc.settings import ServiceSettings
from rpc.telemetry import RpcMetrics, get_logger
from rpc.terminal import CommandError

# Reflection resolves error details only when their file is in the descriptor pool.
from google.rpc import error_details_pb2  # noqa: F401  # isort: skip

EXCHANGE_SERVICE = exchange_pb2.DESCRIPTOR.services_by_name["ExchangeService"].full_name


@cache
def software_version() -> str:
    """Return the version of the installed package."""
    try:
        return package_version("vitrine")
    except PackageNotFoundError:
        return "0+unknown"


class PortInUse(CommandError):
    """The address asked for cannot be listened on; mostly its port is taken."""


class ServiceServer:
    """One gRPC server with health, reflection, limits, metrics and a health page."""

    def __init__(
        self,
        role: str,
        settings: ServiceSettings,
        metrics: RpcMetrics,
        describe: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        """Make a server that refuses health until `set_serving(True)`.

        Args:
            role: what the process is, as in "shard-2"; in logs, metrics and the announcement.
            settings: addresses and limits.
            metrics: where calls are counted.
            describe: says how the service is, for the health page.
        """
        self.role = role
        self.serving = False
        self._settings = settings
        self._metrics = metrics
        self._log = get_logger()
        self._stop_asked = asyncio.Event()
        self._health = Health()
        self._service_names: list[str] = [""]

        async def describe_with_health() -> dict[str, Any]:
            return {"role": role, "serving": self.serving, **await describe()}

        self._interceptor = CallInterceptor(metrics, settings.calls_in_flight_max)
        self._exchange: ExchangeService | None = None
        self._http = HttpServer(http_app(role, metrics.registry, describe_with_health))
        self.grpc = eager_server(
            interceptors=(self._interceptor,),
            options=_server_options(settings),
        )

    async def run(self, service_names: Sequence[str], ready: Callable[[], Awaitable[None]]) -> None:
        """Bind, announce, await `ready`, serve until SIGTERM or SIGINT, then drain.

        Args:
            service_names: full names of the services registered on `self.grpc`.
            ready: returns once the service can answer; calls before that are the service's own
                UNAVAILABLE.

        Raises:
            PortInUse: an address asked for is taken, or not one of this machine.
        """
        self._service_names += service_names
        self._say_serving(serving=False)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if self._settings.reflection:
            names = (
                *self._service_names[1:],
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            )
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.grpc)
        grpc_address, http_socket = self._bind()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop_asked.set)
        serving_http = asyncio.create_task(self._http.serve(sockets=[http_socket]))
        await self.grpc.start()
        self._announce(grpc_address, authority(*http_socket.getsockname()[:2]))
        try:
            await self._serve_until_stopped(ready)
        finally:
            self._http.should_exit = True
            await serving_http

    def offer_exchange(self, methods: Mapping[str, tuple[Read, UnaryHandler]]) -> None:
        """Answer these unary methods over standing calls, too.

        Args:
            methods: how to parse a request, and what answers it, by full name.
        """
        wrapped = {
            name: self._interceptor.unary(name, read, answer)
            for name, (read, answer) in methods.items()
        }
        self._exchange = ExchangeService(wrapped, self._settings.calls_in_flight_max)
        exchange_pb2_grpc.add_ExchangeServiceServicer_to_server(self._exchange, self.grpc)
        self._service_names.append(EXCHANGE_SERVICE)

    async def set_serving(self, serving: bool) -> None:
        """Say on health and metrics whether this service can answer."""
        if serving != self.serving and not (serving and self._stop_asked.is_set()):
            self._say_serving(serving)

    def _say_serving(self, serving: bool) -> None:
        self.serving = serving
        self._metrics.serving.set(int(serving))
        states = health_pb2.HealthCheckResponse
        state = states.SERVING if serving else states.NOT_SERVING
        for name in self._service_names:
            self._health.set(name, state)

    async def _serve_until_stopped(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Wait for readiness and for a stop signal, whichever comes; then drain."""
        becoming_ready = asyncio.ensure_future(ready())
        stopping = asyncio.ensure_future(self._stop_asked.wait())
        try:
            await asyncio.wait((becoming_ready, stopping), return_when=asyncio.FIRST_COMPLETED)
            if becoming_ready.done():
                becoming_ready.result()
                # What start-up made lives on: the collector need not look at it again.
                gc.collect()
                gc.freeze()
                await stopping
        finally:
            becoming_ready.cancel()
            stopping.cancel()
            await self._drain()

    async def _drain(self) -> None:
        """Refuse new calls, let those in flight end."""
        self._log.info("draining", timeout_s=self._settings.drain_timeout_s)
        self._say_serving(serving=False)
        await asyncio.sleep(self._settings.drain_delay_s)
        self._health.close()
        if self._exchange is not None:
            self._exchange.close()
        await self.grpc.stop(grace=self._settings.drain_timeout_s)
        self._metrics.backlog.write_all()
        self._log.info("stopped")

    def _bind(self) -> tuple[str, Any]:
        """Bind both ports; return the gRPC address and the HTTP socket."""
        host, port = self._settings.host, self._settings.port
        try:
            http_socket = bind(host, self._settings.http_port)
        except OSError as exc:
            where = authority(host, self._settings.http_port)
            raise PortInUse(f"cannot listen on {where}: {exc.strerror or exc}") from exc
        try:
            bound = self.grpc.add_insecure_port(authority(host, port))
        except RuntimeError as exc:
            http_socket.close()
            reason = _why_not_bound(host, port) or str(exc)
            raise PortInUse(f"cannot listen on {authority(host, port)}: {reason}") from exc
        return authority(host, bound), http_socket

    def _announce(self, grpc_address: str, http_address: str) -> None:
        """Log the addresses, and write them to the announce file in one step."""
        announcement = {
            "role": self.role,
            "pid": os.getpid(),
            "address": grpc_address,
            "http_address": http_address,
        }
        self._log.info("listening", **{k: v for k, v in announcement.items() if k != "role"})
        if path := self._settings.announce_file:
            replace_file(path, orjson.dumps(announcement))


def _why_not_bound(host: str, port: int) -> str:
    """Return what the system says to the same address; gRPC writes it into its own log alone."""
    try:
        bind(host, port).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def _server_options(settings: ServiceSettings) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_send_message_length", settings.message_bytes_max),
        ("grpc.max_receive_message_length", settings.message_bytes_max),
        # Without this a second server on the same port starts and takes half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.max_connection_age_grace_s * 1000)),
        # Clients ping every 10 s; allow that without calls in flight.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    )
