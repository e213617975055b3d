"""The life of a query against exact fakes over real gRPC: right answers, and truth when short."""

import asyncio

import grpc
import numpy as np
import pytest

from gateway.fanout import ShardState
from gateway.query import GivenEmbedding, LikeItems, SearchPlan, TextQuery
from gateway.search import Degraded
from protos.vitrine.v1 import types_pb2
from rpc.deadlines import Deadline
from rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unimplemented,
)
from tests.gateway.fakes import DIM, catalogue, nearest, running, vector_of

DRESS = TextQuery("red dress")


def soon(seconds=5.0):
    return Deadline.after(seconds)


def found(answer):
    return list(zip(answer.hits.item_ids, answer.hits.scores, strict=True))


@pytest.mark.parametrize("num_shards", [1, 2, 4, 7])
async def test_any_number_of_shards_answers_like_sorting_everything(tmp_path, num_shards):
    async with running(tmp_path, num_shards=num_shards) as it:
        answer = await it.searcher.search(SearchPlan(DRESS, top_k=15), soon())

    assert found(answer) == nearest(catalogue(), vector_of("red dress"), 15)
    assert answer.coverage.fraction == 1.0
    assert answer.degraded == ()


async def test_results_carry_their_items(tmp_path):
    async with running(tmp_path) as it:
        answer = await it.searcher.search(SearchPlan(DRESS, top_k=3), soon())

    assert set(answer.items) == set(answer.hits.item_ids)


async def test_concurrent_queries_share_calls_to_encoder_and_shards(tmp_path):
    async with running(tmp_path) as it:
        plans = [SearchPlan(TextQuery(f"query {n}"), top_k=5) for n in range(40)]
        answers = await asyncio.gather(*(it.searcher.search(p, soon()) for p in plans))

        assert sum(len(texts) for texts in it.encoder.calls) == 40
        assert len(it.encoder.calls) < 10
        assert all(len(shard.calls) < 20 for shard in it.shards)
    for number, answer in enumerate(answers):
        assert found(answer) == nearest(catalogue(), vector_of(f"query {number}"), 5)


async def test_more_like_these_leaves_the_named_items_out(tmp_path):
    items = catalogue()
    async with running(tmp_path, items) as it:
        like = LikeItems(("item-001", "item-002"), ("item-003",))
        answer = await it.searcher.search(SearchPlan(like, top_k=5), soon())

    direction = (items["item-001"] + items["item-002"]) / 2 - items["item-003"]
    others = {i: v for i, v in items.items() if i not in {"item-001", "item-002", "item-003"}}
    expected = nearest(others, direction / np.linalg.norm(direction), 5)
    assert [item_id for item_id, _ in found(answer)] == [item_id for item_id, _ in expected]


async def test_more_like_an_unknown_item_is_not_found(tmp_path):
    async with running(tmp_path) as it:
        with pytest.raises(NotFound, match="no-such-item"):
            await it.searcher.search(SearchPlan(LikeItems(("no-such-item",))), soon())


@pytest.mark.parametrize(
    "vector", [np.ones(DIM + 1), np.zeros(DIM), np.array([np.nan] * DIM)], ids=str
)
async def test_a_meaningless_embedding_is_refused(tmp_path, vector):
    async with running(tmp_path) as it:
        plan = SearchPlan(GivenEmbedding(vector.astype(np.float32)))
        with pytest.raises(InvalidArgument):
            await it.searcher.search(plan, soon())


async def test_an_embedding_of_any_length_is_scaled(tmp_path):
    vector = vector_of("red dress")
    async with running(tmp_path) as it:
        answer = await it.searcher.search(SearchPlan(GivenEmbedding(17 * vector)), soon())

    assert answer.hits.item_ids == tuple(i for i, _ in nearest(catalogue(), vector, 10))


async def test_pages_continue_where_the_last_one_ended(tmp_path):
    async with running(tmp_path) as it:
        seen, token = [], ""
        for _ in range(4):
            plan = SearchPlan(DRESS, top_k=10, page_token=token, fingerprint=5)
            answer = await it.searcher.search(plan, soon())
            seen += found(answer)
            token = answer.next_page_token

    assert seen == nearest(catalogue(), vector_of("red dress"), 40)


async def test_a_page_is_the_last_when_it_is_not_full(tmp_path):
    async with running(tmp_path) as it:
        answer = await it.searcher.search(SearchPlan(DRESS, top_k=50), soon())

    assert len(answer.hits) == 40
    assert answer.next_page_token == ""


async def test_min_score_cuts_the_tail(tmp_path):
    best = nearest(catalogue(), vector_of("red dress"), 3)
    async with running(tmp_path) as it:
        answer = await it.searcher.search(SearchPlan(DRESS, min_score=best[2][1]), soon())

    assert found(answer) == best


async def test_a_dead_shard_is_listed_and_the_rest_answers(tmp_path):
    async with running(tmp_path) as it:
        await it.shard_servers[1].stop(grace=0)
        answer = await it.searcher.search(SearchPlan(DRESS, top_k=40), soon())

        assert [o.state for o in answer.coverage.outcomes] == [
            ShardState.OK,
            ShardState.UNAVAILABLE,
        ]
        assert len(answer.hits) == len(it.shards[0].generations[1])
        assert answer.degraded == (Degraded.PARTIAL_COVERAGE,)
        assert 0 < answer.coverage.fraction < 1
        with pytest.raises(Unavailable, match="coverage"):
            await it.searcher.search(SearchPlan(DRESS, min_coverage=0.99), soon())


async def test_no_shard_at_all_is_unavailable_never_empty(tmp_path):
    async with running(tmp_path) as it:
        for server in it.shard_servers:
            await server.stop(grace=0)

        with pytest.raises(Unavailable):
            await it.searcher.search(SearchPlan(DRESS), soon())


async def test_a_slow_shard_costs_its_share_and_is_then_left_alone(tmp_path):
    async with running(tmp_path, shard_timeout_s=0.2) as it:
        it.shards[1].search_delay_s = it.shards[1].describe_delay_s = 30.0
        first = await it.searcher.search(SearchPlan(DRESS), soon())
        await it.cluster.look()
        second = await it.searcher.search(SearchPlan(DRESS), soon())
        it.shards[1].search_delay_s = it.shards[1].describe_delay_s = 0.0
        await it.cluster.look()
        third = await it.searcher.search(SearchPlan(DRESS), soon())

    states = [a.coverage.outcomes[1].state for a in (first, second, third)]
    assert states == [ShardState.TIMEOUT, ShardState.SUSPENDED, ShardState.OK]


async def test_a_search_that_only_slow_shards_could_answer_is_past_its_deadline(tmp_path):
    async with running(tmp_path, shard_timeout_s=0.1) as it:
        for shard in it.shards:
            shard.search_delay_s = 30.0

        with pytest.raises(DeadlineExceeded, match="search"):
            await it.searcher.search(SearchPlan(DRESS), soon())


async def test_a_slow_encoder_is_past_its_deadline_and_gets_cancelled(tmp_path):
    async with running(tmp_path) as it:
        it.encoder.delay_s = 30.0
        with pytest.raises(DeadlineExceeded, match="embed"):
            await it.searcher.search(SearchPlan(DRESS), soon(0.3))
        await until(lambda: it.encoder.cancelled == 1)


@pytest.mark.parametrize("bypass", [False, True])
async def test_an_impatient_search_fails_nobody_who_shares_its_encoding(tmp_path, bypass):
    async with running(tmp_path) as it:
        it.encoder.delay_s = 0.2
        plan = SearchPlan(DRESS, top_k=5, bypass_embedding_cache=bypass)
        deadlines = (soon(0.02), soon(), soon())
        impatient, *patient = await asyncio.gather(
            *(it.searcher.search(plan, deadline) for deadline in deadlines), return_exceptions=True
        )

        assert it.encoder.calls == [["red dress"] * (3 if bypass else 1)]
    assert isinstance(impatient, DeadlineExceeded)
    for answer in patient:
        assert found(answer) == nearest(catalogue(), vector_of("red dress"), 5)


async def test_an_encoding_that_only_impatient_searches_shared_is_withdrawn(tmp_path):
    async with running(tmp_path) as it:
        it.encoder.delay_s = 30.0
        searches = (it.searcher.search(SearchPlan(DRESS), soon(0.3)) for _ in range(3))
        outcomes = await asyncio.gather(*searches, return_exceptions=True)
        await until(lambda: it.encoder.cancelled == 1)

        assert it.encoder.calls == [["red dress"]]
    assert all(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)


async def test_searches_with_a_large_filter_share_calls_that_fit_a_message(tmp_path):
    values = [types_pb2.FilterValue(keyword=f"brand {n:04}") for n in range(700)]
    one_of = types_pb2.OneOfFilter(attribute="brand", values=values)
    filter_ = types_pb2.Filter(one_of=one_of).SerializeToString()
    assert 9_000 < len(filter_) < 11_000
    async with running(tmp_path, num_shards=1, message_bytes_max=64 * 1024) as it:
        plans = [SearchPlan(TextQuery(f"query {n}"), filter=filter_) for n in range(20)]
        answers = await asyncio.gather(*(it.searcher.search(p, soon()) for p in plans))

        assert max(it.shards[0].calls) == 3
    for number, answer in enumerate(answers):
        assert found(answer) == nearest(catalogue(), vector_of(f"query {number}"), 10)


async def test_a_search_that_is_cancelled_stops_the_shards(tmp_path):
    async with running(tmp_path) as it:
        for shard in it.shards:
            shard.search_delay_s = 30.0
        searching = asyncio.ensure_future(it.searcher.search(SearchPlan(DRESS), soon()))
        await until(lambda: all(shard.calls for shard in it.shards))
        searching.cancel()

        await until(lambda: all(shard.cancelled for shard in it.shards))


async def test_without_an_encoder_texts_fail_and_items_still_work(tmp_path):
    async with running(tmp_path) as it:
        await it.encoder_server.stop(grace=0)

        with pytest.raises(Unavailable, match="encoder"):
            await it.searcher.search(SearchPlan(DRESS), soon())
        answer = await it.searcher.search(SearchPlan(LikeItems(("item-001",))), soon())
        assert len(answer.hits) == 10


async def test_without_the_catalogue_hits_stand_alone_and_say_so(tmp_path):
    async with running(tmp_path) as it:
        it.catalog.down = True
        answer = await it.searcher.search(SearchPlan(DRESS), soon())

    assert len(answer.hits) == 10
    assert answer.items == {}
    assert answer.degraded == (Degraded.ITEMS_MISSING,)


async def test_fields_none_asks_the_catalogue_for_nothing(tmp_path):
    async with running(tmp_path) as it:
        answer = await it.searcher.search(SearchPlan(DRESS, fields=("none",)), soon())

        assert it.catalog.reads == 0
    assert answer.degraded == ()


async def test_another_encoder_is_refused_never_searched(tmp_path):
    async with running(tmp_path) as it:
        it.encoder.encoder_id = "encoder-b"
        with pytest.raises(FailedPrecondition) as caught:
            await it.searcher.search(SearchPlan(DRESS), soon())

        assert caught.value.reason == "ENCODER_MISMATCH"
        assert (caught.value.expected, caught.value.got) == ("encoder-a", "encoder-b")
        assert all(not shard.calls for shard in it.shards)


async def test_a_gateway_with_another_encoder_never_becomes_ready(tmp_path):
    async with running(tmp_path, look=False) as it:
        it.encoder.encoder_id = "encoder-b"
        await it.cluster.look()

        assert not it.cluster.ready
        with pytest.raises(FailedPrecondition, match="encoder-b"):
            await it.searcher.search(SearchPlan(DRESS), soon())


async def test_a_replica_that_is_gone_costs_no_search(tmp_path):
    async with running(tmp_path, replicas=2) as it:
        await it.shard_servers[0].stop(grace=0)
        answers = [await it.searcher.search(SearchPlan(DRESS), soon()) for _ in range(10)]

    assert all(answer.coverage.whole for answer in answers)


async def test_replicas_come_and_go_with_the_addresses_of_their_name(tmp_path, monkeypatch):
    async with running(tmp_path, replicas=2, num_shards=1) as it:
        both = [replica.address for replica in it.cluster.shards[0].replicas]

        async def asked_with(addresses):
            async def resolved(target):
                return [target] if target in addresses else []

            monkeypatch.setattr("gateway.cluster._addresses_of", resolved)
            await it.cluster.look()
            before = [len(shard.calls) for shard in it.shards]
            answers = [await it.searcher.search(SearchPlan(DRESS), soon()) for _ in range(10)]
            assert all(answer.coverage.whole for answer in answers)
            return [len(shard.calls) > n for shard, n in zip(it.shards, before, strict=True)]

        assert await asked_with(both[:1]) == [True, False]
        assert await asked_with(both) == [True, True]
        assert await asked_with(both[1:]) == [False, True]


class Stopping(Unavailable):
    """What gRPC's core answers to a call that reaches a server while it shuts down."""

    code = grpc.StatusCode.CANCELLED


async def test_a_replica_in_its_last_moment_costs_no_search(tmp_path):
    async with running(tmp_path, replicas=2) as it:
        it.shards[0].refuse = Stopping("STOPPING", "")
        answers = [await it.searcher.search(SearchPlan(DRESS), soon()) for _ in range(4)]

    assert all(answer.coverage.whole for answer in answers)


async def test_a_shard_in_its_last_moment_is_unavailable(tmp_path):
    async with running(tmp_path) as it:
        it.shards[0].refuse = Stopping("STOPPING", "")
        answer = await it.searcher.search(SearchPlan(DRESS), soon())

    assert answer.coverage.outcomes[0].state is ShardState.UNAVAILABLE


async def test_a_replica_slower_than_usual_is_hedged(tmp_path):
    async with running(tmp_path, replicas=2, num_shards=1, embedding_cache_bytes=0) as it:
        for number in range(64):
            await it.searcher.search(SearchPlan(TextQuery(f"warm {number}")), soon())
        it.shards[0].search_delay_s = 30.0
        answers = [await it.searcher.search(SearchPlan(DRESS), soon()) for _ in range(4)]

    assert all(answer.coverage.whole for answer in answers)


async def test_a_generation_not_loaded_is_not_found(tmp_path):
    async with running(tmp_path) as it:
        with pytest.raises(NotFound, match="generation"):
            await it.searcher.search(SearchPlan(DRESS, generation=7), soon())


async def test_changes_that_the_generation_does_not_contain_are_unimplemented(tmp_path):
    async with running(tmp_path) as it:
        assert await it.searcher.search(SearchPlan(DRESS, min_seq=9), soon())
        with pytest.raises(Unimplemented, match="min_seq 10"):
            await it.searcher.search(SearchPlan(DRESS, min_seq=10), soon())


async def until(condition, timeout_s=5.0):
    """Wait for something that other tasks bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_field_that_a_shard_refuses_is_named_as_the_caller_knows_it(tmp_path):
    async with running(tmp_path) as it:
        for shard in it.shards:
            shard.refuse = InvalidArgument("queries[3].filter.equals.attribute", "nope", "brand")
        with pytest.raises(InvalidArgument) as caught:
            await it.searcher.search(SearchPlan(DRESS), soon())

    assert caught.value.field == "filter.equals.attribute"
    assert str(caught.value) == "filter.equals.attribute is 'nope'; allowed brand"


async def test_a_query_is_encoded_once_unless_it_asks_to_be_encoded_afresh(tmp_path):
    async with running(tmp_path) as it:
        for bypass in (False, False, True):
            plan = SearchPlan(DRESS, bypass_embedding_cache=bypass)
            answer = await it.searcher.search(plan, soon())
            assert answer.hits.item_ids

        assert it.encoder.calls == [["red dress"], ["red dress"]]


def accept_query_encoders(it, *encoder_ids):
    """Make the generation list encoders that may ask in place of its own."""
    for shard in it.shards:
        shard.compatible_query_encoders = encoder_ids


async def searched(it, text="red dress"):
    """Return the encoder of a search's embedding, and whether that came from the cache."""
    answer = await it.searcher.search(SearchPlan(TextQuery(text)), soon())
    return answer.embedding.encoder_id, answer.embedding.cached


async def test_a_compatible_encoders_embeddings_are_cached(tmp_path):
    async with running(tmp_path, look=False) as it:
        accept_query_encoders(it, "encoder-b")
        it.encoder.encoder_id = "encoder-b"
        await it.cluster.look()

        assert await searched(it) == ("encoder-b", False)
        assert await searched(it) == ("encoder-b", True)
        assert it.encoder.calls == [["red dress"]]


async def test_an_encoder_replaced_while_running_is_asked_again(tmp_path):
    async with running(tmp_path, look=False) as it:
        accept_query_encoders(it, "encoder-b")
        await it.cluster.look()
        assert await searched(it) == ("encoder-a", False)

        it.encoder.encoder_id = "encoder-b"
        assert await searched(it, "blue dress") == ("encoder-b", False)
        assert await searched(it) == ("encoder-b", False), "its first answer says who it is"
        assert await searched(it) == ("encoder-b", True)

        it.encoder.encoder_id = "encoder-a"
        await it.cluster.look()
        assert await searched(it) == ("encoder-a", True), "so does a look at the cluster"


async def test_an_encoder_that_the_generation_does_not_know_hides_no_cached_embedding(tmp_path):
    async with running(tmp_path) as it:
        await searched(it)
        it.encoder.encoder_id = "encoder-b"
        await it.cluster.look()

        assert await searched(it) == ("encoder-a", True)
