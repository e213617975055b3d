"""Deadlines: the sooner of caller's and default, shared out, never negative."""

import asyncio

import pytest

from rpc import deadlines
from rpc.deadlines import Alarms, Deadline


class Call:
    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands at 100 s until it is moved."""

    class Clock:
        now_s = 100.0

    monkeypatch.setattr(deadlines.time, "monotonic", lambda: Clock.now_s)
    return Clock


@pytest.mark.parametrize(("caller_s", "at_s"), [(None, 105.0), (2.0, 102.0), (60.0, 105.0)])
def test_the_sooner_of_caller_and_default_counts(clock, caller_s, at_s):
    assert Deadline.of_call(Call(caller_s), default_s=5.0).at_s == at_s


def test_a_stage_gets_its_share_of_what_is_left(clock):
    deadline = Deadline.after(10.0)
    clock.now_s = 104.0
    assert deadline.remaining_s() == 6.0
    assert deadline.share_s(0.5) == 3.0
    assert deadline.share_s(0.5, most_s=1.0) == 1.0


def test_a_passed_deadline_leaves_nothing(clock):
    deadline = Deadline.after(1.0)
    assert not deadline.passed
    clock.now_s = 101.0
    assert deadline.passed
    clock.now_s = 150.0
    assert deadline.remaining_s() == 0.0
    assert deadline.share_s(0.5) == 0.0


class Timers:
    """Counts the timers that alarms set on the running loop."""

    def __init__(self, monkeypatch):
        self.set = 0
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def counted(*arguments):
            self.set += 1
            return call_later(*arguments)

        monkeypatch.setattr(loop, "call_later", counted)


def a_future():
    return asyncio.get_running_loop().create_future()


async def test_a_wait_ends_with_its_result_and_sets_no_timer_of_its_own(monkeypatch):
    alarms, first = Alarms(), a_future()
    waiting = asyncio.ensure_future(alarms.within(first, 60.0))
    await asyncio.sleep(0)
    timers = Timers(monkeypatch)
    for number in range(100):
        future = a_future()
        later = asyncio.ensure_future(alarms.within(future, 61.0))
        await asyncio.sleep(0)
        future.set_result(number)
        assert await later == number
    assert timers.set == 0
    first.set_result("first")
    assert await waiting == "first"
    alarms.close()


async def test_a_wait_whose_time_is_over_is_told_and_others_go_on():
    alarms, others = Alarms(), a_future()
    waiting = asyncio.ensure_future(alarms.within(others, 60.0))
    await asyncio.sleep(0)
    late = a_future()
    with pytest.raises(TimeoutError):
        await alarms.within(late, 0.01)
    assert isinstance(late.exception(), TimeoutError)
    later = a_future()
    with pytest.raises(TimeoutError):
        await alarms.within(later, 0.02)
    others.set_result(1)
    assert await waiting == 1
    alarms.close()


async def test_no_time_at_all_is_over_at_once_unless_the_result_is_there():
    alarms, there = Alarms(), a_future()
    there.set_result(1)
    assert await alarms.within(there, 0.0) == 1
    with pytest.raises(TimeoutError):
        await alarms.within(a_future(), 0.0)


async def test_a_wait_that_outlasts_the_alarms_ends_with_its_result():
    alarms = Alarms()
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(alarms.within(future, 10.0))
    await asyncio.sleep(0)
    alarms.close()
    future.set_result("late")
    assert await waiting == "late"


async def test_a_wait_that_is_cancelled_cancels_what_it_waits_for():
    alarms, future = Alarms(), a_future()
    waiting = asyncio.ensure_future(alarms.within(future, 60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert future.cancelled()
    alarms.close()
