"""Where every call gets its request id, its metrics, its log line and its error status."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from rpc.errors import (
    DETAILS_KEY,
    InvalidArgument,
    ResourceExhausted,
    Unimplemented,
    VitrineError,
    to_status,
)
from rpc.telemetry import (
    REQUEST_ID_CHARS_MAX,
    REQUEST_ID_KEY,
    RpcMetrics,
    get_logger,
    new_request_id,
    request_id,
    utc,
)

OUR_METHODS = "/vitrine."

Context = grpc.aio.ServicerContext[Any, Any]
Read = Callable[[bytes], Any]
UnaryHandler = Callable[[Any, Context], Awaitable[Any]]
StreamHandler = Callable[[Any, Context], AsyncIterator[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps every method of ours; health and reflection pass through untouched."""

    def __init__(self, metrics: RpcMetrics, calls_in_flight_max: int) -> None:
        self._metrics = metrics
        self._calls_in_flight_max = calls_in_flight_max
        self._in_flight = 0
        self._log = get_logger()
        self._wrapped: dict[str, Any] = {}
        metrics.in_flight.set_function(lambda: self._in_flight)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, wrapped."""
        method = handler_call_details.method
        if (wrapped := self._wrapped.get(method)) is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(OUR_METHODS):
            return handler
        self._wrapped[method] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        # Requests come as bytes: a parser that fails inside gRPC answers UNKNOWN, with its text.
        read = handler.request_deserializer
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self.unary(method, read, handler.unary_unary),
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream is not None:
            # A standing call: its requests are wrapped one by one, by `unary`.
            return handler
        return grpc.unary_stream_rpc_method_handler(
            self._stream(method, read, handler.unary_stream),
            response_serializer=handler.response_serializer,
        )

    def unary(self, method: str, read: Read, answer: UnaryHandler) -> UnaryHandler:
        """Return a handler that takes a request as bytes, and counts, logs and ends its call."""

        async def call(request: bytes, context: Context) -> Any:
            started_s = self._enter(context)
            error: BaseException | None = None
            try:
                self._admit()
                return await answer(_parsed(request, read), context)
            except NotImplementedError:
                # What generated code raises for methods that a service leaves out.
                error = Unimplemented(method)
            except BaseException as exc:
                error = exc
            finally:
                self._leave(method, started_s, error)
            return await _end(context, error)

        return call

    def _stream(self, method: str, read: Read, answer: StreamHandler) -> StreamHandler:
        async def call(request: bytes, context: Context) -> AsyncIterator[Any]:
            started_s = self._enter(context)
            error: BaseException | None = None
            try:
                self._admit()
                async for response in answer(_parsed(request, read), context):
                    yield response
            except NotImplementedError:
                # What generated code raises for methods that a service leaves out.
                error = Unimplemented(method)
            except BaseException as exc:
                error = exc
            finally:
                self._leave(method, started_s, error)
            if error is not None:
                await _end(context, error)

        return call

    def _enter(self, context: Context) -> float:
        request_id.set(_request_id_of(context))
        self._in_flight += 1
        return time.perf_counter()

    def _admit(self) -> None:
        if self._in_flight > self._calls_in_flight_max:
            raise ResourceExhausted(f"{self._calls_in_flight_max} calls are being served already")

    def _leave(self, method: str, started_s: float, error: BaseException | None) -> None:
        """Make room for another call; this one is recorded once its answer is out."""
        self._in_flight -= 1
        ended = Ended(method, time.perf_counter() - started_s, error, request_id.get(), time.time())
        self._metrics.backlog.add(self._record, ended)

    def _record(self, ended: "Ended") -> None:
        code = _code_of(ended.error).name
        self._metrics.calls.labels(ended.method, code).inc()
        self._metrics.latency_s.labels(ended.method).observe(ended.seconds)
        fields: dict[str, Any] = {
            "request_id": ended.request_id,
            "timestamp": utc(ended.at_s),
            "method": ended.method,
            "code": code,
            "ms": round(ended.seconds * 1000, 2),
        }
        if ended.error is None:
            self._log.info("call", **fields)
        elif code == "INTERNAL":
            self._log.error("call", **fields, exc_info=ended.error)
        else:
            self._log.info("call", **fields, error=str(ended.error))


class Ended(NamedTuple):
    """A call that is over: how long it took, and when that was, in seconds since the epoch."""

    method: str
    seconds: float
    error: BaseException | None
    request_id: str
    at_s: float


def _parsed(request: bytes, read: Read) -> Any:
    """Return the message in a request.

    Raises:
        InvalidArgument: there is none, as when a text is not UTF-8.
    """
    try:
        return read(request)
    except DecodeError as exc:
        raise InvalidArgument(
            "request", f"{len(request)} bytes that cannot be read ({exc})", "a protobuf message"
        ) from exc


async def _end(context: Context, error: BaseException) -> None:
    """End a failed call with its status; cancellation and aborts pass through."""
    if isinstance(error, VitrineError):
        status = to_status(error)
        await context.abort(
            error.code,
            str(error),
            trailing_metadata=((DETAILS_KEY, status.SerializeToString()),),
        )
    if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
        await context.abort(
            grpc.StatusCode.INTERNAL, f"internal error; request id {request_id.get()}"
        )
    raise error


def _code_of(error: BaseException | None) -> grpc.StatusCode:
    if error is None:
        return grpc.StatusCode.OK
    if isinstance(error, VitrineError):
        return error.code
    if isinstance(error, Exception):
        return grpc.StatusCode.INTERNAL
    return grpc.StatusCode.CANCELLED


def _request_id_of(context: Context) -> str:
    """Return the caller's request id, or a new one; overlong ids are cut."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and value:
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            return text[:REQUEST_ID_CHARS_MAX]
    return new_request_id()
