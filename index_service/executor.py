"""Runs searches on a few threads behind a bounded queue; drops those nobody waits for."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

import faiss

from rpc.deadlines import Deadline
from rpc.errors import DeadlineExceeded, ResourceExhausted

T = TypeVar("T")


class Ticket:
    """Tells a running search whether anybody still waits for it."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.started = False
        self.abandoned = False

    def check(self) -> None:
        """Go on, or stop.

        Raises:
            DeadlineExceeded: the deadline has passed, or the caller has left.
        """
        if self.abandoned or self._deadline.passed:
            raise DeadlineExceeded("search" if self.started else "waiting for a search thread")


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """A result, and where its time went."""

    result: T
    queue_s: float
    run_s: float


class SearchExecutor:
    """A thread pool with a limit on what waits."""

    def __init__(self, threads: int, waiting_max: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "search", initializer=one_thread_each)
        self._threads = threads
        self._waiting_max = waiting_max
        self._lock = Lock()
        self.waiting = 0
        self.running = 0

    async def run(
        self,
        work: Callable[[Callable[[], None]], T],
        deadline: Deadline,
        at_end: Callable[[], None],
    ) -> Ran[T]:
        """Run `work` on a search thread and return what it returned.

        Args:
            work: called with a function to call now and then, which raises when nobody waits any
                more.
            deadline: when the answer is of no use any more.
            at_end: called once when the work has ended, was dropped or refused; on any thread.

        Raises:
            ResourceExhausted: as many calls as allowed are waiting.
            DeadlineExceeded: the deadline passed.
        """
        ticket = Ticket(deadline)
        try:
            self._admit()
        except ResourceExhausted:
            at_end()
            raise
        future = self._pool.submit(self._run, work, ticket, time.perf_counter())
        future.add_done_callback(lambda ended: self._leave(ended, ticket, at_end))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            ticket.abandoned = True
            raise

    def close(self) -> None:
        """Drop what waits; what runs ends on its own."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _admit(self) -> None:
        """Let a call wait, if there is room; free threads are room, too."""
        with self._lock:
            free = max(0, self._threads - self.running)
            if self.waiting >= self._waiting_max + free:
                raise ResourceExhausted(f"{self.waiting} calls are waiting for a search thread")
            self.waiting += 1

    def _run(
        self, work: Callable[[Callable[[], None]], T], ticket: Ticket, queued_s: float
    ) -> Ran[T]:
        started_s = time.perf_counter()
        ticket.check()
        with self._lock:
            ticket.started = True
            self.waiting -= 1
            self.running += 1
        result = work(ticket.check)
        return Ran(result, started_s - queued_s, time.perf_counter() - started_s)

    def _leave(self, _: "Future[Ran[T]]", ticket: Ticket, at_end: Callable[[], None]) -> None:
        with self._lock:
            if ticket.started:
                self.running -= 1
            else:
                self.waiting -= 1
        at_end()


def one_thread_each() -> None:
    """Keep FAISS to the calling thread: searches run side by side, one on each core."""
    faiss.omp_set_num_threads(1)
