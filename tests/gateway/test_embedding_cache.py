"""Equal queries are encoded once, kept within a bound, and never under another encoder's name."""

import asyncio
import gc
import tracemalloc

import numpy as np
import pytest

from gateway.embedding_cache import EmbeddingCache
from gateway.encoder_client import Embedding

KEY = ("encoder-a", "red dress")


def embedding(encoder_id="encoder-a"):
    return Embedding(np.ones(4, dtype=np.float32) / 2, encoder_id, compute_us=100)


class Encodings:
    """Makes futures that the test answers."""

    def __init__(self):
        self.futures = []

    def __call__(self):
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


async def test_a_second_look_up_is_a_hit_that_costs_no_inference():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    first = asyncio.ensure_future(cache.get(KEY, encodings, 60.0))
    await asyncio.sleep(0)
    encodings.futures[0].set_result(embedding())
    await first

    again = await cache.get(KEY, encodings, 60.0)

    assert again.cached
    assert again.compute_us == 0
    assert (cache.hits, cache.misses, len(encodings.futures)) == (1, 1, 1)


async def test_equal_queries_in_the_air_share_one_encoding():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    callers = [asyncio.ensure_future(cache.get(KEY, encodings, 60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    encodings.futures[0].set_result(embedding())

    assert len(await asyncio.gather(*callers)) == 3
    assert len(encodings.futures) == 1
    assert (cache.misses, cache.shared) == (1, 2)


async def test_one_caller_leaving_does_not_stop_the_encoding_for_the_others():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    leaving, staying = (asyncio.ensure_future(cache.get(KEY, encodings, 60.0)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    assert not encodings.futures[0].cancelled()
    encodings.futures[0].set_result(embedding())

    assert (await staying).encoder_id == "encoder-a"


async def test_the_encoding_is_withdrawn_when_the_last_caller_leaves():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    callers = [asyncio.ensure_future(cache.get(KEY, encodings, 60.0)) for _ in range(2)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert encodings.futures[0].cancelled()


def answered(answer):
    done = asyncio.get_running_loop().create_future()
    done.set_result(answer)
    return done


async def fill(cache, count, dim=4, text="query"):
    for number in range(count):
        # As the client gives them: a row of an answer that many queries shared.
        row = np.ones((8, dim), dtype=np.float32)[number % 8]
        key = ("encoder-a", f"{text} {number}")
        await cache.get(key, lambda row=row: answered(Embedding(row, "".join("encoder-a"))), 60.0)


async def test_the_bound_in_bytes_holds_and_evictions_are_counted():
    cache = EmbeddingCache(10_000)
    await fill(cache, 100)

    kept = 100 - cache.evictions
    assert 20 < kept < 30
    assert 9_000 < cache.size_bytes <= 10_000


@pytest.mark.parametrize(("dim", "text"), [(4, "q"), (384, "red dress"), (768, "shoes " * 100)])
async def test_the_bytes_counted_are_the_bytes_taken(dim, text):
    cache = EmbeddingCache(1 << 30)
    gc.collect()
    tracemalloc.start()
    await fill(cache, 2_000, dim, text)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert cache.size_bytes == pytest.approx(taken, rel=0.15)


async def test_the_least_recently_asked_makes_room():
    cache = EmbeddingCache(1_300)
    await fill(cache, 3)
    await cache.get(("encoder-a", "query 0"), Encodings(), 60.0)
    await cache.get(("encoder-a", "new"), lambda: answered(embedding()), 60.0)

    await cache.get(("encoder-a", "query 0"), Encodings(), 60.0)
    assert (cache.hits, cache.evictions) == (2, 1)


async def test_a_bypassed_cache_is_neither_asked_nor_filled():
    cache = EmbeddingCache(100_000)
    await cache.get(KEY, lambda: answered(embedding()), 60.0, bypass=True)
    assert cache.size_bytes == 0
    await cache.get(KEY, lambda: answered(embedding()), 60.0)
    again = await cache.get(KEY, lambda: answered(embedding()), 60.0, bypass=True)

    assert not again.cached
    assert (cache.hits, cache.misses, cache.bypassed) == (0, 1, 2)


async def test_a_bypassing_caller_who_leaves_withdraws_its_encoding():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    leaving = asyncio.ensure_future(cache.get(KEY, encodings, 60.0, bypass=True))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    assert encodings.futures[0].cancelled()


async def test_an_embedding_is_kept_under_the_encoder_that_made_it():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    await cache.get(KEY, lambda: answered(embedding("encoder-b")), 60.0)

    kept = await cache.get(("encoder-b", "red dress"), encodings, 60.0)
    assert (kept.cached, kept.encoder_id, len(encodings.futures)) == (True, "encoder-b", 0)
    asked_again = await cache.get(KEY, lambda: answered(embedding()), 60.0)
    assert (asked_again.cached, asked_again.encoder_id) == (False, "encoder-a")
    assert (await cache.get(KEY, encodings, 60.0)).encoder_id == "encoder-a"


async def test_a_failed_encoding_is_not_remembered():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    caller = asyncio.ensure_future(cache.get(KEY, encodings, 60.0))
    await asyncio.sleep(0)
    encodings.futures[0].set_exception(ValueError("down"))
    with pytest.raises(ValueError, match="down"):
        await caller

    again = asyncio.ensure_future(cache.get(KEY, encodings, 60.0))
    await asyncio.sleep(0)
    encodings.futures[1].set_result(embedding())
    assert not (await again).cached


async def test_who_waited_too_long_leaves_and_others_still_get_it():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    patient = asyncio.ensure_future(cache.get(KEY, encodings, 60.0))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await cache.get(KEY, encodings, 0.01)
    [encoding] = encodings.futures
    assert not encoding.done()
    encoding.set_result(embedding())
    assert (await patient).encoder_id == "encoder-a"


async def test_an_encoding_that_nobody_waits_for_any_more_is_withdrawn():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    with pytest.raises(TimeoutError):
        await cache.get(KEY, encodings, 0.01)
    [encoding] = encodings.futures
    await asyncio.sleep(0)
    assert encoding.cancelled()


async def test_an_encoding_that_fails_while_the_alarm_rings_is_no_error_of_the_loop():
    cache, encodings, complaints = EmbeddingCache(100_000), Encodings(), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    caller = asyncio.ensure_future(cache.get(KEY, encodings, 0.0))
    await asyncio.sleep(0)
    # In the turn after this one: the alarm has rung by then, and the caller does not know yet.
    loop.call_soon(encodings.futures.pop().set_exception, ValueError("down"))

    with pytest.raises(TimeoutError):
        await caller
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_who_still_waits_for_a_failed_encoding_does_not_hold_the_next_one():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    first = asyncio.ensure_future(cache.get(KEY, encodings, 60.0))
    await asyncio.sleep(0)
    encodings.futures[0].set_exception(ValueError("down"))
    # In the same turn, before the first caller hears of it, another one comes and goes.
    second = cache.get(KEY, encodings, 60.0)
    second.send(None)
    with pytest.raises(asyncio.CancelledError):
        second.throw(asyncio.CancelledError())

    assert encodings.futures[1].cancelled()
    with pytest.raises(ValueError, match="down"):
        await first
