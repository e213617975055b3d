"""Callers in a hurry, callers who leave, and more of them than there is room for."""

import time
from contextlib import contextmanager

import numpy as np
import psutil
import pytest

from protos.vitrine.v1 import encoder_pb2, index_pb2, search_pb2, types_pb2
from rpc.vectors import pack
from tests.faults.load import Load
from tests.system.polling import eventually
from tests.system.processes import wait_until_serving
from tests.system.web import metric
from tests.system.wire import Stubs, failure_in, failure_of

PROCESSES = ("gateway", "encoder", "shard-0", "shard-1", "shard-2", "shard-3")
LONG_TEXT = "a very warm and waterproof winter coat with a hood and many deep pockets " * 20


def in_flight(cluster, name: str) -> float:
    return metric(cluster.processes[name].http_address, "vitrine_rpc_in_flight")


def idle(cluster) -> bool:
    """Tell whether no process works; a probe may be on its way now and then."""
    return not any(in_flight(cluster, name) for name in PROCESSES)


def ended(cluster, name: str, code: str, method: str = "") -> float:
    labels = {"code": code} | ({"method": method} if method else {})
    address = cluster.processes[name].http_address
    return metric(address, "vitrine_rpc_calls_total", **labels)


def refused_for_now(failure) -> bool:
    """Tell whether a failure is a limit, with the time to wait before another try."""
    delay = failure.detail("RetryInfo")["retry_delay"]
    return failure.code == "RESOURCE_EXHAUSTED" and float(delay.removesuffix("s")) > 0


@pytest.fixture
def hurried(cluster):
    """One call to each service that its caller gives 1 ms, and that takes longer anywhere."""
    vector = pack(cluster.stored.vectors[0])
    search = search_pb2.SearchRequest(text=LONG_TEXT, bypass_embedding_cache=True)
    encode = encoder_pb2.EncodeRequest(texts=[LONG_TEXT] * 64, kind=types_pb2.TEXT_KIND_QUERY)
    queries = [index_pb2.ShardQuery(embedding=vector, fetch_k=100)] * 200
    find = index_pb2.IndexServiceSearchRequest(
        generation=1, encoder_id=cluster.search(text="hat").encoder_id, queries=queries
    )
    return {
        "gateway": lambda: cluster.stubs().search.Search(search, timeout=0.001),
        "encoder": lambda: cluster.stubs("encoder").encoder.Encode(encode, timeout=0.001),
        "shard-0": lambda: cluster.stubs("shard-0").index.Search(find, timeout=0.001),
    }


@pytest.mark.parametrize("name", ["gateway", "encoder", "shard-0"])
def test_a_deadline_of_one_millisecond_is_exceeded_quickly_and_harms_nobody(cluster, hurried, name):
    bugs = ended(cluster, name, "INTERNAL")
    started_s = time.monotonic()
    codes = [failure_of(hurried[name]).code for _ in range(10)]
    assert codes == ["DEADLINE_EXCEEDED"] * 10
    assert time.monotonic() - started_s < 2
    eventually(lambda: idle(cluster), "no work is left over", timeout_s=5)
    assert ended(cluster, name, "INTERNAL") == bugs
    cluster.wait_until_whole()


def test_a_caller_who_leaves_stops_the_work_downstream(cluster):
    texts = [f"{number} {LONG_TEXT}" for number in range(200)]
    batch = search_pb2.SearchBatchRequest(
        requests=[search_pb2.SearchRequest(text=text, top_k=1) for text in texts]
    )

    def encoded() -> float:
        return metric(cluster.encoder.http_address, "vitrine_encoder_texts_total", lane="query")

    def waiting() -> float:
        return metric(cluster.encoder.http_address, "vitrine_encoder_queue_texts", lane="query")

    before = encoded()
    cancelled = ended(cluster, "encoder", "CANCELLED", "/vitrine.v1.EncoderService/Encode")
    call = cluster.stubs().search.SearchBatch.future(batch, timeout=60)
    eventually(lambda: waiting() > 0, "texts wait at the encoder")
    call.cancel()
    eventually(lambda: idle(cluster) and not waiting(), "all work has stopped", timeout_s=5)
    assert encoded() - before < len(texts)
    method = "/vitrine.v1.EncoderService/Encode"
    assert ended(cluster, "encoder", "CANCELLED", method) > cancelled


def test_a_caller_who_leaves_is_not_waited_for_by_a_silent_shard(cluster):
    cluster.shard(1).stop()
    call = cluster.stubs().search.Search.future(
        search_pb2.SearchRequest(text="red hat"), timeout=60
    )
    eventually(lambda: in_flight(cluster, "gateway") >= 1, "the search is under way")
    started_s = time.monotonic()
    call.cancel()
    eventually(lambda: not in_flight(cluster, "gateway"), "the gateway is idle")
    assert time.monotonic() - started_s < 1, "shard_timeout_s is 2"


def test_calls_beyond_the_limit_are_refused_at_once(cluster):
    with cluster.beside("gateway.tight", CALLS_IN_FLIGHT_MAX=2) as gateway:
        stubs = Stubs(gateway.address)
        cluster.shard(1).stop()
        request = search_pb2.SearchRequest(text="red hat", fields=["none"])
        held = [stubs.search.Search.future(request, timeout=15) for _ in range(2)]
        eventually(
            lambda: metric(gateway.http_address, "vitrine_rpc_in_flight") == 2,
            "both searches wait for the silent shard",
        )
        started_s = time.monotonic()
        third = failure_of(lambda: stubs.search.Search(request, timeout=15))
        assert refused_for_now(third)
        assert time.monotonic() - started_s < 1, "refused at once, not after waiting"
        for call in held:
            assert call.result(timeout=15).results
        assert stubs.search.Search(request, timeout=15).results, "there is room again"
        stubs.close()


def test_queries_beyond_the_encoders_queue_are_refused_at_once(cluster):
    settings = {"WAITING_MAX": 1, "ENCODE_CALLS_MAX": 1}
    with cluster.stubs_beside("gateway.queue", **settings) as stubs:
        cluster.encoder.stop()
        calls = [
            stubs.search.Search.future(
                search_pb2.SearchRequest(text=f"a new text {number}"), timeout=4
            )
            for number in range(6)
        ]
        started_s = time.monotonic()
        failures = [failure_of(lambda call=call: call.result()) for call in calls]
        refused = [failure for failure in failures if failure.code == "RESOURCE_EXHAUSTED"]
        assert len(refused) >= 3, [failure.code for failure in failures]
        assert all(refused_for_now(failure) for failure in refused)
        assert {failure.code for failure in failures} <= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        assert time.monotonic() - started_s < 5


def test_texts_beyond_the_encoders_own_queue_are_refused_at_once(cluster):
    with cluster.beside("encoder.tight", QUEUE_TEXTS_MAX=4, WORKERS=1) as encoder:
        stubs = Stubs(encoder.address)
        texts = ["a hat with a wide brim " * 20] * 5
        request = encoder_pb2.EncodeRequest(texts=texts, kind=types_pb2.TEXT_KIND_QUERY)
        # The first finds its lane empty and is let in; the others find it waiting.
        calls = [stubs.encoder.Encode.future(request, timeout=60) for _ in range(12)]
        errors = [call.exception(timeout=60) for call in calls]
        refused = [failure_in(error) for error in errors if error is not None]
        assert 0 < len(refused) < len(calls)
        assert all(refused_for_now(failure) for failure in refused)
        few = encoder_pb2.EncodeRequest(texts=["hat"] * 4, kind=types_pb2.TEXT_KIND_QUERY)
        assert stubs.encoder.Encode(few, timeout=10).dim == 384
        stubs.close()


def test_calls_beyond_a_shards_queue_are_refused_at_once(cluster):
    vectors = cluster.stored.vectors
    exact = types_pb2.SearchParams(exact=True)
    queries = [
        index_pb2.ShardQuery(embedding=pack(vectors[number]), fetch_k=100, params=exact)
        for number in range(256)
    ]
    request = index_pb2.IndexServiceSearchRequest(
        generation=1, encoder_id=cluster.search(text="hat").encoder_id, queries=queries
    )
    with cluster.stubs_beside("shard-0.tight", QUEUE_MAX=1) as stubs:
        calls = [stubs.index.Search.future(request, timeout=30) for _ in range(12)]
        outcomes = [call.exception(timeout=30) for call in calls]
        refused = [failure_in(error) for error in outcomes if error is not None]
        assert refused
        assert all(refused_for_now(failure) for failure in refused)
        assert sum(error is None for error in outcomes) >= 2, "one runs, one waits"


@contextmanager
def no_file_handle_left(process):
    """Let a running process open nothing more: no connection, no file."""
    limited = psutil.Process(process.pid)
    usual = limited.rlimit(psutil.RLIMIT_NOFILE)
    limited.rlimit(psutil.RLIMIT_NOFILE, (3, usual[1]))
    try:
        yield
    finally:
        limited.rlimit(psutil.RLIMIT_NOFILE, usual)


def test_a_shard_without_file_handles_answers_who_is_connected_and_lets_others_in_later(cluster):
    shard = cluster.shard(0)
    describe = index_pb2.DescribeShardRequest()
    with Load(cluster.gateway.address) as load:
        with no_file_handle_left(shard):
            load.wait_for_more(100)
            stranger = Stubs(shard.address)
            failure = failure_of(lambda: stranger.index.DescribeShard(describe, timeout=2))
            assert failure.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
            stranger.close()
            load.wait_for_more(20)
        late = Stubs(shard.address)
        assert late.index.DescribeShard(describe, timeout=20, wait_for_ready=True).shard == 0
        late.close()
        load.wait_for_more(20)
    assert load.failures == []
    assert all(outcome.response.coverage.fraction == 1 for outcome in load.outcomes)
    assert shard.running
    wait_until_serving(shard)


def test_a_message_over_the_limit_is_refused_and_harms_nobody(cluster):
    huge = search_pb2.SearchRequest(items=search_pb2.ItemsQuery(positive=["x" * 1024] * 18_000))
    assert len(huge.SerializeToString()) > 16 * 1024 * 1024
    failure = failure_of(lambda: cluster.stubs().search.Search(huge, timeout=20))
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in failure.message
    assert cluster.search(text="red hat").results


def test_a_lower_message_limit_holds(cluster):
    with cluster.stubs_beside("gateway.small", MESSAGE_BYTES_MAX=64 * 1024) as stubs:
        values = np.ones(384, dtype=np.float32)
        fits = search_pb2.SearchRequest(embedding=search_pb2.EmbeddingQuery(packed=pack(values)))
        assert stubs.search.Search(fits, timeout=10).results
        liked = ["x" * 250] * 100
        batch = search_pb2.SearchBatchRequest(
            requests=[search_pb2.SearchRequest(items=search_pb2.ItemsQuery(positive=liked))] * 4
        )
        failure = failure_of(lambda: stubs.search.SearchBatch(batch, timeout=10))
        assert failure.code == "RESOURCE_EXHAUSTED"
