"""The bounded queue in front of the search threads."""

import asyncio
import threading

import pytest

from index_service.executor import SearchExecutor
from rpc.deadlines import Deadline
from rpc.errors import DeadlineExceeded, ResourceExhausted, Unavailable


class Blocking:
    """Work that says when it has started and waits to be let go."""

    def __init__(self):
        self.started = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, stop):
        self.started.set()
        assert self.go_on.wait(30)
        stop()
        return "done"


@pytest.fixture
def executor():
    made = SearchExecutor(threads=1, waiting_max=2)
    yield made
    made.close()


def soon():
    return Deadline.after(30)


async def started(work):
    assert await asyncio.to_thread(work.started.wait, 30)


async def test_work_is_run_and_timed(executor):
    ended = []
    ran = await executor.run(lambda stop: 42, soon(), lambda: ended.append(1))
    assert ran.result == 42
    assert ran.run_s >= 0
    assert ended == [1]
    assert (executor.waiting, executor.running) == (0, 0)


async def test_a_full_queue_refuses_at_once_and_lets_go(executor):
    work, ended = Blocking(), []
    running = asyncio.ensure_future(executor.run(work, soon(), lambda: None))
    await started(work)
    waiting = [
        asyncio.ensure_future(executor.run(lambda stop: None, soon(), lambda: None))
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="2 calls are waiting"):
        await executor.run(lambda stop: None, soon(), lambda: ended.append(1))
    assert ended == [1]
    work.go_on.set()
    assert (await running).result == "done"
    assert len(await asyncio.gather(*waiting)) == 2
    assert (executor.waiting, executor.running) == (0, 0)


async def test_work_whose_deadline_passed_while_waiting_is_never_started(executor):
    work, late = Blocking(), Blocking()
    running = asyncio.ensure_future(executor.run(work, soon(), lambda: None))
    await started(work)
    waiting = asyncio.ensure_future(executor.run(late, Deadline.after(0), lambda: None))
    await asyncio.sleep(0)
    work.go_on.set()
    await running
    with pytest.raises(DeadlineExceeded, match="waiting for a search thread"):
        await waiting
    assert not late.started.is_set()
    assert executor.waiting == 0


async def test_work_whose_caller_left_while_waiting_is_never_started(executor):
    work, unwanted, ended = Blocking(), Blocking(), []
    running = asyncio.ensure_future(executor.run(work, soon(), lambda: None))
    await started(work)
    waiting = asyncio.ensure_future(executor.run(unwanted, soon(), lambda: ended.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [1]
    work.go_on.set()
    await running
    await executor.run(lambda stop: None, soon(), lambda: None)
    assert not unwanted.started.is_set()
    assert (executor.waiting, executor.running) == (0, 0)


async def test_running_work_learns_that_its_caller_left(executor):
    work, ended = Blocking(), threading.Event()
    running = asyncio.ensure_future(executor.run(work, soon(), ended.set))
    await started(work)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # What it holds is held until it has noticed.
    assert not ended.is_set()
    work.go_on.set()
    assert await asyncio.to_thread(ended.wait, 30)


async def test_an_error_comes_back_and_frees_the_thread(executor):
    def fail(stop):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await executor.run(fail, soon(), lambda: None)
    assert (executor.waiting, executor.running) == (0, 0)


async def test_a_closed_executor_drops_what_waits_and_ends_its_threads():
    executor = SearchExecutor(threads=1, waiting_max=2)
    work, unwanted, ended = Blocking(), Blocking(), []
    running = asyncio.ensure_future(executor.run(work, soon(), lambda: None))
    await started(work)
    waiting = asyncio.ensure_future(executor.run(unwanted, soon(), lambda: ended.append(1)))
    await asyncio.sleep(0)
    executor.close()
    work.go_on.set()
    assert (await running).result == "done"
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    assert ended == [1]
    assert not unwanted.started.is_set()
    assert await asyncio.to_thread(executor.threads.join, 30)


async def test_short_work_runs_where_it_arrives_while_the_threads_have_nothing_to_do(executor):
    here, ended = threading.get_ident(), []
    ran = await executor.run(
        lambda stop: threading.get_ident(), soon(), lambda: ended.append(1), short=True
    )
    assert ran.result == here
    assert ended == [1]
    work = Blocking()
    running = asyncio.ensure_future(executor.run(work, soon(), lambda: None))
    await started(work)
    waiting = asyncio.ensure_future(
        executor.run(lambda stop: threading.get_ident(), soon(), lambda: None, short=True)
    )
    await asyncio.sleep(0)
    work.go_on.set()
    await running
    assert (await waiting).result != here


async def test_short_work_that_fails_or_is_late_lets_go_too(executor):
    def fail(stop):
        raise ValueError("no")

    ended = []
    with pytest.raises(ValueError, match="no"):
        await executor.run(fail, soon(), lambda: ended.append(1), short=True)
    with pytest.raises(DeadlineExceeded, match="waiting for a search thread"):
        await executor.run(fail, Deadline.after(0), lambda: ended.append(2), short=True)
    assert ended == [1, 2]
