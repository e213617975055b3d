"""Equal queries are encoded once, kept within a bound, and never under another encoder's name."""

import asyncio

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
    first = asyncio.ensure_future(cache.get(KEY, encodings))
    await asyncio.sleep(0)
    encodings.futures[0].set_result(embedding())
    await first

    again = await cache.get(KEY, encodings)

    assert again.cached
    assert again.compute_us == 0
    assert (cache.hits, cache.misses, len(encodings.futures)) == (1, 1, 1)


async def test_equal_queries_in_the_air_share_one_encoding():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    callers = [asyncio.ensure_future(cache.get(KEY, encodings)) for _ in range(3)]
    await asyncio.sleep(0)
    encodings.futures[0].set_result(embedding())

    assert len(await asyncio.gather(*callers)) == 3
    assert len(encodings.futures) == 1


async def test_one_caller_leaving_does_not_stop_the_encoding_for_the_others():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    leaving, staying = (asyncio.ensure_future(cache.get(KEY, encodings)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    assert not encodings.futures[0].cancelled()
    encodings.futures[0].set_result(embedding())

    assert (await staying).encoder_id == "encoder-a"


async def test_the_encoding_is_withdrawn_when_the_last_caller_leaves():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    callers = [asyncio.ensure_future(cache.get(KEY, encodings)) for _ in range(2)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)

    assert encodings.futures[0].cancelled()


async def test_the_bound_in_bytes_holds():
    cache = EmbeddingCache(10_000)
    for number in range(100):
        done = asyncio.get_running_loop().create_future()
        done.set_result(embedding())
        await cache.get(("encoder-a", f"query {number}"), lambda done=done: done)

    assert 0 < cache.size_bytes <= 10_000


async def test_an_embedding_of_another_encoder_is_not_kept():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    for place in range(2):
        caller = asyncio.ensure_future(cache.get(KEY, encodings))
        await asyncio.sleep(0)
        encodings.futures[place].set_result(embedding("encoder-b"))
        await caller

    assert len(encodings.futures) == 2


async def test_a_failed_encoding_is_not_remembered():
    cache, encodings = EmbeddingCache(100_000), Encodings()
    caller = asyncio.ensure_future(cache.get(KEY, encodings))
    await asyncio.sleep(0)
    encodings.futures[0].set_exception(ValueError("down"))
    with pytest.raises(ValueError, match="down"):
        await caller

    again = asyncio.ensure_future(cache.get(KEY, encodings))
    await asyncio.sleep(0)
    encodings.futures[1].set_result(embedding())
    assert not (await again).cached
