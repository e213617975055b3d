"""Concurrent questions share calls: what comes while a call is out goes together in the next.

No delay is added: a question that finds no call in flight leaves at once. Under load the calls
grow by themselves, and so the cost of a call is shared just when it matters.
"""

import asyncio
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from rpc.deadlines import Deadline
from rpc.errors import ResourceExhausted
from rpc.telemetry import request_id

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Batch(Generic[Q]):
    """Questions that travel together."""

    questions: Sequence[Q]
    request_ids: Sequence[str]
    deadline: Deadline

    def each(self) -> "Sequence[Batch[Q]]":
        """Return a batch of its own for each question."""
        return [
            Batch([question], [request_id], self.deadline)
            for question, request_id in zip(self.questions, self.request_ids, strict=True)
        ]


@dataclass(slots=True, eq=False)
class _Waiter(Generic[Q, A]):
    question: Q
    num_bytes: int
    deadline: Deadline
    request_id: str
    answer: "asyncio.Future[A]"


class Coalescer(Generic[Q, A]):
    """Gathers questions of one group into calls; groups never share a call.

    Attributes:
        batch_max: most questions in a call; may change between calls.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[Hashable, Batch[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        calls_max: int,
        batch_max: int,
        waiting_max: int,
        bytes_of: Callable[[Q], int] = lambda _: 0,
        batch_bytes_max: int = sys.maxsize,
    ) -> None:
        """Make a coalescer.

        Args:
            name: what is called, for errors.
            call: answers a batch of one group, in order; an exception in the place of an answer
                is for that question alone.
            calls_max: calls of one group in flight at once.
            batch_max: most questions in a call.
            waiting_max: most questions that wait for a call; further ones are refused.
            bytes_of: what a question adds to a call, in bytes.
            batch_bytes_max: most bytes in a call that is shared; a larger question goes alone.
        """
        self._name = name
        self._call = call
        self._calls_max = calls_max
        self.batch_max = batch_max
        self._waiting_max = waiting_max
        self._bytes_of = bytes_of
        self._batch_bytes_max = batch_bytes_max
        self._num_waiting = 0
        self._waiting: dict[Hashable, deque[_Waiter[Q, A]]] = defaultdict(deque)
        # Looking a group up leaves nothing behind: a group may have a filter of many kilobytes.
        self._num_flying: Counter[Hashable] = Counter()
        self._flights: set[asyncio.Task[None]] = set()

    def submit(
        self, question: Q, deadline: Deadline, group: Hashable = None
    ) -> "asyncio.Future[A]":
        """Return the future answer. Cancelling it withdraws the question.

        A call whose questions are all withdrawn is cancelled, which stops the work downstream.

        Raises:
            ResourceExhausted: too many questions are waiting.
        """
        if self._num_waiting >= self._waiting_max:
            raise ResourceExhausted(
                f"{self._waiting_max} queries wait for the {self._name} already"
            )
        loop = asyncio.get_running_loop()
        waiter: _Waiter[Q, A] = _Waiter(
            question, self._bytes_of(question), deadline, request_id.get(), loop.create_future()
        )
        self._num_waiting += 1
        self._waiting[group].append(waiter)
        # Once the loop comes round, so that questions that arrived together leave together.
        loop.call_soon(self._launch_calls, group)
        return waiter.answer

    async def close(self) -> None:
        """Cancel the calls in flight and wait for their end."""
        for flight in self._flights:
            flight.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)

    def _launch_calls(self, group: Hashable) -> None:
        queue = self._waiting[group]
        while queue and self._num_flying[group] < self._calls_max:
            if batch := self._take(queue):
                self._launch(group, batch)
        if not queue:
            del self._waiting[group]

    def _take(self, queue: deque[_Waiter[Q, A]]) -> list[_Waiter[Q, A]]:
        """Take the next call's questions off a queue, and those before them that left."""
        batch: list[_Waiter[Q, A]] = []
        num_bytes = 0
        while queue and len(batch) < self.batch_max:
            if not queue[0].answer.done():
                num_bytes += queue[0].num_bytes
                if batch and num_bytes > self._batch_bytes_max:
                    break
                batch.append(queue[0])
            queue.popleft()
            self._num_waiting -= 1
        return batch

    def _launch(self, group: Hashable, waiters: list[_Waiter[Q, A]]) -> None:
        self._num_flying[group] += 1
        flight = asyncio.create_task(self._fly(group, waiters))
        self._flights.add(flight)
        # A callback, since a task that is cancelled before its first step runs no `finally`.
        flight.add_done_callback(partial(self._land, group))
        num_asking = len(waiters)

        def leave(_: "asyncio.Future[A]") -> None:
            nonlocal num_asking
            num_asking -= 1
            if num_asking == 0:
                flight.cancel()

        for waiter in waiters:
            waiter.answer.add_done_callback(leave)

    async def _fly(self, group: Hashable, waiters: list[_Waiter[Q, A]]) -> None:
        batch = Batch(
            [waiter.question for waiter in waiters],
            [waiter.request_id for waiter in waiters],
            max((waiter.deadline for waiter in waiters), key=lambda deadline: deadline.at_s),
        )
        try:
            answers = await self._call(group, batch)
        except BaseException as exc:
            _fail(waiters, exc)
            if not isinstance(exc, Exception):
                raise
        else:
            for waiter, answer in zip(waiters, answers, strict=True):
                if isinstance(answer, Exception):
                    _fail([waiter], answer)
                elif not waiter.answer.done():
                    waiter.answer.set_result(answer)

    def _land(self, group: Hashable, flight: "asyncio.Task[None]") -> None:
        self._flights.discard(flight)
        self._num_flying[group] -= 1
        if not self._num_flying[group]:
            del self._num_flying[group]
        if group in self._waiting:
            self._launch_calls(group)


def _fail(waiters: Sequence[_Waiter[Q, A]], error: BaseException) -> None:
    for waiter in waiters:
        if waiter.answer.done():
            continue
        if isinstance(error, Exception):
            waiter.answer.set_exception(error)
        else:
            waiter.answer.cancel()
