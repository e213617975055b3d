"""Threads for an event loop: results, errors and wake-ups arrive where they are awaited."""

import asyncio
import threading

import pytest

from rpc.threads import Threads


@pytest.fixture
def threads():
    made = Threads("test", 2)
    yield made
    made.close()
    assert made.join(30)


async def test_a_result_comes_back_from_a_thread_of_that_name(threads):
    name = await threads.run(lambda: threading.current_thread().name)
    assert name in ("test-0", "test-1")


async def test_an_error_comes_back_as_it_was_raised(threads):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await threads.run(fail)
    assert await threads.run(lambda: 1) == 1


async def test_as_many_run_side_by_side_as_there_are_threads(threads):
    both = threading.Barrier(2)
    places = await asyncio.gather(*(threads.run(lambda: both.wait(30)) for _ in range(2)))
    assert sorted(places) == [0, 1]


async def test_each_thread_begins_as_it_is_told_to():
    begun = []
    threads = Threads("test", 2, lambda: begun.append(threading.current_thread().name))
    threads.close()
    assert await asyncio.to_thread(threads.join, 30)
    assert sorted(begun) == ["test-0", "test-1"]


async def test_what_was_given_before_closing_is_done_and_nobody_need_wait_for_it(threads):
    done = threading.Event()
    threads.run(done.set).cancel()
    threads.close()
    assert await asyncio.to_thread(done.wait, 30)


def test_work_that_outlives_its_loop_is_done_all_the_same():
    threads, go_on, done = Threads("test", 1), threading.Event(), threading.Event()

    def work():
        assert go_on.wait(30)
        done.set()

    async def leave():
        threads.run(work)

    asyncio.run(leave())
    go_on.set()
    threads.close()
    assert threads.join(30)
    assert done.is_set()
