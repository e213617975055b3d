import asyncio
import os
import threading

import numpy as np
import pytest

from encoder_service.lanes import Bounds, Lane
from encoder_service.pool import _IDLE_S, WorkerPool
from encoder_service.tokenizer import Tokens
from rpc.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable

QUERY, RERANK, ITEM = Lane


class GatedModel:
    """Runs a text as the code of its first letter, in the order noted, once the gate is open.

    A text of n letters has n tokens; one of more than 9 letters is cut.
    """

    width = (2,)

    def __init__(self):
        self.order = []
        self.alone = []
        self.threads = []
        self.niceness = {}
        self.warmed = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()

    def estimate(self, text):
        return len(text)

    def tokenize(self, texts):
        return [Tokens(np.full((1, len(text)), ord(text[0])), len(text) > 9) for text in texts]

    def run(self, tokens, *, alone):
        letter = chr(tokens.ids[0, 0])
        self.order.append(letter)
        self.alone.append(alone)
        self.threads.append(threading.current_thread().name)
        self.niceness[letter] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.begun.release()
        assert self.gate.wait(timeout=30)
        if letter == "!":
            raise RuntimeError("the graph broke")
        return np.full(2, ord(letter), dtype=np.float32)

    def warm(self):
        self.warmed.append(threading.current_thread().name)


class Observer:
    def __init__(self):
        self.ends = []
        self.drops = []

    def ended(self, lane, done):
        self.ends.append((lane, len(done.values)))

    def dropped(self, lane, texts):
        self.drops.append((lane, texts))


@pytest.fixture
def gated():
    return GatedModel()


@pytest.fixture
def observer():
    return Observer()


@pytest.fixture
def make_pool(gated, observer):
    pools = []

    def make(workers=1, texts_max=4, tokens_max=20, **options):
        bounds = Bounds(texts_max, tokens_max)
        pools.append(
            WorkerPool(
                dict.fromkeys(Lane, gated),
                workers=workers,
                bounds=bounds,
                observer=observer,
                **options,
            )
        )
        pools[-1].wait_until_warm()
        return pools[-1]

    yield make
    gated.gate.set()
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(make_pool):
    return make_pool()


async def begun(gated):
    """Wait until a worker has taken a text and stands at the gate."""
    assert await asyncio.to_thread(gated.begun.acquire, timeout=30)


async def queued():
    """Let tasks that were just made run up to their first wait."""
    await asyncio.sleep(0)


def submit(pool, texts, lane, **options):
    return asyncio.create_task(pool.run(texts, lane, **options))


async def test_rows_come_back_in_the_order_of_the_texts(gated, pool, observer):
    gated.gate.set()
    done = await pool.run(["a", "b", "c"], QUERY)
    assert done.values[:, 0].tolist() == [97, 98, 99]
    assert done.tokens == 3
    assert observer.ends == [(QUERY, 3)]


async def test_every_worker_warms_itself_before_anything_is_taken(gated, make_pool):
    make_pool(workers=2)
    lanes = ("query", "rerank", "item")
    assert sorted(gated.warmed) == sorted(f"{lane}-{n}" for lane in lanes for n in (0, 1))


async def test_a_model_that_cannot_warm_is_said_to_the_starter(observer):
    class Broken(GatedModel):
        def warm(self):
            raise RuntimeError("out of memory")

    pool = WorkerPool({QUERY: Broken()}, workers=1, bounds=Bounds(1, 1), observer=observer)
    with pytest.raises(RuntimeError, match="out of memory"):
        pool.wait_until_warm()
    pool.close()


async def test_a_lone_query_known_to_be_short_is_run_where_it_arrives(gated, make_pool, observer):
    gated.gate.set()
    pool = make_pool(short_s=10.0)
    here = threading.current_thread().name
    await pool.run(["a"], QUERY)
    assert gated.threads == ["query-0"], "nobody knew yet how long it takes"
    await asyncio.sleep(2 * _IDLE_S)
    done = await pool.run(["b" * 20], QUERY)
    assert gated.threads == ["query-0", here]
    assert (done.values[0, 0], done.truncated, done.tokens) == (98, (0,), 20)
    assert observer.ends == [(QUERY, 1), (QUERY, 1)]
    await asyncio.sleep(2 * _IDLE_S)
    await asyncio.gather(pool.run(["c", "d"], QUERY), pool.run(["e"], ITEM))
    assert here not in gated.threads[2:], "several queries, and items, go to threads"


async def test_a_query_that_waited_for_another_goes_to_a_thread(gated, make_pool, monkeypatch):
    gated.gate.set()
    pool = make_pool(short_s=10.0)
    await pool.run(["a"], QUERY)
    monkeypatch.setattr("encoder_service.pool._IDLE_S", 60.0)
    await pool.run(["b"], QUERY)
    assert gated.threads == ["query-0", "query-0"]


async def test_a_long_query_goes_to_a_thread(gated, make_pool):
    gated.gate.set()
    pool = make_pool(short_s=1e-9)
    await pool.run(["a"], QUERY)
    await asyncio.sleep(2 * _IDLE_S)
    await pool.run(["b"], QUERY)
    assert gated.threads == ["query-0", "query-0"]


async def test_a_query_beside_items_goes_to_a_thread(gated, make_pool):
    gated.gate.set()
    pool = make_pool(short_s=10.0)
    await pool.run(["a"], QUERY)
    await begun(gated)
    await asyncio.sleep(2 * _IDLE_S)
    gated.gate.clear()
    items = submit(pool, ["i"], ITEM)
    await begun(gated)
    query = submit(pool, ["q"], QUERY)
    await begun(gated)
    gated.gate.set()
    await asyncio.gather(items, query)
    assert gated.threads == ["query-0", "item-0", "query-0"]


async def test_query_runs_beside_the_items_that_hold_every_worker_of_theirs(gated, pool):
    items = submit(pool, ["i", "j"], ITEM)
    await begun(gated)
    query = submit(pool, ["q"], QUERY)
    await begun(gated)
    assert gated.order == ["i", "q"]
    gated.gate.set()
    await asyncio.gather(items, query)


async def test_lower_lanes_begin_nothing_while_a_higher_one_waits(gated, pool):
    running = [submit(pool, [text], lane) for text, lane in (("i", ITEM), ("r", RERANK))]
    await begun(gated)
    await begun(gated)
    # Both lower lanes stand at the gate; their next texts wait behind two queries.
    waiting = [submit(pool, [text], lane) for text, lane in (("j", ITEM), ("s", RERANK))]
    await queued()
    queries = [submit(pool, ["q"], QUERY), submit(pool, ["p"], QUERY)]
    await begun(gated)
    gated.gate.set()
    await asyncio.gather(*running, *waiting, *queries)
    assert gated.order.index("p") < gated.order.index("s") < gated.order.index("j")


async def test_threads_of_lower_lanes_give_way_to_queries(gated, pool):
    gated.gate.set()
    for text, lane in (("q", QUERY), ("r", RERANK), ("i", ITEM)):
        await pool.run([text], lane)
    assert gated.niceness["q"] < gated.niceness["r"] < gated.niceness["i"]


async def test_only_a_query_without_company_is_alone(gated, make_pool):
    pool = make_pool(workers=2)
    first = submit(pool, ["a"], QUERY)
    await begun(gated)
    second = submit(pool, ["b"], QUERY)
    await begun(gated)
    gated.gate.set()
    await asyncio.gather(first, second)
    await pool.run(["c"], QUERY)
    assert gated.alone == [True, False, True]


async def test_full_lane_refuses_at_once_and_the_other_lane_does_not(gated, pool):
    first = submit(pool, ["i", "j", "k", "l"], ITEM)
    await begun(gated)
    second = submit(pool, ["m"], ITEM)
    await queued()
    assert pool.waiting_texts(ITEM) == 4
    with pytest.raises(ResourceExhausted, match="4 item texts of 4 tokens are waiting"):
        await pool.run(["n"], ITEM)
    query = submit(pool, ["q"], QUERY)
    await queued()
    gated.gate.set()
    await asyncio.gather(first, second, query)
    assert "n" not in gated.order


async def test_tokens_fill_a_lane_as_well_as_texts(gated, pool):
    running = submit(pool, ["a"], QUERY)
    await begun(gated)
    waiting = submit(pool, ["b" * 12], QUERY)
    await queued()
    assert (pool.waiting_texts(QUERY), pool.waiting_tokens(QUERY)) == (1, 12)
    with pytest.raises(ResourceExhausted, match="1 query texts of 12 tokens are waiting, 1 of 9"):
        await pool.run(["c" * 9], QUERY)
    fits = submit(pool, ["d" * 8], QUERY)
    await queued()
    gated.gate.set()
    await asyncio.gather(running, waiting, fits)
    assert pool.waiting_tokens(QUERY) == 0


async def test_a_call_larger_than_the_bound_is_let_into_an_empty_lane(gated, pool):
    gated.gate.set()
    done = await pool.run([letter * 30 for letter in "abcdef"], ITEM)
    assert done.tokens == 180


async def test_time_to_retry_follows_from_what_waits_and_how_fast_it_goes(gated, make_pool):
    pool = make_pool(texts_max=1000, tokens_max=1000)
    # One worker has taken 2 s for 100 tokens: 50 tokens a second.
    pool._lanes.note(tokens=100, seconds=2.0)
    running = submit(pool, ["a"], ITEM)
    await begun(gated)
    waiting = [submit(pool, ["b" * 500, "b" * 400], ITEM), submit(pool, ["r" * 50], RERANK)]
    await queued()
    running_pair = begun(gated)
    await running_pair
    queries = [submit(pool, ["q"], QUERY)]
    await begun(gated)
    queries.append(submit(pool, ["p" * 25], QUERY))
    await queued()
    with pytest.raises(ResourceExhausted) as refused:
        await pool.run(["c" * 200], ITEM)
    # 25 tokens of queries go first; of 900 + 200 tokens in the lane, 100 are too many.
    assert refused.value.retry_after_s == pytest.approx((25 + 100) / 50)
    gated.gate.set()
    await asyncio.gather(running, *waiting, *queries)


async def test_texts_of_a_caller_who_left_are_never_run(gated, pool, observer):
    running = submit(pool, ["a"], QUERY)
    await begun(gated)
    leaving = submit(pool, ["x", "y"], QUERY)
    await queued()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (pool.waiting_texts(QUERY), pool.waiting_tokens(QUERY)) == (0, 0)
    assert observer.drops == [(QUERY, 2)]
    gated.gate.set()
    await running
    await pool.run(["b"], QUERY)
    assert gated.order == ["a", "b"]


async def test_caller_who_leaves_midway_stops_the_rest(gated, pool):
    leaving = submit(pool, ["a", "b", "c"], QUERY)
    await begun(gated)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gated.gate.set()
    await pool.run(["z"], QUERY)
    assert gated.order == ["a", "z"]


async def test_text_whose_deadline_has_passed_is_never_run(gated, pool, observer):
    running = submit(pool, ["a"], QUERY)
    await begun(gated)
    with pytest.raises(DeadlineExceeded):
        await pool.run(["late"], QUERY, within_s=0.01)
    # One whose time is over before the event loop comes to say so.
    late = submit(pool, ["later"], QUERY, within_s=0.0)
    await queued()
    gated.gate.set()
    with pytest.raises(DeadlineExceeded):
        await late
    await running
    await pool.run(["b"], QUERY)
    assert gated.order == ["a", "b"]
    assert observer.drops == [(QUERY, 1), (QUERY, 1)]


async def test_items_go_on_when_the_queries_they_waited_for_are_withdrawn(gated, pool):
    running = submit(pool, ["a"], QUERY)
    await begun(gated)
    query = submit(pool, ["b"], QUERY)
    await queued()
    item = submit(pool, ["i"], ITEM)
    await queued()
    query.cancel()
    await begun(gated)
    assert gated.order == ["a", "i"]
    gated.gate.set()
    await asyncio.gather(running, item)


async def test_long_text_is_reported_or_refused_as_asked(gated, pool):
    gated.gate.set()
    texts = ["short", "longer than nine"]
    assert (await pool.run(texts, QUERY)).truncated == (1,)
    with pytest.raises(InvalidArgument, match=r"texts\[1\]"):
        await pool.run(texts, QUERY, refuse_truncation=True)
    # A call too long to be tokenized at the door.
    texts = ["short"] * 200 + ["longer than nine"]
    assert (await pool.run(texts, ITEM)).truncated == (200,)
    with pytest.raises(InvalidArgument, match=r"texts\[200\]"):
        await pool.run(texts, ITEM, refuse_truncation=True)


async def test_broken_text_fails_its_own_call_only(gated, pool):
    gated.gate.set()
    with pytest.raises(RuntimeError, match="the graph broke"):
        await pool.run(["!", "b"], QUERY)
    assert (await pool.run(["a"], QUERY)).values[0, 0] == 97
    assert pool.waiting_texts(QUERY) == 0


async def test_closing_refuses_what_waits_and_what_comes(gated, pool):
    running = submit(pool, ["a"], QUERY)
    await begun(gated)
    waiting = submit(pool, ["b"], QUERY)
    await queued()
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await pool.run(["c"], QUERY)
    gated.gate.set()
    await closing
    assert (await running).values[0, 0] == 97
    assert gated.order == ["a"]
