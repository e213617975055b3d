"""Everything that a caller can get wrong, and everything that is not served yet."""

import base64
from typing import Any

import pytest

from tests.system.deployment import Deployment
from tests.system.wire import SEARCH, failure_of, grpcurl

DIM = 384
ATTRIBUTES = (
    "brand, category, color, gender, listed, material, num_ratings, occasions, price, rating, "
    "season"
)


def equals(attribute: str, **value: Any) -> dict[str, Any]:
    return {"equals": {"attribute": attribute, "value": value}}


def nested(levels: int) -> dict[str, Any]:
    tree = equals("brand", keyword="x")
    for _ in range(levels - 1):
        tree = {"none_of": {"filters": [tree]}}
    return tree


TEXT = {"text": "linen dress"}
BAD_SEARCHES = {
    "no query": ({}, "query", "one of text, items, embedding"),
    "empty text": ({"text": ""}, "text", "a text that is not blank"),
    "blank text": ({"text": " \t\n\u3000 "}, "text", "a text that is not blank"),
    "100 kB of text": ({"text": "dress " * 17_000}, "text", "102000 bytes long"),
    "8,193 bytes of text": ({"text": "\u00e9" * 4096 + "x"}, "text", "1..8192 bytes"),
    "top_k 0": ({**TEXT, "top_k": 0}, "top_k", "top_k is 0; allowed 1..1000"),
    "top_k 5000": ({**TEXT, "top_k": 5000}, "top_k", "top_k is 5000; allowed 1..1000"),
    "ef_search 0": ({**TEXT, "params": {"ef_search": 0}}, "params.ef_search", "1..10000"),
    "ef_search 10001": ({**TEXT, "params": {"ef_search": 10_001}}, "params.ef_search", "1..10000"),
    "min_coverage 1.1": ({**TEXT, "min_coverage": 1.1}, "min_coverage", "0..1"),
    "min_coverage NaN": ({**TEXT, "min_coverage": "NaN"}, "min_coverage", "0..1"),
    "min_score NaN": ({**TEXT, "min_score": "NaN"}, "min_score", "a finite number"),
    "generation 0": ({**TEXT, "generation": 0}, "generation", "1.."),
    "garbage token": ({**TEXT, "page_token": "?"}, "page_token", "an earlier answer"),
    "long token": ({**TEXT, "page_token": "A" * 1000}, "page_token", "an earlier answer"),
    "unknown field": ({**TEXT, "fields": ["title", "price"]}, "fields[1]", "attributes.NAME"),
    "none beside others": ({**TEXT, "fields": ["none", "title"]}, "fields[0]", "none alone"),
    "mode 9": ({**TEXT, "mode": 9}, "mode", "a SearchMode"),
    "no liked item": ({"items": {}}, "items.positive", "1..100 item ids"),
    "101 liked items": ({"items": {"positive": ["a"] * 101}}, "items.positive", "1..100 item ids"),
    "empty item id": ({"items": {"positive": ["a", ""]}}, "items.positive[1]", "1..256 bytes"),
    "long item id": ({"items": {"positive": ["a" * 257]}}, "items.positive[0]", "1..256 bytes"),
    "no embedding": ({"embedding": {}}, "embedding", "exactly one of values and packed"),
    "383 values": ({"embedding": {"values": [1.0] * 383}}, "embedding", "384 values"),
    "NaN in it": ({"embedding": {"values": ["NaN"] + [1.0] * 383}}, "embedding", "finite numbers"),
    "infinity in it": (
        {"embedding": {"values": ["Infinity"] + [1.0] * 383}},
        "embedding",
        "finite numbers",
    ),
    "all zeros": ({"embedding": {"values": [0.0] * DIM}}, "embedding", "a direction"),
    "half a number": (
        {"embedding": {"packed": base64.b64encode(b"12345").decode()}},
        "embedding.packed",
        "a multiple of 4 bytes",
    ),
    "unknown attribute": ({**TEXT, "filter": equals("brnad", keyword="x")}, None, ATTRIBUTES),
    "wrong kind of value": ({**TEXT, "filter": equals("price", keyword="x")}, None, "number"),
    "empty filter": ({**TEXT, "filter": {}}, None, "one of its kinds to be set"),
    "empty all_of": ({**TEXT, "filter": {"all_of": {}}}, None, "1..256"),
    "no value": ({**TEXT, "filter": equals("brand")}, None, "a keyword, number, flag or time"),
    "no bound": ({**TEXT, "filter": {"range": {"attribute": "price"}}}, None, "bound"),
    "range of keywords": (
        {**TEXT, "filter": {"range": {"attribute": "brand", "gt": {"keyword": "a"}}}},
        None,
        "number or time",
    ),
    "nine levels": ({**TEXT, "filter": nested(9)}, None, "8 levels"),
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
def test_a_bad_field_is_named_with_what_is_allowed(deployment: Deployment, name: str):
    request, field, allowed = BAD_SEARCHES[name]
    failure = grpcurl(deployment.address, SEARCH, request).refusal
    assert failure.code == "INVALID_ARGUMENT"
    assert allowed in failure.message
    if field is None:
        assert failure.field.startswith("filter"), "the caller's own field is named"
        assert "queries[" not in failure.message
    else:
        assert failure.field == field


def test_what_is_barely_allowed_is_answered(deployment):
    for request in (
        {"text": "x" * 8192, "top_k": 1},
        {**TEXT, "top_k": 1000, "fields": ["none"]},
        {**TEXT, "filter": nested(8), "top_k": 1},
        {**TEXT, "min_coverage": 0, "params": {"ef_search": 10_000}, "top_k": 1},
    ):
        assert grpcurl(deployment.address, SEARCH, request).message["results"]


def test_an_unknown_item_is_named(deployment, sample_items):
    liked = [sample_items[0]["item_id"], "nobody"]
    failure = grpcurl(deployment.address, SEARCH, {"items": {"positive": liked}}).refusal
    assert failure.code == "NOT_FOUND"
    assert failure.message == "no such item: 'nobody'"
    assert failure.detail("ResourceInfo")["resource_type"] == "item"


def test_items_that_cancel_each_other_out_point_nowhere(deployment, sample_items):
    same = [sample_items[0]["item_id"]]
    request = {"items": {"positive": same, "negative": same}}
    failure = grpcurl(deployment.address, SEARCH, request).refusal
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", "items")


def test_an_embedding_of_another_encoder_is_refused(deployment):
    request = {"embedding": {"values": [1.0] * DIM, "encoder_id": "0" * 24}}
    failure = grpcurl(deployment.address, SEARCH, request).refusal
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ENCODER_MISMATCH")
    metadata = failure.detail("ErrorInfo")["metadata"]
    assert metadata["got"] == "0" * 24
    assert len(metadata["expected"]) == 24


NOT_SERVED = {
    "mode lexical": (SEARCH, {**TEXT, "mode": "SEARCH_MODE_LEXICAL"}),
    "mode hybrid": (SEARCH, {**TEXT, "mode": "SEARCH_MODE_HYBRID"}),
    "fusion": (SEARCH, {**TEXT, "fusion": {"rrf": {"k": 60}}}),
    "rerank": (SEARCH, {**TEXT, "rerank": {"depth": 50}}),
    "diversity": (SEARCH, {**TEXT, "diversity": {"attribute": "brand", "max_per_value": 2}}),
    "min_seq 1501": (SEARCH, {**TEXT, "min_seq": 1501}),
    "UpsertItems": ("vitrine.v1.CatalogService/UpsertItems", {}),
    "DeleteItems": ("vitrine.v1.CatalogService/DeleteItems", {"item_ids": ["a"]}),
    "ListItems": ("vitrine.v1.CatalogService/ListItems", {}),
    "TailChanges": ("vitrine.v1.CatalogService/TailChanges", {"after_seq": 1}),
}


@pytest.mark.parametrize("name", NOT_SERVED)
def test_what_is_not_served_yet_says_so(deployment: Deployment, name: str):
    method, request = NOT_SERVED[name]
    failure = grpcurl(deployment.address, method, request).refusal
    assert (failure.code, failure.reason) == ("UNIMPLEMENTED", "UNIMPLEMENTED")
    word = name.removeprefix("mode ")
    assert word.lower() in failure.message.lower()


def test_a_method_that_does_not_exist_is_unimplemented(deployment):
    answer = deployment.stubs().channel.unary_unary("/vitrine.v1.SearchService/Suggest")
    assert failure_of(lambda: answer(b"", timeout=10)).code == "UNIMPLEMENTED"


NOISE = {
    "no protobuf": b"\xff\xff\xff",
    # Field 1, text, three bytes long, and no UTF-8.
    "text that is not UTF-8": b"\x0a\x03\xff\xfe\xfd",
}


@pytest.mark.parametrize("name", NOISE)
def test_bytes_that_are_no_request_are_the_callers_fault(deployment, name):
    search = deployment.stubs().channel.unary_unary(f"/{SEARCH}")
    failure = failure_of(lambda: search(NOISE[name], timeout=10))
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", "request")
    assert "DecodeError" not in failure.message
