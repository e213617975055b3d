"""Processes that are told to stop, or killed, while searches run."""

import signal
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.vitrine.v1 import search_pb2
from tests.faults.load import Load
from tests.system.polling import eventually
from tests.system.web import metric
from tests.system.wire import failure_of

HURT = 2


def test_a_gateway_that_stops_answers_what_it_has_accepted(cluster):
    gateway = cluster.gateway
    cluster.shard(HURT).stop()
    stub = cluster.stubs().search
    calls = [
        stub.Search.future(search_pb2.SearchRequest(text=f"hat {number}"), timeout=15)
        for number in range(8)
    ]
    eventually(
        lambda: metric(gateway.http_address, "vitrine_rpc_in_flight") >= len(calls),
        "all calls are being served",
    )
    gateway.send(signal.SIGTERM)
    eventually(lambda: failure_of_new_call(cluster) == "UNAVAILABLE", "new calls are refused")
    for call in calls:
        response = call.result(timeout=15)
        assert cluster.states(response)[HURT] in ("TIMEOUT", "SUSPENDED")
        assert len(response.results) == 10
    gateway.wait_until_ended()


def failure_of_new_call(cluster) -> str:
    """Return how a search over a new connection fails; empty when it does not."""
    with grpc.insecure_channel(cluster.address) as channel:
        ask = channel.unary_unary("/vitrine.v1.SearchService/Search")
        try:
            # Refused before it is read, or answered at once: a search without a query.
            ask(b"", timeout=5)
        except grpc.RpcError as exc:
            code = exc.code().name
            assert code in ("UNAVAILABLE", "INVALID_ARGUMENT")
            return code
    raise AssertionError("an empty search was answered")


def test_a_gateway_that_stops_under_load_answers_or_refuses_and_nothing_else(cluster):
    with Load(cluster.address, callers=8) as load:
        load.wait_for_more(40)
        asked_to_stop_s = time.monotonic()
        cluster.gateway.send(signal.SIGTERM)
        cluster.gateway.wait_until_ended()
        load.wait_for_more(8)
    # gRPC's core answers CANCELLED to a call that arrives in the moment of the shutdown, which no
    # handler has seen: at most one a caller, and only from then on.
    codes = load.codes
    assert codes.pop("CANCELLED", 0) <= 8
    assert set(codes) == {"OK", "UNAVAILABLE"}, load.codes
    answered = [outcome for outcome in load.outcomes if outcome.code == "OK"]
    assert all(outcome.response.coverage.fraction == 1 for outcome in answered)
    refused = [outcome for outcome in load.outcomes if outcome.code != "OK"]
    assert min(outcome.ended_s for outcome in refused) > asked_to_stop_s
    assert all(outcome.ended_s - outcome.started_s < 5 for outcome in load.outcomes), (
        "nothing hangs"
    )


def test_who_watches_health_is_told_and_holds_nothing_up(cluster):
    with grpc.insecure_channel(cluster.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        states = health_pb2.HealthCheckResponse
        assert next(watch).status == states.SERVING
        started_s = time.monotonic()
        cluster.gateway.send(signal.SIGTERM)
        assert next(watch).status == states.NOT_SERVING
        cluster.gateway.wait_until_ended(timeout_s=30)
        assert time.monotonic() - started_s < 5, "a watcher is no work in flight"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_one_of_two_replicas_may_go_under_load(cluster, number):
    with cluster.beside("shard-0.second") as second:
        targets = [f"{cluster.shard(0).address}|{second.address}"]
        targets += [cluster.shard(other).address for other in (1, 2, 3)]
        with (
            cluster.beside("gateway.replicas", SHARDS=",".join(targets)) as gateway,
            Load(gateway.address, callers=6) as load,
        ):
            before = metric(second.http_address, "vitrine_rpc_calls_total", code="OK")
            load.wait_for_more(60)
            assert metric(second.http_address, "vitrine_rpc_calls_total", code="OK") > before + 5
            second.send(number)
            second.wait_until_ended()
            load.wait_for_more(60)
    assert load.failures == []
    for outcome in load.outcomes:
        assert outcome.response.coverage.fraction == 1, outcome.response.coverage.shards[0]


def test_a_shard_that_stops_under_load_becomes_part_of_the_coverage(cluster):
    with Load(cluster.address, callers=6) as load:
        cluster.shard(HURT).send(signal.SIGTERM)
        cluster.shard(HURT).wait_until_ended()
        load.wait_for_more(30)
    assert load.failures == []
    assert load.outcomes[-1].response.coverage.fraction < 1
    for outcome in load.outcomes:
        state = cluster.states(outcome.response)[HURT]
        told = outcome.response.coverage.shards[HURT].detail
        assert state in ("OK", "UNAVAILABLE"), told


def test_an_encoder_that_stops_ends_the_texts_it_has(cluster):
    encoder = cluster.encoder
    with Load(cluster.address, callers=4) as load:
        encoder.send(signal.SIGTERM)
        encoder.wait_until_ended()
        load.wait_for_more(8)
    assert set(load.codes) <= {"OK", "UNAVAILABLE"}, "cached texts go on"
    failure = failure_of(lambda: cluster.search(text="a text that is in no cache"))
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "ENCODER_DOWN")


def test_a_full_disk_under_the_logs_fails_no_call(cluster):
    (cluster.home / "by-hand").mkdir(exist_ok=True)
    for name in ("gateway.mute", "shard-0.mute", "encoder.mute"):
        (cluster.home / "by-hand" / f"{name}.log").symlink_to("/dev/full")
    with (
        cluster.beside("encoder.mute") as encoder,
        cluster.beside("shard-0.mute") as shard,
    ):
        targets = [shard.address, *(cluster.shard(other).address for other in (1, 2, 3))]
        settings = {"SHARDS": ",".join(targets), "ENCODER": encoder.address}
        with (
            cluster.beside("gateway.mute", **settings) as gateway,
            Load(gateway.address, callers=2) as load,
        ):
            load.wait_for_more(20)
    assert load.failures == []
    assert {outcome.response.coverage.fraction for outcome in load.outcomes} == {1.0}
