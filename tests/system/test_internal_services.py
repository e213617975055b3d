"""EncoderService and IndexService over the wire, and the health of every server."""

import base64
from typing import Any

import numpy as np
import pytest

from rpc.vectors import pack
from tests.system.deployment import Deployment
from tests.system.processes import start
from tests.system.web import http_get
from tests.system.wire import Failure, grpcurl

ENCODER = "vitrine.v1.EncoderService"
INDEX = "vitrine.v1.IndexService"
HEALTH = "grpc.health.v1.Health"
QUERY, ITEM = "TEXT_KIND_QUERY", "TEXT_KIND_ITEM"


@pytest.fixture(scope="module")
def encoder(deployment: Deployment):
    """Call the encoder."""
    return lambda method, **request: grpcurl(
        deployment.encoder.address, f"{ENCODER}/{method}", request
    )


@pytest.fixture(scope="module")
def shard(deployment: Deployment):
    """Call shard 0."""
    return lambda method, **request: grpcurl(
        deployment.shard(0).address, f"{INDEX}/{method}", request
    )


@pytest.fixture(scope="module")
def encoder_id(encoder) -> str:
    return encoder("DescribeEncoder").message["encoder_id"]


def vectors_of(message: dict[str, Any]) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(message["embeddings"]), dtype="<f4")
    return flat.reshape(-1, message["dim"])


def named(failure: Failure, field: str) -> bool:
    return (failure.code, failure.field) == ("INVALID_ARGUMENT", field)


def test_the_encoder_describes_itself(encoder):
    described = encoder("DescribeEncoder").message
    assert len(described["encoder_id"]) == 24
    assert (described["name"], described["dim"]) == ("all-MiniLM-L6-v2", 384)
    assert (described["max_tokens"], described["quantization"]) == (256, "int8")
    assert described["item_template"] == "{title}"
    assert described["reference_cosine"] > 0.97
    assert described["can_rerank"] is False


def test_texts_become_unit_vectors_that_do_not_depend_on_their_neighbours(encoder, encoder_id):
    texts = ["red dress", "a much longer description of a warm winter coat for the snow", "hat"]
    together = encoder("Encode", texts=texts, kind=QUERY, encoder_id=encoder_id).message
    assert (together["dim"], together["encoder_id"]) == (384, encoder_id)
    assert together["truncated"] == []
    assert int(together["tokens"]) > 10
    assert int(together["compute_us"]) > 0
    rows = vectors_of(together)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    for text, row in zip(texts, rows, strict=True):
        alone = vectors_of(encoder("Encode", texts=[text], kind=ITEM).message)[0]
        assert float(alone @ row) >= 0.9999


def test_a_text_beyond_max_tokens_is_cut_and_told_or_refused(encoder):
    texts = ["short", "word " * 1000]
    assert encoder("Encode", texts=texts, kind=QUERY).message["truncated"] == [1]
    failure = encoder("Encode", texts=texts, kind=QUERY, refuse_truncation=True).refusal
    assert named(failure, "texts[1]")


def test_what_cannot_be_encoded_is_named(encoder):
    for request, field in (
        ({"texts": []}, "texts"),
        ({"texts": ["x"] * 257}, "texts"),
        ({"texts": ["x", " \n"]}, "texts[1]"),
        ({"texts": ["x" * 100_001]}, "texts[0]"),
        ({"texts": ["x"], "kind": "TEXT_KIND_UNSPECIFIED"}, "kind"),
    ):
        assert named(encoder("Encode", **{"kind": QUERY, **request}).refusal, field)


def test_another_encoder_than_expected_refuses(encoder, encoder_id):
    failure = encoder("Encode", texts=["x"], kind=QUERY, encoder_id="ab" * 12).refusal
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ENCODER_MISMATCH")
    metadata = failure.detail("ErrorInfo")["metadata"]
    assert metadata == {"expected": "ab" * 12, "got": encoder_id}


def test_reranking_is_not_served_yet(encoder):
    failure = encoder("Rerank", query="x", texts=["y"]).refusal
    assert (failure.code, failure.reason) == ("UNIMPLEMENTED", "UNIMPLEMENTED")


def test_a_shard_describes_itself(shard, encoder_id):
    described = shard("DescribeShard").message
    assert described["shard"] == 0
    (loaded,) = described["generations"]
    assert (loaded["generation"], loaded["state"]) == ("1", "GENERATION_STATE_READY")
    assert loaded["encoder_id"] == encoder_id
    assert loaded["items_total"] == "1500"
    assert 250 < int(loaded["items"]) < 500


@pytest.fixture(scope="module")
def query(deployment: Deployment) -> dict[str, Any]:
    packed = base64.b64encode(pack(deployment.stored.vectors[0])).decode()
    return {"embedding": packed, "fetch_k": 5}


@pytest.fixture
def ask_shard(shard, encoder_id, query):
    """Search shard 0 with one query, a good one unless told otherwise."""

    def send(generation: int = 1, encoder_id: str = encoder_id, **changes: Any):
        queries = [{**query, **changes}]
        return shard("Search", generation=generation, encoder_id=encoder_id, queries=queries)

    return send


def test_a_shard_finds_hits_of_several_queries(shard, query, encoder_id):
    queries = [query, {**query, "fetch_k": 2, "params": {"exact": True}, "profile": True}]
    found = shard("Search", generation=1, encoder_id=encoder_id, queries=queries).message
    assert (found["generation"], found["shard"]) == ("1", 0)
    first, second = found["hits"]
    assert len(first["dense"]["item_ids"]) == len(first["dense"]["scores"]) == 5
    assert first["dense"]["scores"] == sorted(first["dense"]["scores"], reverse=True)
    assert second["dense"]["item_ids"] == first["dense"]["item_ids"][:2]
    assert first["profile"] is None
    assert second["profile"]["path"] == "exact_scan"
    assert first["lexical"] is None


def test_a_shard_leaves_out_excluded_items(ask_shard):
    best, second = ask_shard().message["hits"][0]["dense"]["item_ids"][:2]
    left = ask_shard(exclude_item_ids=[best]).message["hits"][0]["dense"]["item_ids"]
    assert left[0] == second
    assert best not in left


def test_what_a_shard_cannot_search_is_named(shard, ask_shard, query, encoder_id):
    twice = base64.b64encode(pack(np.full(384, 0.5))).decode()
    nan = base64.b64encode(pack(np.full(384, np.nan))).decode()
    short = base64.b64encode(pack(np.ones(383))).decode()
    for changes, field in (
        ({"embedding": twice}, "queries[0].embedding"),
        ({"embedding": nan}, "queries[0].embedding"),
        ({"embedding": short}, "queries[0].embedding"),
        ({"embedding": ""}, "queries[0].embedding"),
        ({"fetch_k": 0}, "queries[0].fetch_k"),
        ({"fetch_k": 2001}, "queries[0].fetch_k"),
        ({"params": {"ef_search": 0}}, "queries[0].params.ef_search"),
        ({"exclude_item_ids": ["x"] * 1001}, "queries[0].exclude_item_ids"),
        ({"filter": {"exists": {"attribute": "x"}}}, "queries[0].filter.exists.attribute"),
    ):
        assert named(ask_shard(**changes).refusal, field), changes
    assert named(ask_shard(encoder_id="").refusal, "encoder_id")
    assert named(ask_shard(generation=0).refusal, "generation")
    for number in (0, 257):
        queries = [query] * number
        asked = shard("Search", generation=1, encoder_id=encoder_id, queries=queries)
        assert named(asked.refusal, "queries")


def test_a_shard_refuses_what_it_does_not_hold_or_serve(ask_shard):
    assert ask_shard(generation=9).refusal.code == "NOT_FOUND"
    mismatch = ask_shard(encoder_id="ab" * 12).refusal
    assert (mismatch.code, mismatch.reason) == ("FAILED_PRECONDITION", "ENCODER_MISMATCH")
    for mode in ("SEARCH_MODE_LEXICAL", "SEARCH_MODE_HYBRID"):
        assert ask_shard(mode=mode).refusal.code == "UNIMPLEMENTED"


def test_a_shard_counts_exactly(shard, sample_items):
    everything = shard("Count", generation=1).message
    assert everything["items_matched"] == everything["items"]
    women = {"equals": {"attribute": "gender", "value": {"keyword": "Women"}}}
    counted = shard("Count", generation=1, filter=women).message
    assert 0 < int(counted["items_matched"]) < int(counted["items"])
    assert shard("Count", generation=9).refusal.code == "NOT_FOUND"
    assert named(shard("Count", generation=1, filter={}).refusal, "filter")


def test_a_shard_gives_the_embeddings_it_stores(shard, deployment):
    stored = deployment.stored
    found = shard("GetEmbeddings", generation=1, item_ids=["nobody", *stored.item_ids[:8]]).message
    assert found["item_ids"]
    assert set(found["item_ids"]) <= set(stored.item_ids[:8])
    for item_id, row in zip(found["item_ids"], vectors_of(found), strict=True):
        assert row.tolist() == stored.vectors[stored.item_ids.index(item_id)].tolist()
    assert named(shard("GetEmbeddings", generation=1, item_ids=[]).refusal, "item_ids")


def test_a_shard_measures_its_recall(shard):
    measured = shard("ProbeRecall", generation=1, probes=20).message["measured"]
    assert measured["probes"] == 20
    assert measured["ann_recall_at_10"] >= 0.95
    hard = shard("ProbeRecall", generation=1, probes=20, ef_search=400).message["measured"]
    assert (hard["ef_search"], hard["ann_recall_at_10"]) == (400, 1)
    assert named(shard("ProbeRecall", generation=1, probes=0).refusal, "probes")
    assert shard("ProbeRecall", generation=9).refusal.code == "NOT_FOUND"


def test_a_shard_loads_and_lets_go(movable):
    def call(method: str, **request: Any):
        return grpcurl(movable.shard(0).address, f"{INDEX}/{method}", request)

    def held() -> list[str]:
        described = call("DescribeShard").message
        return [each["generation"] for each in described["generations"]]

    # A gateway would have a shard load the promoted generation again.
    grpcurl(movable.address, "vitrine.v1.AdminService/PromoteGeneration", {"generation": 1})
    call("ReleaseGeneration", generation=3)
    loaded = call("LoadGeneration", generation=3).message
    assert loaded["loaded"]["state"] == "GENERATION_STATE_READY"
    assert int(loaded["load_us"]) > 0
    assert "3" in held()
    assert call("LoadGeneration", generation=3).message["load_us"] == "0", "it is here already"
    assert call("ReleaseGeneration", generation=3).message["released"] is True
    assert "3" not in held()
    assert call("ReleaseGeneration", generation=3).message["released"] is False
    retired = call("Count", generation=3).refusal
    assert (retired.code, retired.reason) == ("FAILED_PRECONDITION", "GENERATION_RETIRED")
    assert call("LoadGeneration", generation=999).refusal.code == "NOT_FOUND"
    assert named(call("LoadGeneration").refusal, "generation")


SERVERS = {
    "gateway": "vitrine.v1.SearchService",
    "encoder": "vitrine.v1.EncoderService",
    "shard-0": "vitrine.v1.IndexService",
    "shard-3": "vitrine.v1.IndexService",
}


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_tells_its_health(deployment, name):
    address = deployment.processes[name].address
    for service in ("", SERVERS[name]):
        checked = grpcurl(address, f"{HEALTH}/Check", {"service": service}).message
        assert checked["status"] == "SERVING"
    assert grpcurl(address, f"{HEALTH}/Check", {"service": "nobody"}).refusal.code == "NOT_FOUND"
    watched = grpcurl(address, f"{HEALTH}/Watch", {}, max_time_s=0.5)
    assert watched.messages == [{"status": "SERVING"}], "and it stays so until the caller leaves"
    assert watched.refusal.code == "DEADLINE_EXCEEDED"


def test_a_shard_without_a_generation_does_not_serve_until_it_loads_one(deployment, tmp_path):
    generations = tmp_path / "generations"
    generations.mkdir()
    process = start("shard-0", {"SHARD": 0, "GENERATIONS": generations}, tmp_path / "run")
    try:
        health = grpcurl(process.address, f"{HEALTH}/Check").message
        assert health["status"] == "NOT_SERVING"
        assert http_get(process.http_address, "/healthz")[0] == 503
        assert grpcurl(process.address, f"{INDEX}/DescribeShard").message["generations"] == []
        (generations / "000001").symlink_to(deployment.generation_folder(1))
        loaded = grpcurl(process.address, f"{INDEX}/LoadGeneration", {"generation": 1})
        assert loaded.message["loaded"]["generation"] == "1"
        assert grpcurl(process.address, f"{HEALTH}/Check").message["status"] == "SERVING"
        assert http_get(process.http_address, "/healthz")[0] == 200
    finally:
        process.kill()
