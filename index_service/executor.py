"""Runs searches on a few threads behind a bounded queue; drops those nobody waits for.

A search that is over before it could be handed over is run where it arrives, if no other runs or
waits; see docs/adr/0016-short-searches-run-where-they-arrive.md.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import faiss

from rpc.deadlines import Deadline
from rpc.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from rpc.threads import Threads

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


@dataclass(slots=True, eq=False)
class _Job:
    """Work, when it was asked for, and what to do when it is over."""

    work: Callable[[Callable[[], None]], Any]
    ticket: Ticket
    at_end: Callable[[], None]
    queued_s: float
    begun: bool = False

    def run(self) -> Ran[Any]:
        """Do the work, unless nobody waits for it any more."""
        started_s = time.perf_counter()
        try:
            self.ticket.check()
            self.ticket.started = True
            result = self.work(self.ticket.check)
        finally:
            self.at_end()
        return Ran(result, started_s - self.queued_s, time.perf_counter() - started_s)


class SearchExecutor:
    """Threads with a limit on what waits for them."""

    def __init__(self, threads: int, waiting_max: int) -> None:
        self.threads = Threads("search", threads, one_thread_each)
        self._num_threads = threads
        self._waiting_max = waiting_max
        self._lock = Lock()
        self._closed = False
        self.waiting = 0
        self.running = 0
        # The loop's own thread, for short work.
        one_thread_each()

    async def run(
        self,
        work: Callable[[Callable[[], None]], T],
        deadline: Deadline,
        at_end: Callable[[], None],
        *,
        short: bool = False,
    ) -> Ran[T]:
        """Run `work` on a search thread and return what it returned.

        Args:
            work: called with a function to call now and then, which raises when nobody waits any
                more.
            deadline: when the answer is of no use any more.
            at_end: called once when the work has ended, was dropped or refused; on any thread.
            short: the work takes about a millisecond at most; the event loop runs it itself while
                the threads have nothing to do.

        Raises:
            ResourceExhausted: as many calls as allowed are waiting.
            DeadlineExceeded: the deadline passed.
            Unavailable: the executor was closed first.
        """
        job = _Job(work, Ticket(deadline), at_end, time.perf_counter())
        if short and not self.running and not self.waiting:
            return job.run()
        self._admit(job)
        try:
            ran: Ran[T] | None = await self.threads.run(lambda: self._run(job))
        except asyncio.CancelledError:
            job.ticket.abandoned = True
            self._drop(job)
            raise
        assert ran is not None
        return ran

    def close(self) -> None:
        """Drop what waits; what runs ends on its own."""
        self._closed = True
        self.threads.close()

    def _admit(self, job: _Job) -> None:
        """Let a call wait, if there is room; free threads are room, too."""
        with self._lock:
            free = max(0, self._num_threads - self.running)
            has_room = self.waiting < self._waiting_max + free
            self.waiting += has_room
            waiting = self.waiting
        if not has_room:
            job.at_end()
            raise ResourceExhausted(f"{waiting} calls are waiting for a search thread")

    def _run(self, job: _Job) -> Ran[Any] | None:
        """Run a job on this thread; None when it was dropped before."""
        if self._closed:
            self._drop(job)
            raise Unavailable("DRAINING", "the index service is stopping")
        if not self._begin(job):
            return None
        try:
            return job.run()
        finally:
            self._end()

    def _drop(self, job: _Job) -> None:
        """Let go of a job that no thread has begun."""
        if self._begin(job):
            job.at_end()
            self._end()

    def _begin(self, job: _Job) -> bool:
        """Count a job that waits as running; False when somebody else began or dropped it."""
        with self._lock:
            is_first = not job.begun
            job.begun = True
            self.waiting -= is_first
            self.running += is_first
        return is_first

    def _end(self) -> None:
        with self._lock:
            self.running -= 1


def one_thread_each() -> None:
    """Keep FAISS to the calling thread: searches run side by side, one on each core."""
    faiss.omp_set_num_threads(1)
