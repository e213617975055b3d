"""A grpc.aio server that takes many calls at once.

grpc.aio keeps one request for a new call open a method: a call is taken, handed to its handler, and
only then is the next one asked for, several turns of the event loop and a thread switch later. On a
busy machine that lets in about one call a millisecond, however many wait, so that calls that could
share work never meet; `benchmarks/accept.py` shows what it costs. It also loses a call that arrives
in the moment of shutdown: it is taken, but nobody handles it, and its caller waits for the grace
period to end.

This server keeps several requests open a method, and handles every call that was taken. It leans on
names that grpcio does not promise, so grpcio is pinned exactly; with a grpcio that lacks them the
stock server is used. See docs/adr/0007-eager-accept.md.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

CALLS_TAKEN_AT_ONCE = 32

_NAMES_NEEDED = ("AioServer", "_MethodResolver", "_handle_rpc", "_schedule_rpc_coro")
_METHODS_NEEDED = ("_request_registered_call", "_make_request_call_future")


def can_accept_eagerly() -> bool:
    """Tell whether this grpcio has the parts that eager accepting is made of."""
    return all(hasattr(cygrpc, name) for name in _NAMES_NEEDED) and all(
        hasattr(cygrpc.AioServer, name) for name in _METHODS_NEEDED
    )


def eager_server(
    interceptors: "Sequence[grpc.aio.ServerInterceptor[Any, Any]]",
    options: Sequence[tuple[str, int]],
) -> grpc.aio.Server:
    """Return a grpc.aio server that takes many calls at once."""
    server = grpc.aio.server(interceptors=interceptors, options=options)
    if can_accept_eagerly():
        inner: Any = server
        arguments = [asyncio.get_running_loop(), None, (), tuple(interceptors), tuple(options)]
        inner._server = _eager_core()(*arguments, None)  # noqa: SLF001
    return server


def _eager_core() -> Any:
    """Return the class; made here because its base may be missing."""

    class EagerCore(cygrpc.AioServer):  # type: ignore[misc]
        """The core of a grpc.aio server, with its accept loop replaced."""

        def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
            self._running_loop = loop
            self._all_interceptors = arguments[2]
            self._generic: list[Any] = []
            self._registered: dict[str, Any] = {}
            self._tasks: set[asyncio.Task[None]] = set()
            super().__init__(loop, *arguments)

        def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
            self._generic.extend(handlers)
            super().add_generic_rpc_handlers(handlers)

        def add_registered_method_handlers(self, handlers: Mapping[str, Any]) -> None:
            self._registered.update(handlers)
            super().add_registered_method_handlers(handlers)

        def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
            """Take calls of a method from now on; the future fails when the server shuts down.

            Calls of unknown methods (None) are refused one at a time, as the stock server does.
            """
            if method is None:
                return super()._make_request_call_future(None)  # type: ignore[no-any-return]
            shut_down: asyncio.Future[Any] = self._running_loop.create_future()
            for _ in range(CALLS_TAKEN_AT_ONCE):
                self._keep(self._take_calls(method, shut_down))
            return shut_down

        async def _take_calls(self, method: bytes, shut_down: "asyncio.Future[Any]") -> None:
            resolver = cygrpc._MethodResolver(self._generic, self._registered)  # noqa: SLF001
            try:
                while True:
                    call = await self._request_registered_call(method)
                    self._handle(method.decode(), call, resolver)
            except Exception as exc:
                if not shut_down.done():
                    shut_down.set_exception(exc)

        def _handle(self, name: str, call: Any, resolver: Any) -> None:
            loop = self._running_loop
            handling = cygrpc._handle_rpc(  # noqa: SLF001
                name, resolver, self._all_interceptors, call, loop, False
            )
            self._keep(cygrpc._schedule_rpc_coro(handling, call, loop, name))  # noqa: SLF001

        def _keep(self, work: Any) -> None:
            """Run a coroutine and hold on to its task until it ends."""
            task = self._running_loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    return EagerCore
