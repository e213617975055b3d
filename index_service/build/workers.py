"""Work on all cores: separate processes, one progress bar, one end."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType
from typing import TypeVar

import faiss
from threadpoolctl import threadpool_limits

from rpc.errors import VitrineError
from rpc.terminal import CommandError, progress_bar

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]
"""Says that so many items are done."""

_POLL_S = 0.2
# A worker's view of the counter it shares with its parent. Process state, because a shared counter
# can only be handed over when a process starts.
_done: "Synchronized[int] | None" = None


class Workers:
    """Runs functions over tasks in spawned processes, or in this one when one is enough."""

    def __init__(self, processes: int) -> None:
        """Start nothing yet; processes start with the first task.

        Args:
            processes: how many; with 1 everything runs in the calling process.
        """
        self._context = multiprocessing.get_context("spawn")
        self._done = self._context.Value("q", 0)
        self._pool: ProcessPoolExecutor | None = None
        self.processes = processes
        if processes > 1:
            self._pool = ProcessPoolExecutor(
                processes, self._context, initializer=_start_worker, initargs=(self._done,)
            )

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:
            # Work that nobody wants any more may have minutes to go.
            for worker in multiprocessing.active_children():
                worker.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self,
        work: Callable[[Task, Advance], Result],
        tasks: Sequence[Task],
        description: str,
        total: int,
    ) -> list[Result]:
        """Return the result of each task, in order; the first failure ends all.

        Args:
            work: a module-level function of a task and a callback for its progress.
            tasks: what to work on; sent to other processes.
            description: what the progress bar says.
            total: items that all tasks together will advance by.

        Raises:
            CommandError: a process was killed.
        """
        with progress_bar(description, total) as advance:
            if self._pool is None:
                with single_threaded():
                    return [work(task, advance) for task in tasks]
            futures = [self._pool.submit(_work, work, task) for task in tasks]
            self._follow(futures, advance)
            return [_result(future) for future in futures]

    def _follow(self, futures: Sequence[Future[Result]], advance: Advance) -> None:
        """Wait for all, or for the first failure, and show progress meanwhile."""
        pending = set(futures)
        shown = self._done.value
        while pending:
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
            now = self._done.value
            advance(now - shown)
            shown = now
            for ended in done:
                _result(ended)


def single_threaded() -> threadpool_limits:
    """Keep FAISS and BLAS to one thread each: here cores are shared out among processes.

    HNSW with several threads would also build another graph every time.
    """
    faiss.omp_set_num_threads(1)
    return threadpool_limits(limits=1)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as exc:
        raise CommandError(
            "a build process was killed, perhaps for want of memory; what is finished is kept, "
            "run the same command again"
        ) from exc


def _start_worker(done: "Synchronized[int]") -> None:
    global _done
    _done = done
    # Ctrl-C reaches the whole group; the parent decides, and kills its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    single_threaded()


def _end_with_parent() -> None:
    """End this process when its parent is gone, even by kill -9."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(work: Callable[[Task, Advance], Result], task: Task) -> Result:
    try:
        return work(task, _advance)
    except VitrineError as exc:
        # These do not survive the way between processes; their sentence does.
        raise CommandError(str(exc)) from None


def _advance(items: int) -> None:
    assert _done is not None
    with _done.get_lock():
        _done.value += items
