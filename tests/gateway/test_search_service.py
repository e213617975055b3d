"""The door of Search: every bad field is refused with its name and what is allowed."""

import unicodedata

import numpy as np
import pytest
from google.protobuf import json_format
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.query import GivenEmbedding, LikeItems, TextQuery
from gateway.search_service import read_search
from protos.vitrine.v1 import search_pb2
from rpc.errors import InvalidArgument, Unimplemented


def request_of(**fields):
    return json_format.ParseDict({"text": "red dress"} | fields, search_pb2.SearchRequest())


def bare(**fields):
    return json_format.ParseDict(fields, search_pb2.SearchRequest())


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (bare(), "query"),
        (bare(text=""), "text"),
        (bare(text=" \t\n "), "text"),
        (bare(text="x" * 8193), "text"),
        (request_of(topK=0), "top_k"),
        (request_of(topK=5000), "top_k"),
        (request_of(params={"efSearch": 0}), "params.ef_search"),
        (request_of(params={"efSearch": 10001}), "params.ef_search"),
        (request_of(minCoverage=1.5), "min_coverage"),
        (request_of(minCoverage="NaN"), "min_coverage"),
        (request_of(minScore="NaN"), "min_score"),
        (request_of(generation=0), "generation"),
        (request_of(filter={}), "filter"),
        (request_of(fields=["titel"]), "fields[0]"),
        (request_of(fields=["title", "none"]), "fields[1]"),
        (request_of(fields=["title.short"]), "fields[0]"),
        (request_of(pageToken="x" * 300), "page_token"),
        (bare(items={}), "items.positive"),
        (bare(items={"positive": ["a"] * 101}), "items.positive"),
        (bare(items={"positive": ["a"], "negative": ["b"] * 101}), "items.negative"),
        (bare(items={"positive": ["a", ""]}), "items.positive[1]"),
        (bare(items={"positive": ["x" * 257]}), "items.positive[0]"),
        (bare(embedding={}), "embedding"),
        (bare(embedding={"values": [1], "packed": "AACAPw=="}), "embedding"),
        (bare(embedding={"packed": "AAA="}), "embedding.packed"),
    ],
)
def test_a_bad_field_is_named(request_, field):
    with pytest.raises(InvalidArgument) as caught:
        read_search(request_)

    assert caught.value.field == field
    assert "allowed" in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "SEARCH_MODE_LEXICAL"},
        {"mode": "SEARCH_MODE_HYBRID"},
        {"fusion": {"rrf": {}}},
        {"rerank": {"depth": 20}},
        {"diversity": {"attribute": "brand", "maxPerValue": 1}},
    ],
    ids=str,
)
def test_what_is_not_served_yet_says_so(fields):
    with pytest.raises(Unimplemented, match="not served"):
        read_search(request_of(**fields))


def test_defaults_are_those_of_the_contract():
    plan = read_search(request_of())

    assert (plan.top_k, plan.exact, plan.ef_search, plan.filter) == (10, False, None, b"")
    assert plan.query == TextQuery("red dress")


def test_texts_that_differ_only_in_spacing_and_composition_are_one_query():
    texts = ("crème  brûlée", " cre\u0300me\tbru\u0302le\u0301e\n")

    assert len({read_search(bare(text=text)).query for text in texts}) == 1


def test_items_are_excluded_from_their_own_results():
    plan = read_search(bare(items={"positive": ["a", "b"], "negative": ["c"]}))

    assert plan.query == LikeItems(("a", "b"), ("c",))
    assert plan.excluded == ("a", "b", "c")


def test_an_embedding_comes_as_numbers_or_packed():
    numbers = read_search(bare(embedding={"values": [1, 0.5]})).query
    packed_request = search_pb2.SearchRequest()
    packed_request.embedding.packed = np.array([1, 0.5], dtype="<f4").tobytes()
    packed = read_search(packed_request).query

    assert isinstance(numbers, GivenEmbedding)
    assert isinstance(packed, GivenEmbedding)
    assert numbers.vector.tolist() == packed.vector.tolist() == [1.0, 0.5]


def test_a_page_token_belongs_to_the_request_it_came_from():
    first = read_search(request_of(topK=5))
    next_page = read_search(request_of(topK=5, pageToken="AQ"))
    another = read_search(request_of(topK=6))

    assert first.fingerprint == next_page.fingerprint
    assert first.fingerprint != another.fingerprint


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_spellings_of_one_query_are_one_text(text):
    assume(text.strip())
    (read,) = {
        read_search(bare(text=spelling)).query.text
        for spelling in (
            text,
            f" {text}\n",
            text.replace(" ", " \t "),
            unicodedata.normalize("NFD", text),
            unicodedata.normalize("NFC", text),
        )
    }
    # What is encoded and what the cache is keyed by is this text; reading it again changes nothing.
    assert read_search(bare(text=read)).query.text == read


def test_a_request_may_go_past_the_cache():
    assert read_search(request_of(bypassEmbeddingCache=True)).bypass_embedding_cache
    assert not read_search(request_of()).bypass_embedding_cache
