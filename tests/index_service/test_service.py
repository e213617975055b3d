"""IndexService over a real server: what is asked badly is refused by name."""

import numpy as np
import pytest

from protos.vitrine.v1 import index_pb2, types_pb2
from rpc import errors
from rpc.vectors import unpack
from tests.index_service.catalogue import (
    DIM,
    ENCODER_ID,
)
from tests.index_service.serving import EXACT, a_query, a_search, keyword, publish, running


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    home = tmp_path_factory.mktemp("service")
    return home, publish(home)


@pytest.fixture
async def service(published, tmp_path):
    async with running(published[0], tmp_path) as started:
        yield started


async def test_a_search_answers_each_query_in_order(service, published):
    _, catalogue = published
    request = a_search(*(a_query(published, place, params=EXACT) for place in range(16)))
    response = await service.stub.Search(request)
    for hits, probe in zip(response.hits, catalogue.probes, strict=True):
        found = list(zip(hits.dense.item_ids, hits.dense.scores, strict=True))
        assert found == catalogue.best(probe, 5)
        assert hits.items_matched == 500
        assert not hits.HasField("profile")
    assert (response.generation, response.shard, response.items) == (1, 0, 500)
    assert response.applied_seq == 77
    assert response.search_us > 0


async def test_a_profile_tells_how_hits_were_found(service, published):
    request = a_search(
        a_query(published, profile=True),
        a_query(published, profile=True, filter=keyword("brand", "Acme")),
        a_query(published, profile=True, filter=keyword("brand", "nobody")),
        a_query(published, profile=True, params=EXACT),
    )
    response = await service.stub.Search(request)
    paths = [hits.profile.path for hits in response.hits]
    assert paths == ["hnsw", "exact_filtered", "empty", "exact_scan"]
    acme = sum(item.get("brand") == "Acme" for item in published[1].attributes)
    assert response.hits[1].items_matched == acme
    assert response.hits[1].profile.selectivity == acme / 500
    assert response.hits[0].profile.ef_search >= 16
    assert response.hits[3].profile.ef_search == 0


async def test_ef_search_below_fetch_k_is_raised(service, published):
    params = types_pb2.SearchParams(ef_search=1)
    query = a_query(published, fetch_k=50, params=params, profile=True)
    response = await service.stub.Search(a_search(query))
    assert response.hits[0].profile.ef_search == 50
    assert len(response.hits[0].dense.item_ids) == 50


async def test_a_compatible_encoder_is_served(service, published):
    response = await service.stub.Search(a_search(a_query(published), encoder_id="encoder-b"))
    assert len(response.hits) == 1


def with_embedding(vector):
    return {"embedding": np.asarray(vector, dtype="<f4").tobytes()}


def nested(levels):
    tree = keyword("brand", "Acme")
    for _ in range(levels - 1):
        tree = types_pb2.Filter(all_of=types_pb2.FilterList(filters=[tree]))
    return tree


NUMBER = types_pb2.FilterValue(number=3.0)
NAN = types_pb2.FilterValue(number=float("nan"))
TIME = types_pb2.FilterValue()
TIME.time.seconds = 10**12


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        (with_embedding([]), "embedding", "'0 bytes'; allowed 128 bytes, dim 32 in float32"),
        (with_embedding([1.0] * 31), "embedding", "124 bytes"),
        (with_embedding([1.0] * 64), "embedding", "256 bytes"),
        ({"embedding": b"xyz"}, "embedding", "3 bytes"),
        (with_embedding([float("nan")] * DIM), "embedding", "not finite"),
        (with_embedding([float("inf")] + [0.0] * 31), "embedding", "not finite"),
        (with_embedding([1.0] * DIM), "embedding", "'of length 5.6569'; allowed length 1"),
        (with_embedding([0.0] * DIM), "embedding", "of length 0.0000"),
        ({"fetch_k": 0}, "fetch_k", "is 0; allowed 1..2000"),
        ({"fetch_k": 2001}, "fetch_k", "is 2001; allowed 1..2000"),
        ({"params": types_pb2.SearchParams(ef_search=0)}, "params.ef_search", "1..10000"),
        ({"params": types_pb2.SearchParams(ef_search=10_001)}, "params.ef_search", "1..10000"),
        ({"exclude_item_ids": ["x"] * 1001}, "exclude_item_ids", "0..1000"),
        ({"mode": 9}, "mode", "a value of SearchMode"),
        ({"filter": types_pb2.Filter()}, "filter", "without a condition"),
        ({"filter": keyword("size", "XL")}, "filter.equals.attribute", "known: added, brand"),
        (
            {"filter": types_pb2.Filter(equals=types_pb2.EqualsFilter(attribute="brand"))},
            "filter.equals.value",
            "without a value",
        ),
        (
            {
                "filter": types_pb2.Filter(
                    equals=types_pb2.EqualsFilter(attribute="brand", value=NUMBER)
                )
            },
            "filter.equals.value",
            "a keyword",
        ),
        (
            {"filter": types_pb2.Filter(range=types_pb2.RangeFilter(attribute="price", gte=NAN))},
            "filter.range.lower",
            "finite",
        ),
        (
            {"filter": types_pb2.Filter(range=types_pb2.RangeFilter(attribute="added", lt=TIME))},
            "filter.range.lt",
            "the year 9999",
        ),
        (
            {"filter": types_pb2.Filter(range=types_pb2.RangeFilter(attribute="price"))},
            "filter.range",
            "a lower or an upper bound",
        ),
        (
            {"filter": types_pb2.Filter(any_of=types_pb2.FilterList())},
            "filter.any_of.filters",
            "1..256",
        ),
        (
            {"filter": types_pb2.Filter(one_of=types_pb2.OneOfFilter(attribute="brand"))},
            "filter.one_of.values",
            "1..10000",
        ),
        (
            {"filter": nested(9)},
            "filter" + ".all_of.filters[0]" * 7 + ".all_of.filters",
            "8 levels",
        ),
    ],
)
async def test_a_bad_query_is_refused_by_its_place_and_field(
    service, published, fields, field, text
):
    request = a_search(a_query(published), a_query(published, **fields))
    error = await service.refusal("Search", request)
    assert isinstance(error, errors.InvalidArgument), error
    assert error.field == f"queries[1].{field}"
    assert text in str(error)
    assert service.shard.holdings()[0].users == 0


async def test_a_filter_of_eight_levels_is_served(service, published):
    response = await service.stub.Search(a_search(a_query(published, filter=nested(8))))
    assert response.hits[0].items_matched > 0


@pytest.mark.parametrize(
    ("request_of", "kind", "text"),
    [
        (lambda query: a_search(query, generation=0), errors.InvalidArgument, "generation is 0"),
        (lambda query: a_search(query, generation=2**63), errors.InvalidArgument, "generation is"),
        (lambda query: a_search(query, encoder_id=""), errors.InvalidArgument, "encoder_id"),
        (lambda _: a_search(), errors.InvalidArgument, "queries is 0; allowed 1..256 queries"),
        (
            lambda query: a_search(*[query] * 257),
            errors.InvalidArgument,
            "queries is 257; allowed 1..256 queries",
        ),
        (lambda query: a_search(query, generation=7), errors.NotFound, "no such generation: 7"),
        (
            lambda query: a_search(query, encoder_id="encoder-z"),
            errors.FailedPrecondition,
            "cannot be compared",
        ),
    ],
)
async def test_a_bad_search_is_refused(service, published, request_of, kind, text):
    error = await service.refusal("Search", request_of(a_query(published)))
    assert isinstance(error, kind), error
    assert text in str(error)


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (types_pb2.SEARCH_MODE_LEXICAL, "lexical search is not served"),
        (types_pb2.SEARCH_MODE_HYBRID, "hybrid search is not served"),
    ],
)
async def test_modes_to_come_are_unimplemented(service, published, mode, text):
    query = a_query(published, mode=mode, embedding=b"", text="red dress")
    error = await service.refusal("Search", a_search(query))
    assert isinstance(error, errors.Unimplemented)
    assert text in str(error)


async def test_embeddings_come_back_in_the_order_asked_without_the_unknown(service, published):
    _, catalogue = published
    asked = [catalogue.item_ids[400], "nobody", catalogue.item_ids[3]]
    request = index_pb2.GetEmbeddingsRequest(generation=1, item_ids=asked)
    response = await service.stub.GetEmbeddings(request)
    assert list(response.item_ids) == [asked[0], asked[2]]
    got = unpack(response.embeddings, response.dim)
    assert np.array_equal(got, catalogue.vectors[[400, 3]].astype(np.float32))


@pytest.mark.parametrize("count", [0, 1001])
async def test_too_few_or_too_many_ids_are_refused(service, count):
    request = index_pb2.GetEmbeddingsRequest(generation=1, item_ids=["x"] * count)
    error = await service.refusal("GetEmbeddings", request)
    assert (error.field, isinstance(error, errors.InvalidArgument)) == ("item_ids", True)


async def test_counts_are_exact(service, published):
    all_items = await service.stub.Count(index_pb2.CountRequest(generation=1))
    assert (all_items.items_matched, all_items.items) == (500, 500)
    tree = keyword("colors", "red")
    some = await service.stub.Count(index_pb2.CountRequest(generation=1, filter=tree))
    expected = sum("red" in item.get("colors", []) for item in published[1].attributes)
    assert (some.items_matched, some.items) == (expected, 500)
    bad = index_pb2.CountRequest(generation=1, filter=keyword("price", "cheap"))
    error = await service.refusal("Count", bad)
    assert error.field == "filter.equals.value"


async def test_a_shard_describes_itself(service):
    described = await service.stub.DescribeShard(index_pb2.DescribeShardRequest())
    [loaded] = described.generations
    assert described.shard == 0
    assert described.resident_bytes > 1_000_000
    assert loaded.state == index_pb2.GENERATION_STATE_READY
    assert (loaded.generation, loaded.items, loaded.items_total) == (1, 500, 500)
    assert (loaded.encoder_id, list(loaded.compatible_query_encoders)) == (
        ENCODER_ID,
        ["encoder-b"],
    )
    assert (loaded.dim, loaded.num_shards, loaded.applied_seq) == (DIM, 1, 77)
    types = {entry.name: entry.type for entry in loaded.attributes}
    assert types["price"] == types_pb2.ATTRIBUTE_TYPE_NUMBER
    assert types["colors"] == types_pb2.ATTRIBUTE_TYPE_KEYWORD_LIST
    assert loaded.gate.required_ann_recall_at_10 == 0.99
