"""Questions share calls while one is in flight; cancelled ones cost nothing downstream."""

import asyncio
import gc
import weakref

import pytest

from gateway.coalesce import Coalescer
from rpc.deadlines import Deadline
from rpc.errors import ResourceExhausted

SOON = Deadline.after(60)


class Doubler:
    """Answers each question with its double, once it is let go."""

    def __init__(self):
        self.calls = []
        self.cancelled = 0
        self.let_go = asyncio.Event()

    async def __call__(self, group, batch):
        self.calls.append((group, list(batch.questions)))
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [2 * question for question in batch.questions]


def coalescer_of(call, **limits):
    return Coalescer("test", call, **{"calls_max": 1, "batch_max": 8, "waiting_max": 100} | limits)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_during_a_call_goes_together_in_the_next():
    call = Doubler()
    coalescer = coalescer_of(call)
    first = coalescer.submit(1, SOON)
    await turns()
    rest = [coalescer.submit(number, SOON) for number in (2, 3, 4)]
    await turns()
    call.let_go.set()

    assert await first == 2
    assert await asyncio.gather(*rest) == [4, 6, 8]
    assert [questions for _, questions in call.calls] == [[1], [2, 3, 4]]


async def test_questions_that_arrive_together_leave_together():
    call = Doubler()
    call.let_go.set()
    coalescer = coalescer_of(call)

    answers = await asyncio.gather(*(coalescer.submit(number, SOON) for number in range(5)))

    assert answers == [0, 2, 4, 6, 8]
    assert len(call.calls) == 1


async def test_groups_never_share_a_call():
    call = Doubler()
    call.let_go.set()
    coalescer = coalescer_of(call)

    await asyncio.gather(coalescer.submit(1, SOON, "a"), coalescer.submit(2, SOON, "b"))

    assert sorted(call.calls) == [("a", [1]), ("b", [2])]


async def test_a_call_is_cancelled_when_everyone_who_asked_has_left():
    call = Doubler()
    coalescer = coalescer_of(call)
    futures = [coalescer.submit(1, SOON), coalescer.submit(2, SOON)]
    await turns()
    futures[0].cancel()
    await turns()
    assert call.cancelled == 0

    futures[1].cancel()
    await turns()

    assert call.cancelled == 1


async def test_a_question_withdrawn_while_waiting_is_never_asked():
    call = Doubler()
    coalescer = coalescer_of(call)
    first = coalescer.submit(1, SOON)
    await turns()
    withdrawn, kept = coalescer.submit(2, SOON), coalescer.submit(3, SOON)
    withdrawn.cancel()
    call.let_go.set()

    assert await first == 2
    assert await kept == 6
    assert [questions for _, questions in call.calls] == [[1], [3]]


async def test_a_question_withdrawn_while_waiting_takes_no_place_in_a_call():
    call = Doubler()
    coalescer = coalescer_of(call, batch_max=2)
    first = coalescer.submit(1, SOON)
    await turns()
    withdrawn, *kept = [coalescer.submit(number, SOON) for number in (2, 3, 4)]
    withdrawn.cancel()
    call.let_go.set()

    assert await asyncio.gather(first, *kept) == [2, 6, 8]
    assert [questions for _, questions in call.calls] == [[1], [3, 4]]


class Group:
    """A group of its own, that a weak reference can follow."""


async def test_nothing_stays_of_a_group_whose_questions_were_all_withdrawn():
    coalescer, group = coalescer_of(Doubler()), Group()
    left = weakref.ref(group)
    for _ in range(3):
        coalescer.submit(1, SOON, group).cancel()
    await turns()
    del group
    gc.collect()

    assert left() is None


async def test_a_shared_call_has_no_more_bytes_than_allowed():
    call = Doubler()
    call.let_go.set()
    # A question has as many bytes as its number says.
    coalescer = coalescer_of(call, bytes_of=int, batch_bytes_max=10)

    answers = await asyncio.gather(*(coalescer.submit(n, SOON) for n in (4, 6, 1, 50, 9, 1, 1)))

    assert answers == [8, 12, 2, 100, 18, 2, 2]
    assert [questions for _, questions in call.calls] == [[4, 6], [1], [50], [9, 1], [1]]


async def test_a_withdrawn_question_adds_no_bytes():
    call = Doubler()
    coalescer = coalescer_of(call, bytes_of=int, batch_bytes_max=10)
    first = coalescer.submit(1, SOON)
    await turns()
    kept, withdrawn, also_kept = [coalescer.submit(number, SOON) for number in (2, 9, 8)]
    withdrawn.cancel()
    call.let_go.set()

    assert await asyncio.gather(first, kept, also_kept) == [2, 4, 16]
    assert [questions for _, questions in call.calls] == [[1], [2, 8]]


async def test_a_full_queue_refuses_at_once():
    coalescer = coalescer_of(Doubler(), waiting_max=2)
    futures = [coalescer.submit(number, SOON) for number in (1, 2)]

    with pytest.raises(ResourceExhausted):
        coalescer.submit(3, SOON)
    for future in futures:
        future.cancel()


async def test_a_failed_call_fails_those_who_asked_and_nobody_else():
    failures = [ValueError("no"), None]

    async def call(_group, batch):
        if (failure := failures.pop(0)) is not None:
            raise failure
        return batch.questions

    coalescer = coalescer_of(call)
    first = coalescer.submit(1, SOON)
    with pytest.raises(ValueError, match="no"):
        await first

    assert await coalescer.submit(2, SOON) == 2


async def test_a_batch_has_the_latest_deadline_of_its_questions():
    seen = []

    async def call(_group, batch):
        seen.append(batch.deadline)
        return batch.questions

    coalescer = coalescer_of(call)
    sooner, later = Deadline(1.0), Deadline(2.0)
    await asyncio.gather(coalescer.submit(1, later), coalescer.submit(2, sooner))

    assert seen == [later]
