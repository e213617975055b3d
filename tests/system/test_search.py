"""Search, as a backend or a person with grpcurl calls it."""

import base64
from typing import Any

import numpy as np
import pytest

from tests.system.deployment import Deployment
from tests.system.wire import SEARCH, Failure, grpcurl, run_grpcurl

SEARCH_BATCH = "vitrine.v1.SearchService/SearchBatch"
ENCODE = "vitrine.v1.EncoderService/Encode"


@pytest.fixture(scope="module")
def ask(deployment: Deployment):
    """Send one search by grpcurl; return the response."""

    def send(**request: Any) -> dict[str, Any]:
        return grpcurl(deployment.address, SEARCH, request).message

    return send


@pytest.fixture(scope="module")
def refused(deployment: Deployment):
    """Send one search that must fail; return the failure."""

    def send(**request: Any) -> Failure:
        return grpcurl(deployment.address, SEARCH, request).refusal

    return send


def ids_of(response: dict[str, Any]) -> list[str]:
    return [result["item_id"] for result in response["results"]]


def scores_of(response: dict[str, Any]) -> list[float]:
    return [result["score"] for result in response["results"]]


def test_reflection_lists_every_service(deployment):
    listed = run_grpcurl("-plaintext", deployment.address, "list").stdout.decode().split()
    assert {
        "grpc.health.v1.Health",
        "vitrine.v1.AdminService",
        "vitrine.v1.CatalogService",
        "vitrine.v1.SearchService",
    } <= set(listed)
    for name, service in {"encoder": "EncoderService", "shard-0": "IndexService"}.items():
        address = deployment.processes[name].address
        listed = run_grpcurl("-plaintext", address, "list").stdout.decode().split()
        assert f"vitrine.v1.{service}" in listed


def test_reflection_describes_the_request(deployment):
    described = run_grpcurl(
        "-plaintext", deployment.address, "describe", "vitrine.v1.SearchRequest"
    ).stdout.decode()
    assert "string text = 1;" in described
    assert ".vitrine.v1.SearchMode mode = 7;" in described


def test_a_text_finds_items_like_it(ask, sample_items):
    response = ask(text=sample_items[3]["title"], top_k=5)
    assert ids_of(response)[0] == sample_items[3]["item_id"]
    assert scores_of(response)[0] > 0.95
    assert scores_of(response) == sorted(scores_of(response), reverse=True)


def test_results_are_ten_unless_asked_otherwise(ask):
    assert len(ask(text="linen dress")["results"]) == 10
    assert len(ask(text="linen dress", top_k=1000)["results"]) == 1000


def test_an_answer_tells_how_it_came_about(ask, deployment):
    response = ask(text="warm gloves", top_k=3)
    coverage = response["coverage"]
    assert coverage["items_searched"] == coverage["items_known"] == "1500"
    assert coverage["fraction"] == 1
    assert [entry["state"] for entry in coverage["shards"]] == ["SHARD_STATE_OK"] * 4
    assert [entry["shard"] for entry in coverage["shards"]] == [0, 1, 2, 3]
    assert sum(int(entry["items"]) for entry in coverage["shards"]) == 1500
    assert all(int(entry["latency_us"]) > 0 for entry in coverage["shards"])
    assert response["degraded"] == []
    assert response["generation"] == "1"
    assert len(response["encoder_id"]) == 24
    assert response["applied_seq"] == "1500"
    assert response["request_id"]
    timing = {name: int(value) for name, value in response["timing"].items()}
    stages = ("embed_us", "search_us", "merge_us", "attach_us")
    assert all(timing[stage] > 0 for stage in stages)
    assert sum(timing[stage] for stage in stages) <= timing["total_us"]
    assert timing["rerank_us"] == 0
    assert response["profile"] is None


def test_every_hit_carries_its_scores_and_its_rank(ask):
    response = ask(text="rain boots", top_k=4)
    for place, result in enumerate(response["results"], start=1):
        assert result["scores"]["dense"] == result["score"]
        assert result["scores"]["dense_rank"] == place
        assert not {"lexical", "fused", "rerank", "lexical_rank"} & result["scores"].keys()


def test_a_cut_text_is_told(ask):
    assert ask(text="boots", top_k=1)["query_truncated"] is False
    assert ask(text="boots " * 1000, top_k=1)["query_truncated"] is True


def test_the_profile_says_how_each_shard_searched(ask):
    profile = ask(text="rain boots", top_k=4, profile=True)["profile"]
    assert [shard["shard"] for shard in profile["shards"]] == [0, 1, 2, 3]
    assert {shard["path"] for shard in profile["shards"]} == {"hnsw"}
    assert all(shard["ef_search"] > 0 for shard in profile["shards"])
    assert profile["items_matched"] == "1500"
    again = ask(text="rain boots", top_k=4, profile=True, params={"exact": True})["profile"]
    assert again["embedding_cached"] is True
    assert {shard["path"] for shard in again["shards"]} == {"exact_scan"}


def test_ef_search_is_followed(ask):
    profile = ask(text="rain boots", params={"ef_search": 77}, profile=True)["profile"]
    assert [shard["ef_search"] for shard in profile["shards"]] == [77] * 4


def test_more_like_these_leaves_out_what_was_asked_with(ask, sample_items):
    liked, disliked = sample_items[0]["item_id"], sample_items[1]["item_id"]
    response = ask(items={"positive": [liked], "negative": [disliked]}, top_k=1000)
    assert len(response["results"]) == 1000
    assert not {liked, disliked} & set(ids_of(response))


def test_more_like_one_item_ranks_by_its_own_vector(ask, deployment, sample_items):
    stored = deployment.stored
    liked = sample_items[0]["item_id"]
    query = stored.vectors[stored.item_ids.index(liked)].astype(np.float32)
    expected = [item_id for item_id, _ in stored.rank(query) if item_id != liked][:20]
    response = ask(items={"positive": [liked]}, top_k=20, params={"exact": True})
    assert ids_of(response) == expected


def test_an_embedding_searches_as_its_text_does(ask, deployment):
    text = "silk evening gown"
    encoded = grpcurl(
        deployment.encoder.address, ENCODE, {"texts": [text], "kind": "TEXT_KIND_QUERY"}
    ).message
    packed = encoded["embeddings"]
    values = np.frombuffer(base64.b64decode(packed), dtype="<f4").tolist()
    by_text = ask(text=text, top_k=20)
    by_packed = ask(embedding={"packed": packed}, top_k=20)
    by_values = ask(embedding={"values": values}, top_k=20)
    named = ask(embedding={"packed": packed, "encoder_id": encoded["encoder_id"]}, top_k=20)
    for response in (by_packed, by_values, named):
        assert ids_of(response) == ids_of(by_text)
        assert scores_of(response) == pytest.approx(scores_of(by_text), abs=1e-6)


def test_the_length_of_an_embedding_does_not_matter(ask, deployment):
    vector = deployment.stored.vectors[7]
    short, long = (vector * 0.25).tolist(), (vector * 8).tolist()
    one = ask(embedding={"values": short}, top_k=5)
    other = ask(embedding={"values": long}, top_k=5)
    assert ids_of(one) == ids_of(other)
    assert scores_of(one) == scores_of(other)


def test_pages_continue_one_another(ask):
    whole = ask(text="cotton shirt", top_k=30, params={"exact": True})
    pages, token = [], ""
    for _ in range(3):
        page = ask(text="cotton shirt", top_k=10, params={"exact": True}, page_token=token)
        token = page["next_page_token"]
        pages += page["results"]
    assert [result["item_id"] for result in pages] == ids_of(whole)
    assert [result["scores"]["dense_rank"] for result in pages] == list(range(1, 31))


def test_pages_end_at_result_1000(ask):
    first = ask(text="cotton shirt", top_k=999, fields=["none"])
    rest = ask(text="cotton shirt", top_k=999, fields=["none"], page_token=first["next_page_token"])
    assert len(rest["results"]) == 1
    assert rest["next_page_token"] == ""


def test_the_last_page_says_that_it_is_the_last(ask):
    narrow = {"equals": {"attribute": "brand", "value": {"keyword": "Kestrelle"}}}
    response = ask(text="shorts", top_k=1000, filter=narrow)
    assert 0 < len(response["results"]) < 1000
    assert response["next_page_token"] == ""


def test_a_page_token_belongs_to_its_search(ask, refused):
    token = ask(text="cotton shirt", top_k=10)["next_page_token"]
    failure = refused(text="linen shirt", top_k=10, page_token=token)
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", "page_token")


def test_fields_say_what_comes_with_a_result(ask):
    def item_with(*fields: str) -> dict[str, Any]:
        return ask(text="linen dress", top_k=1, fields=fields)["results"][0]["item"]

    whole = item_with()
    assert all(whole[part] for part in ("title", "texts", "attributes", "metadata"))
    title = item_with("title")
    assert title["title"] == whole["title"]
    assert not title["texts"]
    assert not title["attributes"]
    parts = item_with("attributes.price", "texts.description")
    assert parts["attributes"] == {"price": whole["attributes"]["price"]}
    assert parts["texts"] == {"description": whole["texts"]["description"]}
    assert parts["title"] == ""
    assert item_with("metadata")["metadata"] == whole["metadata"]


def test_no_fields_means_no_items_and_no_look_at_the_catalogue(ask):
    response = ask(text="linen dress", top_k=3, fields=["none"])
    assert len(response["results"]) == 3
    assert all(result["item"] is None for result in response["results"])
    assert response["degraded"] == []


def test_min_score_leaves_out_what_scores_less(ask):
    scores = scores_of(ask(text="linen dress", top_k=10))
    response = ask(text="linen dress", top_k=10, min_score=scores[4])
    assert scores_of(response) == scores[:5]
    assert response["next_page_token"] == ""
    assert ask(text="linen dress", min_score=1.0)["results"] == []


def test_min_coverage_and_min_seq_are_met_by_a_whole_cluster(ask):
    assert ask(text="linen dress", min_coverage=1.0, min_seq=1500)["results"]


def test_the_promoted_generation_can_be_named(ask, refused):
    assert ask(text="linen dress", generation=1)["generation"] == "1"
    failure = refused(text="linen dress", generation=99)
    assert failure.code == "NOT_FOUND"
    assert failure.detail("ResourceInfo")["resource_type"] == "generation"


def test_spaces_and_unicode_forms_do_not_change_an_answer(ask):
    plain = ask(text="caf\u00e9 au lait blouse", top_k=5)
    spread = ask(text="  cafe\u0301 au\tlait\nblouse ", top_k=5)
    assert ids_of(spread) == ids_of(plain)


def test_a_batch_answers_each_search_on_its_own(deployment, ask):
    requests = [
        {"text": "linen dress", "top_k": 3},
        {"text": "", "top_k": 3},
        {"items": {"positive": ["nobody"]}},
        {"text": "linen dress", "rerank": {"depth": 10}},
        {"text": "wool coat", "top_k": 2, "fields": ["none"]},
    ]
    outcomes = grpcurl(deployment.address, SEARCH_BATCH, {"requests": requests}).message["outcomes"]
    assert ids_of(outcomes[0]["response"]) == ids_of(ask(text="linen dress", top_k=3))
    assert ids_of(outcomes[4]["response"]) == ids_of(ask(text="wool coat", top_k=2))
    codes = [outcome["failure"]["code"] for outcome in outcomes[1:4]]
    assert codes == [3, 5, 12]  # INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED
    assert "text is ''" in outcomes[1]["failure"]["message"]
    assert outcomes[3]["failure"]["reason"] == "UNIMPLEMENTED"


def test_a_batch_holds_1_to_256_searches(deployment):
    for number in (0, 257):
        requests = [{"text": "x"}] * number
        failure = grpcurl(deployment.address, SEARCH_BATCH, {"requests": requests}).refusal
        assert (failure.code, failure.field) == ("INVALID_ARGUMENT", "requests")
    requests = [{"text": f"dress {number}", "top_k": 1} for number in range(256)]
    outcomes = grpcurl(deployment.address, SEARCH_BATCH, {"requests": requests}).message["outcomes"]
    assert sum("response" in outcome for outcome in outcomes) == 256
