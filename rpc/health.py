"""The gRPC health service. Unlike the stock one, it lets go of watchers when the server stops.

A watcher's call never ends by itself, so a server that waits for the calls in flight would wait
for it until the drain's timeout, and only then end.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Tells the state of each service of a server, once or at every change."""

    def __init__(self) -> None:
        self._states: dict[str, health_pb2.HealthCheckResponse.ServingStatus] = {}
        self._changed = asyncio.Event()
        self._closing = False

    def set(self, service: str, state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        """Set the state of a service; watchers hear of it."""
        self._states[service] = state
        self._wake()

    def close(self) -> None:
        """End each watch, once it has been told the last state."""
        self._closing = True
        self._wake()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Tell a service's state now."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """Tell a service's state now and at every change, until the server stops."""
        told = None
        while True:
            changed = self._changed
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            state = self._states.get(request.service, unknown)
            if state != told:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                told = state
            elif self._closing:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
