"""Metrics, health pages, and a request id that goes through all hops."""

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos.vitrine.v1 import search_pb2
from tests.system.polling import eventually
from tests.system.processes import start
from tests.system.web import http_get, metric
from tests.system.wire import SEARCH, grpcurl

PROCESSES = ("gateway", "encoder", "shard-0", "shard-1", "shard-2", "shard-3")
METHODS = {
    "gateway": f"/{SEARCH}",
    "encoder": "/vitrine.v1.EncoderService/Encode",
    "shard-0": "/vitrine.v1.IndexService/Search",
}


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_shows_metrics(deployment, name):
    status, text = http_get(deployment.processes[name].http_address, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["vitrine_rpc_calls"].type == "counter"
    assert families["vitrine_rpc_latency_seconds"].type == "histogram"
    assert families["vitrine_rpc_in_flight"].type == "gauge"
    assert families["vitrine_serving"].samples[0].value == 1
    (service,) = families["vitrine_service_info"].samples
    assert service.labels["role"] == name
    assert "process_resident_memory_bytes" in families


def test_a_search_is_counted_on_every_hop(deployment):
    def counts() -> list[float]:
        return [
            metric(
                deployment.processes[name].http_address,
                "vitrine_rpc_calls_total",
                method=method,
                code="OK",
            )
            for name, method in METHODS.items()
        ]

    before = counts()
    assert deployment.search(text="something that nobody searched for before").results
    eventually(
        lambda: all(now > then for now, then in zip(counts(), before, strict=True)),
        "the search is counted on gateway, encoder and shard",
    )


def test_a_refusal_is_counted_under_its_status(deployment):
    def refused() -> float:
        return metric(
            deployment.gateway.http_address,
            "vitrine_rpc_calls_total",
            method=f"/{SEARCH}",
            code="INVALID_ARGUMENT",
        )

    before = refused()
    assert grpcurl(deployment.address, SEARCH, {"text": ""}).failure
    eventually(lambda: refused() == before + 1, "the refusal is counted")


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_has_a_health_page_for_programs_and_one_for_people(deployment, name):
    address = deployment.processes[name].http_address
    status, text = http_get(address, "/healthz")
    health = orjson.loads(text)
    assert (status, health["serving"], health["role"]) == (200, True, name)
    status, page = http_get(address, "/")
    assert status == 200
    assert f"Vitrine {name}" in page
    assert "/metrics" in page
    assert http_get(address, "/nothing-here")[0] == 404


def test_a_gateway_that_waits_says_what_for(deployment, tmp_path):
    generations = tmp_path / "generations"
    generations.mkdir()
    settings = {
        "ENCODER": deployment.encoder.address,
        "SHARDS": deployment.shard(0).address,
        "CATALOG": f"sqlite:///{deployment.home / 'catalog.sqlite'}",
        "GENERATIONS": generations,
    }
    gateway = start("gateway", settings, tmp_path / "run")
    try:

        def health() -> dict[str, object]:
            status, text = http_get(gateway.http_address, "/healthz")
            assert status == 503
            return orjson.loads(text)

        eventually(lambda: health()["blocked_reason"] == "NO_GENERATION", "it says what it lacks")
        assert health()["serving"] is False
        assert grpcurl(gateway.address, "grpc.health.v1.Health/Check").message == {
            "status": "NOT_SERVING"
        }
        failure = grpcurl(gateway.address, SEARCH, {"text": "hat"}).refusal
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "NO_GENERATION")
    finally:
        gateway.kill()


def test_a_request_id_goes_through_all_hops(deployment):
    request_id = "trace-me-7f3a"
    text = "a query that is in no cache yet, for its id to be followed"
    response = grpcurl(
        deployment.address, SEARCH, {"text": text}, headers={"x-request-id": request_id}
    ).message
    assert response["request_id"] == request_id
    for name, method in {**METHODS, "shard-3": METHODS["shard-0"]}.items():

        def logged(name: str = name, method: str = method) -> bool:
            return any(
                request_id in line.get("request_id", "") and line.get("method") == method
                for line in deployment.processes[name].log_lines()
            )

        eventually(logged, f"{name} logs the call under its request id")


def test_every_log_line_says_who_and_when(deployment):
    for name in PROCESSES:
        lines = deployment.processes[name].log_lines()
        assert lines
        assert all(line["role"] == name for line in lines)
        assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


def test_a_request_without_id_gets_one(deployment):
    request = search_pb2.SearchRequest(text="hat", top_k=1)
    ids = {deployment.stubs().search.Search(request, timeout=10).request_id for _ in range(3)}
    assert len(ids) == 3
