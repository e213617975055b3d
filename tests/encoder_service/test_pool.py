import asyncio
import threading

import numpy as np
import pytest

from encoder_service.pool import EncoderPool, Lane
from encoder_service.tokenizer import Tokens
from rpc.errors import InvalidArgument, ResourceExhausted, Unavailable


class GatedEncoder:
    """Embeds a text as its length, in the order noted, once the gate is open."""

    def __init__(self):
        self.order = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()

    def tokenize(self, texts):
        return [Tokens(np.array([[ord(text[0])]]), truncated=len(text) > 9) for text in texts]

    def embed(self, tokens):
        self.order.append(chr(tokens[0].ids[0, 0]))
        self.begun.release()
        assert self.gate.wait(timeout=30)
        if self.order[-1] == "!":
            raise RuntimeError("the graph broke")
        return np.full((1, 2), ord(self.order[-1]), dtype=np.float32)


class Observer:
    def __init__(self):
        self.ends = []

    def ended(self, lane, encoded):
        self.ends.append((lane, len(encoded.vectors)))


@pytest.fixture
def gated():
    return GatedEncoder()


@pytest.fixture
def observer():
    return Observer()


@pytest.fixture
def pool(gated, observer):
    pool = EncoderPool(gated, 2, workers=1, queue_texts_max=4, observer=observer)
    yield pool
    gated.gate.set()
    pool.close()


async def begun(gated):
    """Wait until the only worker has taken a text and stands at the gate."""
    assert await asyncio.to_thread(gated.begun.acquire, timeout=30)


async def queued():
    """Let tasks that were just made run up to their first wait."""
    await asyncio.sleep(0)


async def test_rows_come_back_in_the_order_of_the_texts(gated, pool, observer):
    gated.gate.set()
    encoded = await pool.encode(["a", "b", "c"], Lane.QUERY)
    assert encoded.vectors[:, 0].tolist() == [97, 98, 99]
    assert encoded.tokens == 3
    assert observer.ends == [(Lane.QUERY, 3)]


async def test_query_overtakes_the_items_that_wait(gated, pool):
    items = asyncio.create_task(pool.encode(["i", "j", "k"], Lane.ITEM))
    await begun(gated)
    query = asyncio.create_task(pool.encode(["q"], Lane.QUERY))
    await queued()
    gated.gate.set()
    await asyncio.gather(items, query)
    assert gated.order == ["i", "q", "j", "k"]


async def test_full_lane_refuses_at_once_and_the_other_lane_does_not(gated, pool):
    first = asyncio.create_task(pool.encode(["i", "j", "k", "l"], Lane.ITEM))
    await begun(gated)
    second = asyncio.create_task(pool.encode(["m"], Lane.ITEM))
    await queued()
    assert pool.waiting(Lane.ITEM) == 4
    with pytest.raises(ResourceExhausted, match="4 item texts are waiting"):
        await pool.encode(["n"], Lane.ITEM)
    query = asyncio.create_task(pool.encode(["q"], Lane.QUERY))
    await queued()
    gated.gate.set()
    await asyncio.gather(first, second, query)
    assert "n" not in gated.order


async def test_texts_of_a_caller_who_left_are_never_encoded(gated, pool):
    running = asyncio.create_task(pool.encode(["a"], Lane.QUERY))
    await begun(gated)
    leaving = asyncio.create_task(pool.encode(["x", "y"], Lane.QUERY))
    await queued()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert pool.waiting(Lane.QUERY) == 0
    gated.gate.set()
    await running
    await pool.encode(["b"], Lane.QUERY)
    assert gated.order == ["a", "b"]


async def test_caller_who_leaves_midway_stops_the_rest(gated, pool):
    leaving = asyncio.create_task(pool.encode(["a", "b", "c"], Lane.QUERY))
    await begun(gated)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gated.gate.set()
    await pool.encode(["z"], Lane.QUERY)
    assert gated.order == ["a", "z"]


async def test_long_text_is_reported_or_refused_as_asked(gated, pool):
    gated.gate.set()
    texts = ["short", "longer than nine"]
    assert (await pool.encode(texts, Lane.QUERY)).truncated == (1,)
    with pytest.raises(InvalidArgument, match=r"texts\[1\]"):
        await pool.encode(texts, Lane.QUERY, refuse_truncation=True)


async def test_broken_text_fails_its_own_call_only(gated, pool):
    gated.gate.set()
    with pytest.raises(RuntimeError, match="the graph broke"):
        await pool.encode(["!"], Lane.QUERY)
    assert (await pool.encode(["a"], Lane.QUERY)).vectors[0, 0] == 97


async def test_closing_refuses_what_waits_and_what_comes(gated, pool):
    running = asyncio.create_task(pool.encode(["a"], Lane.QUERY))
    await begun(gated)
    waiting = asyncio.create_task(pool.encode(["b"], Lane.QUERY))
    await queued()
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await pool.encode(["c"], Lane.QUERY)
    gated.gate.set()
    await closing
    assert (await running).vectors[0, 0] == 97
    assert gated.order == ["a"]
