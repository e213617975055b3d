"""Of two replicas that were asked the same, the one that answers counts."""

import asyncio

import pytest

from gateway.shard_client import _first_success

# A set has its own order: enough pairs that each outcome comes first in some of them.
PAIRS = 32


def pair():
    loop = asyncio.get_running_loop()
    return loop.create_future(), loop.create_future()


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_success_wins_over_a_failure_of_the_same_moment():
    for number in range(PAIRS):
        failed, answered = pair()
        failed.set_exception(ValueError("no"))
        answered.set_result(number)

        assert await _first_success({failed, answered}) == number


async def test_a_success_wins_over_a_call_cancelled_in_the_same_moment():
    for number in range(PAIRS):
        cancelled, answered = pair()
        cancelled.cancel()
        answered.set_result(number)

        assert await _first_success({cancelled, answered}) == number


async def test_a_failure_waits_for_the_other_call():
    failed, answered = pair()
    failed.set_exception(ValueError("no"))
    first = asyncio.ensure_future(_first_success({failed, answered}))
    await turns()
    assert not first.done()
    answered.set_result("late")

    assert await first == "late"


async def test_when_all_fail_the_last_error_is_told():
    early, late = pair()
    early.set_exception(ValueError("early"))
    first = asyncio.ensure_future(_first_success({early, late}))
    await turns()
    late.set_exception(ValueError("late"))

    with pytest.raises(ValueError, match="late"):
        await first
