"""Runs searches on a few threads behind a bounded queue; drops those nobody waits for.

The hand-over is what a search pays twice, to a thread and back, and where the interpreter's lock is
fought over. So it is kept small: a future of asyncio, a queue, one call to wake the loop. A search
that is over before a hand-over would be is run where it arrives, if no other runs or waits; see
docs/adr/0016-short-searches-run-where-they-arrive.md.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

import faiss

from rpc.deadlines import Deadline
from rpc.errors import DeadlineExceeded, ResourceExhausted, Unavailable

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
    """Work, who waits for it, and what to do when it is over."""

    work: Callable[[Callable[[], None]], Any]
    ticket: Ticket
    at_end: Callable[[], None]
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Any]"
    queued_s: float
    begun: bool = False

    def deliver(self, ran: Any, error: BaseException | None) -> None:
        """Hand the outcome to who waits; on the loop."""
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(ran)
        else:
            self.answer.set_exception(error)


class SearchExecutor:
    """Threads with a limit on what waits for them."""

    def __init__(self, threads: int, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = Lock()
        self._closed = False
        self.waiting = 0
        self.running = 0
        self.threads = [
            Thread(target=self._work, name=f"search-{number}", daemon=True)
            for number in range(threads)
        ]
        # The loop's own thread, for short work.
        one_thread_each()
        for thread in self.threads:
            thread.start()

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
        """
        loop = asyncio.get_running_loop()
        ticket = Ticket(deadline)
        job = _Job(work, ticket, at_end, loop, loop.create_future(), time.perf_counter())
        if short and not self.running and not self.waiting:
            return self._run_here(job)
        self._submit(job)
        try:
            ran: Ran[T] = await job.answer
        except asyncio.CancelledError:
            ticket.abandoned = True
            self._drop(job)
            raise
        return ran

    def close(self) -> None:
        """Drop what waits; what runs ends on its own."""
        with self._lock:
            self._closed = True
        for _ in self.threads:
            self._jobs.put(None)

    def _run_here(self, job: _Job) -> Ran[Any]:
        ran, error = self._outcome_of(job)
        job.at_end()
        if ran is None:
            assert error is not None
            raise error
        return ran

    def _submit(self, job: _Job) -> None:
        """Let a call wait, if there is room; free threads are room, too."""
        with self._lock:
            free = max(0, len(self.threads) - self.running)
            has_room = not self._closed and self.waiting < self._waiting_max + free
            self.waiting += has_room
            waiting = self.waiting
        if not has_room:
            job.at_end()
            raise ResourceExhausted(f"{waiting} calls are waiting for a search thread")
        self._jobs.put(job)

    def _drop(self, job: _Job) -> None:
        """Let go of a call that left before a thread took it."""
        if self._begin(job):
            job.at_end()
            self._end()

    def _work(self) -> None:
        """Run jobs until the executor is closed."""
        one_thread_each()
        while (job := self._jobs.get()) is not None:
            if self._begin(job):
                ran, error = self._outcome_of(job)
                job.at_end()
                self._end()
                # A closed loop has nobody left who waits.
                with suppress(RuntimeError):
                    job.loop.call_soon_threadsafe(job.deliver, ran, error)
            del job

    def _outcome_of(self, job: _Job) -> tuple[Ran[Any] | None, BaseException | None]:
        started_s = time.perf_counter()
        try:
            self._require_open()
            job.ticket.check()
            job.ticket.started = True
            result = job.work(job.ticket.check)
        except BaseException as exc:
            return None, exc
        return Ran(result, started_s - job.queued_s, time.perf_counter() - started_s), None

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable("DRAINING", "the index service is stopping")

    def _begin(self, job: _Job) -> bool:
        """Count a job that waits as running; False when somebody else took or dropped it."""
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
