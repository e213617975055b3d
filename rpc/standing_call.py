"""The asking side of a standing call: unary calls as messages of one stream.

`StandingCall.ask` behaves as a unary call of grpc.aio would: it returns the answer, raises
AioRpcError with code and details, keeps to its timeout, and stops the work downstream when it is
cancelled. A server that offers no exchange is asked by calls of their own.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from protos.vitrine.v1 import exchange_pb2
from rpc.deadlines import Alarms
from rpc.errors import DETAILS_KEY
from rpc.telemetry import REQUEST_ID_CHARS_MAX, REQUEST_ID_KEY

M = TypeVar("M")
EXCHANGE = "/vitrine.v1.ExchangeService/Exchange"
# A connection that has reached its age is closed when its grace is over, with all calls on it. A
# standing call is replaced well before that, so that none is ever cut off.
LIFE_S = 10.0

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class StandingCall(Generic[M]):
    """Asks one unary method over a stream that is opened when needed and replaced when old."""

    def __init__(self, channel: grpc.aio.Channel, method: str, read: Callable[[bytes], M]) -> None:
        """Make a standing call; nothing is opened yet.

        Args:
            channel: where to ask.
            method: full name of the method, as "/vitrine.v1.IndexService/Search".
            read: parses a response.
        """
        self._method = method
        self._read: Callable[[bytes], M] = read
        self._unary: Any = channel.unary_unary(method, None, None)
        self._open_stream: Any = channel.stream_stream(
            EXCHANGE,
            exchange_pb2.ExchangeRequest.SerializeToString,
            exchange_pb2.ExchangeResponse.FromString,
        )
        self._stream: _Stream | None = None
        self._is_offered = True
        self.num_asked = 0
        """Requests that wait for their answers now."""

    async def ask(self, request: bytes, timeout_s: float, request_id: str) -> M:
        """Return the answer to a serialized request.

        Raises:
            grpc.aio.AioRpcError: as a unary call would.
        """
        self.num_asked += 1
        try:
            return self._read(
                await self._ask(request, timeout_s, request_id[:REQUEST_ID_CHARS_MAX])
            )
        finally:
            self.num_asked -= 1

    async def _ask(self, request: bytes, timeout_s: float, request_id: str) -> bytes:
        if self._is_offered:
            stream = self._current()
            try:
                return await stream.ask(self._method, request, timeout_s, request_id)
            except _UnsentError:
                # A call of its own says why.
                self._is_offered = await stream.was_offered()
            except grpc.aio.AioRpcError:
                if stream.is_offered:
                    raise
                self._is_offered = False
        metadata = ((REQUEST_ID_KEY, request_id),) if request_id else ()
        response: bytes = await self._unary(request, timeout=timeout_s, metadata=metadata)
        return response

    async def close(self) -> None:
        """End the stream; what is being asked fails."""
        if self._stream is not None:
            await self._stream.close()

    def _current(self) -> "_Stream":
        """Return a stream that takes requests."""
        stream = self._stream
        if stream is None or stream.is_over or stream.age_s > LIFE_S:
            if stream is not None:
                stream.retire()
            stream = self._stream = _Stream(self._open_stream())
        return stream


class _UnsentError(Exception):
    """A stream ended before a request was written; gRPC then forgets with which status."""


class _Stream:
    """One stream: numbers requests, writes them in turn, hands answers to those who wait."""

    def __init__(self, call: Any) -> None:
        self.is_over = False
        self.is_offered = True
        self._call = call
        self._opened_s = time.monotonic()
        self._retired = False
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[exchange_pb2.ExchangeResponse]] = {}
        self._alarms = Alarms()
        self._unwritten: deque[exchange_pb2.ExchangeRequest] = deque()
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read_all())
        # A task of its own: who gives up while a request is being written breaks nothing.
        self._writing = asyncio.create_task(self._write_all())

    @property
    def age_s(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened_s

    async def ask(self, method: str, request: bytes, timeout_s: float, request_id: str) -> bytes:
        """Return the serialized answer.

        Raises:
            grpc.aio.AioRpcError: the request's own status, or that of the stream when it ended.
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._write(
            exchange_pb2.ExchangeRequest(
                number=number,
                method=method,
                request=request,
                timeout_us=max(1, int(timeout_s * 1e6)),
                request_id=request_id,
            )
        )
        try:
            response = await self._alarms.within(answer, timeout_s)
        except TimeoutError as exc:
            self._withdraw(number)
            raise _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from exc
        except asyncio.CancelledError:
            self._withdraw(number)
            raise
        finally:
            del self._asked[number]
            self._end_if_retired()
        if response.code:
            raise _error(_CODES[response.code], response.message, response.details)
        answered: bytes = response.response
        return answered

    async def was_offered(self) -> bool:
        """Tell whether the server offers exchanges, once the stream has ended."""
        await asyncio.wait([self._reading])
        return self.is_offered

    def retire(self) -> None:
        """Take no more requests; end once what was asked is answered."""
        self._retired = True
        self._end_if_retired()

    async def close(self) -> None:
        """End now."""
        self._call.cancel()
        self._writing.cancel()
        await asyncio.gather(self._reading, self._writing, return_exceptions=True)
        self._alarms.close()

    async def _read_all(self) -> None:
        """Hand out answers until the stream ends; then everybody who waits hears why."""
        try:
            while (response := await self._call.read()) is not _EOF:
                answer = self._asked.get(response.number)
                if answer is not None and not answer.done():
                    answer.set_result(response)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # told by the status, below
        finally:
            self.is_over = True
            self._more.set()
        error = await self._why_it_ended()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(error)

    async def _write_all(self) -> None:
        """Write what there is to write, until the stream is over."""
        try:
            while self._unwritten or not self.is_over:
                while self._unwritten:
                    await self._call.write(self._unwritten[0])
                    self._unwritten.popleft()
                self._more.clear()
                if not self.is_over:
                    await self._more.wait()
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self.is_over = True
            self._fail_unwritten()

    def _write(self, message: exchange_pb2.ExchangeRequest) -> None:
        self._unwritten.append(message)
        self._more.set()

    def _fail_unwritten(self) -> None:
        for message in self._unwritten:
            answer = self._asked.get(message.number)
            if answer is not None and not answer.done():
                answer.set_exception(_UnsentError())

    async def _why_it_ended(self) -> grpc.aio.AioRpcError:
        """Return the stream's status as an error: a stream that ends takes its requests along."""
        code, details = await self._call.code(), await self._call.details()
        self.is_offered = code is not grpc.StatusCode.UNIMPLEMENTED
        if code not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.CANCELLED):
            # Whatever broke the stream, its requests may be asked again.
            code = grpc.StatusCode.UNAVAILABLE
        return _error(code, details or "the standing call has ended")

    def _withdraw(self, number: int) -> None:
        """Tell the server that nobody waits for an answer any more."""
        if not self.is_over:
            self._write(exchange_pb2.ExchangeRequest(number=number, withdrawn=True))

    def _end_if_retired(self) -> None:
        if self._retired and not self._asked and not self.is_over:
            self.is_over = True
            self._more.set()


def _error(code: grpc.StatusCode, message: str, details: bytes = b"") -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata((DETAILS_KEY, details)) if details else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message, None)
