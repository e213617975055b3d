import asyncio

import numpy as np

from encoder_service.lanes import Bounds, Call, Lane, Lanes


def call_of(lane, texts, expires_s=10.0):
    return Call(
        lane=lane,
        texts=texts,
        tokens=(),
        costs=[3] * len(texts),
        rows=np.empty((len(texts), 2), dtype=np.float32),
        answer=asyncio.get_running_loop().create_future(),
        refuse_truncation=False,
        queued_s=0.0,
        expires_s=expires_s,
    )


def lanes_of(dropped):
    return Lanes(Bounds(8, 100), 1, lambda lane, count: dropped.append((lane, count)))


async def test_calls_that_leave_a_lane_that_is_not_taken_from_leave_nothing_behind():
    dropped = []
    lanes = lanes_of(dropped)
    lanes.admit(call_of(Lane.QUERY, ["a query"]))
    calls = [call_of(Lane.ITEM, ["one", "two"]) for _ in range(3)]
    for call in calls:
        lanes.admit(call)
    lanes.forget(calls[1])
    lanes.forget(calls[1])
    assert list(lanes.waiting())[1:] == [calls[0], calls[2]]
    assert (lanes.texts[Lane.ITEM], lanes.tokens[Lane.ITEM]) == (4, 12)
    lanes.forget(calls[0])
    lanes.forget(calls[2])
    assert [call.lane for call in lanes.waiting()] == [Lane.QUERY]
    assert (lanes.texts[Lane.ITEM], lanes.tokens[Lane.ITEM]) == (0, 0)
    assert dropped == [(Lane.ITEM, 2)] * 3


async def test_a_lane_is_taken_from_in_order_and_passes_over_what_is_late():
    dropped = []
    lanes = lanes_of(dropped)
    late, half, last = (
        call_of(Lane.ITEM, ["late"], expires_s=1.0),
        call_of(Lane.ITEM, ["one", "two"]),
        call_of(Lane.ITEM, ["three"]),
    )
    for call in (late, half, last):
        lanes.admit(call)
    assert lanes.take(Lane.ITEM, now_s=2.0) == (half, 0)
    assert dropped == [(Lane.ITEM, 1)]
    lanes.forget(half)
    assert lanes.take(Lane.ITEM, now_s=2.0) == (last, 0)
    # Taken whole: there is nothing to drop any more.
    lanes.forget(last)
    assert lanes.take(Lane.ITEM, now_s=2.0) is None
    assert dropped == [(Lane.ITEM, 1), (Lane.ITEM, 1)]
    assert not any(lanes.texts.values())
    assert not any(lanes.tokens.values())
