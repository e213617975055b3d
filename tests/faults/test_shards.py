"""Shards that die, stand still, or are all gone."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from protos.vitrine.v1 import admin_pb2, catalog_pb2, search_pb2, types_pb2
from rpc.buckets import bucket_of, shard_of
from rpc.filter_expression import parse_filter
from tests.system.polling import eventually
from tests.system.wire import failure_of

HURT = 2
OTHERS = {0: "OK", 1: "OK", 3: "OK"}


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and how many seconds it took."""
    started_s = time.monotonic()
    answer = call()
    return answer, time.monotonic() - started_s


def item_on_shard(sample_items, shard: int) -> str:
    ids = (item["item_id"] for item in sample_items)
    return next(item_id for item_id in ids if shard_of(bucket_of(item_id), 4) == shard)


def items_of_shard(cluster, shard: int) -> int:
    return int(cluster.search(text="hat").coverage.shards[shard].items)


def test_without_a_shard_the_answer_is_partial_and_says_so(cluster, sample_items):
    missing = items_of_shard(cluster, HURT)
    cluster.shard(HURT).kill()
    for text in ("red hat", "blue coat"):
        response, seconds = timed(lambda text=text: cluster.search(text=text, top_k=1000))
        assert seconds < 2
        assert cluster.states(response) == {**OTHERS, HURT: "UNAVAILABLE"}
        assert response.coverage.shards[HURT].detail
        assert response.coverage.shards[HURT].items == missing, "it is known what is missing"
        assert response.coverage.items_known == 1500
        assert response.coverage.items_searched == 1500 - missing
        assert response.coverage.fraction == pytest.approx(1 - missing / 1500)
        assert cluster.degraded(response) == ["PARTIAL_COVERAGE"]
        assert all(shard_of(bucket_of(hit.item_id), 4) != HURT for hit in response.results)


def test_without_a_shard_a_caller_who_wants_all_is_refused(cluster):
    cluster.shard(HURT).kill()
    failure = failure_of(lambda: cluster.search(text="red hat", min_coverage=1.0))
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "COVERAGE_TOO_LOW")
    assert cluster.search(text="red hat", min_coverage=0.5).results


def test_without_a_shard_there_is_no_partial_count(cluster):
    cluster.shard(HURT).kill()
    request = catalog_pb2.CountItemsRequest(filter=parse_filter("price < 50"))
    failure = failure_of(lambda: cluster.stubs().catalog.CountItems(request, timeout=10))
    assert failure.code == "UNAVAILABLE"


def test_without_a_shard_its_items_cannot_be_asked_with_but_others_can(cluster, sample_items):
    cluster.shard(HURT).kill()
    on_it = search_pb2.ItemsQuery(positive=[item_on_shard(sample_items, HURT)])
    failure = failure_of(lambda: cluster.search(items=on_it))
    assert failure.code == "UNAVAILABLE"
    elsewhere = search_pb2.ItemsQuery(positive=[item_on_shard(sample_items, 0)])
    response = cluster.search(items=elsewhere)
    assert response.results
    assert cluster.degraded(response) == ["PARTIAL_COVERAGE"]


def test_without_a_shard_nothing_is_promoted(cluster):
    cluster.shard(HURT).kill()
    request = admin_pb2.PromoteGenerationRequest(generation=1)
    failure = failure_of(lambda: cluster.stubs().admin.PromoteGeneration(request, timeout=30))
    assert failure.code == "UNAVAILABLE"


def test_the_cluster_says_which_shard_is_gone(cluster):
    cluster.shard(HURT).kill()
    described = cluster.stubs().admin.DescribeCluster(
        admin_pb2.DescribeClusterRequest(), timeout=10
    )
    reachable = [shard.reachable for shard in described.shards]
    assert reachable == [True, True, False, True]
    assert described.shards[HURT].detail


def test_a_shard_that_is_started_again_is_searched_again(cluster):
    cluster.shard(HURT).kill()
    assert cluster.search(text="red hat").coverage.fraction < 1
    cluster.start_again(f"shard-{HURT}")
    cluster.wait_until_whole()
    response = cluster.search(text="red hat")
    assert cluster.states(response) == {**OTHERS, HURT: "OK"}
    assert not response.degraded


def test_a_shard_that_stands_still_costs_its_timeout_once_and_is_then_left_alone(cluster):
    cluster.shard(HURT).stop()
    first, seconds = timed(lambda: cluster.search(text="red hat"))
    assert seconds < 4, "shard_timeout_s is 2"
    assert cluster.states(first) == {**OTHERS, HURT: "TIMEOUT"}
    assert cluster.degraded(first) == ["PARTIAL_COVERAGE"]

    def suspended() -> bool:
        return cluster.states(cluster.search(text="red hat"))[HURT] == "SUSPENDED"

    eventually(suspended, "the silent shard is left alone")
    later, seconds = timed(lambda: cluster.search(text="red hat"))
    assert cluster.states(later) == {**OTHERS, HURT: "SUSPENDED"}
    assert seconds < 1
    assert cluster.degraded(later) == ["PARTIAL_COVERAGE"]

    cluster.shard(HURT).go_on()
    cluster.wait_until_whole()
    assert cluster.states(cluster.search(text="red hat"))[HURT] == "OK"


def test_a_caller_in_a_hurry_is_answered_before_its_deadline(cluster):
    cluster.shard(HURT).stop()
    response, seconds = timed(lambda: cluster.search(text="red hat", timeout_s=1.0))
    assert seconds < 1
    assert cluster.states(response)[HURT] in ("TIMEOUT", "SUSPENDED")
    assert len(response.results) == 10


def test_no_shard_in_time_is_a_deadline_exceeded_that_names_the_stage(cluster):
    assert cluster.search(text="red hat").results, "its embedding is cached"
    for number in range(4):
        cluster.shard(number).stop()
    failure, seconds = timed(
        lambda: failure_of(lambda: cluster.search(text="red hat", timeout_s=4))
    )
    assert seconds < 4
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert failure.detail("ErrorInfo")["metadata"] == {"stage": "search"}

    def refused_at_once() -> bool:
        failure = failure_of(lambda: cluster.search(text="red hat"))
        return (failure.code, failure.reason) == ("UNAVAILABLE", "NO_SHARD")

    eventually(refused_at_once, "silent shards are left alone, and none is left")


def test_all_shards_gone_is_unavailable_never_an_empty_success(cluster, sample_items):
    for number in range(4):
        cluster.shard(number).kill()
    liked = search_pb2.ItemsQuery(positive=[sample_items[0]["item_id"]])
    for query in ({"text": "red hat"}, {"items": liked}):
        failure, seconds = timed(lambda query=query: failure_of(lambda: cluster.search(**query)))
        assert failure.code == "UNAVAILABLE"
        assert failure.reason
        assert seconds < 5


def test_exact_search_waits_no_longer_for_a_silent_shard_than_its_caller(cluster):
    cluster.shard(HURT).stop()
    exact = types_pb2.SearchParams(exact=True)
    response, seconds = timed(lambda: cluster.search(text="red hat", params=exact, timeout_s=3.0))
    assert seconds < 3
    assert cluster.degraded(response) == ["PARTIAL_COVERAGE"]
