"""The answering side of a standing call: many unary calls as messages of one stream.

A message costs about half of what a call does. The rest is as in a call: each request has its
request id, deadline, metrics, log line and status, and work on it stops when it is withdrawn. The
asking side is in `rpc.standing_call`; see docs/adr/0008-standing-calls.md.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from protos.vitrine.v1 import exchange_pb2, exchange_pb2_grpc
from rpc.errors import DETAILS_KEY, Unavailable, Unimplemented
from rpc.telemetry import REQUEST_ID_KEY

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[bytes, Any], Awaitable[Any]]
"""Answers serialized bytes, given a `RequestContext`, with a message; failures end in its abort."""
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]


@dataclass(eq=False)
class Ended(Exception):
    """A request ended with a status other than OK."""

    code: grpc.StatusCode
    message: str
    details: bytes


class RequestContext:
    """What a method sees of the request it answers: that part of a ServicerContext."""

    def __init__(self, request: exchange_pb2.ExchangeRequest) -> None:
        self._request_id = request.request_id
        self._timeout_s = request.timeout_us / 1e6
        self._came_s = time.monotonic()

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Return the request id, as a call of its own would carry it."""
        return ((REQUEST_ID_KEY, self._request_id),) if self._request_id else ()

    def time_remaining(self) -> float | None:
        """Return seconds until the deadline; None without one."""
        if not self._timeout_s:
            return None
        return max(0.0, self._came_s + self._timeout_s - time.monotonic())

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Sequence[tuple[str, bytes]] = (),
    ) -> NoReturn:
        """End the request with a status."""
        raise Ended(code, details, dict(trailing_metadata).get(DETAILS_KEY, b""))


class ExchangeService(exchange_pb2_grpc.ExchangeServiceServicer):
    """Answers the requests of every standing call to a server."""

    def __init__(self, methods: Mapping[str, Method], requests_max: int) -> None:
        """Make a service without callers.

        Args:
            methods: what is offered here, by full name.
            requests_max: requests of one standing call being answered at once; further ones wait
                in the connection, whose flow control slows the caller down.
        """
        self._methods = methods
        self._requests_max = requests_max
        self._closing = asyncio.Event()

    async def Exchange(  # noqa: N802
        self, _: Any, context: Context
    ) -> None:
        """Answer one caller until it leaves, or until the server stops."""
        answering = _Answering(self._methods, self._requests_max, context)
        reading = asyncio.ensure_future(answering.read_all())
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            await answering.finish()
            if reading.done():
                reading.result()
            else:
                error = Unavailable("DRAINING", "the server is stopping")
                await context.abort(error.code, str(error))
        finally:
            reading.cancel()
            closing.cancel()
            answering.stop()

    def close(self) -> None:
        """Take no more requests; each standing call ends once what it asked is answered."""
        self._closing.set()


class _Answering:
    """The requests of one standing call."""

    def __init__(self, methods: Mapping[str, Method], requests_max: int, context: Context) -> None:
        self._methods = methods
        self._context = context
        self._room = asyncio.Semaphore(requests_max)
        self._writing = asyncio.Lock()
        self._written: int | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def read_all(self) -> None:
        """Start to answer each request that comes, until the caller has no more."""
        while (request := await self._context.read()) is not _EOF:
            if not request.withdrawn:
                await self._room.acquire()
                self._start(request)
            elif request.number != self._written and (task := self._tasks.get(request.number)):
                task.cancel()

    async def finish(self) -> None:
        """Wait until every request is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    def stop(self) -> None:
        """Stop the work on all requests."""
        for task in self._tasks.values():
            task.cancel()

    def _start(self, request: exchange_pb2.ExchangeRequest) -> None:
        task = self._tasks[request.number] = asyncio.create_task(self._answer(request))

        # A callback, since a task that is cancelled before its first step runs no `finally`.
        def end(ended: asyncio.Task[None]) -> None:
            self._room.release()
            if self._tasks.get(request.number) is ended:
                del self._tasks[request.number]
            # An answer that cannot be written is lost with its stream: nobody is left to tell.
            ended.cancelled() or ended.exception()

        task.add_done_callback(end)

    async def _answer(self, request: exchange_pb2.ExchangeRequest) -> None:
        response = await self._response_to(request)
        async with self._writing:
            # gRPC writes one message at a time, and goes on with one whose writer has left: the
            # next would be refused. So an answer that is being written is not withdrawn any more.
            self._written = request.number
            await self._context.write(response)

    async def _response_to(
        self, request: exchange_pb2.ExchangeRequest
    ) -> exchange_pb2.ExchangeResponse:
        number = request.number
        method = self._methods.get(request.method)
        if method is None:
            error = Unimplemented(f"{request.method!r} in an exchange")
            return exchange_pb2.ExchangeResponse(
                number=number, code=error.code.value[0], message=str(error)
            )
        try:
            answer = await method(request.request, RequestContext(request))
        except Ended as ended:
            return exchange_pb2.ExchangeResponse(
                number=number,
                code=ended.code.value[0],
                message=ended.message,
                details=ended.details,
            )
        return exchange_pb2.ExchangeResponse(number=number, response=answer.SerializeToString())
