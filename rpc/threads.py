"""Threads that work for an event loop. The hand-over is what matters, to a thread and back.

A queue, a future of asyncio and one call to wake the loop; futures of concurrent.futures have locks
and conditions of their own, and a chain of callbacks from theirs to asyncio's.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Threads:
    """A few threads and what waits for them, without a bound: its owner admits."""

    def __init__(self, name: str, count: int, begin: Callable[[], None] | None = None) -> None:
        """Start the threads.

        Args:
            name: what they are called, each with its number behind.
            count: how many.
            begin: called first on each thread.
        """
        self._begin = begin
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [
            Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """Have a thread do it; return the future result. Cancelling that does not stop the work."""
        loop = asyncio.get_running_loop()
        result = loop.create_future()
        self._jobs.put((work, loop, result))
        return result

    def close(self) -> None:
        """End the threads once they have done what they were given."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads to end; tell whether they have."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        while (job := self._jobs.get()) is not None:
            work, loop, result = job
            deliver: Callable[..., None]
            try:
                outcome, deliver = work(), _set_result
            except BaseException as exc:
                outcome, deliver = exc, _set_exception
            # A closed loop has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, result, outcome)
            # What it worked on is not kept alive by a thread that waits.
            del job, work, result, outcome, deliver


def _set_result(result: "asyncio.Future[Any]", outcome: Any) -> None:
    if not result.done():
        result.set_result(outcome)


def _set_exception(result: "asyncio.Future[Any]", error: BaseException) -> None:
    if not result.done():
        result.set_exception(error)
