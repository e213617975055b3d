"""Answers against the simplest possible search, filter and merge."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from protos.vitrine.v1 import encoder_pb2, search_pb2, types_pb2
from rpc.filter_expression import parse_filter
from rpc.vectors import pack, unpack
from tests.system.deployment import Deployment
from tests.system.processes import Process, run_module, start, succeed, wait_until_serving
from tests.system.wire import Stubs

TEXTS = (
    "red dress", "warm winter coat", "running shoes", "gold necklace", "cotton t-shirt for kids",
    "silk scarf", "rain boots", "leather belt", "denim jacket", "sun hat", "evening gown",
    "wool socks", "yoga pants", "linen shirt", "swimwear for the beach", "formal trousers",
    "office handbag", "sneakers", "striped sweater", "hiking backpack",
)  # fmt: skip
Record = dict[str, Any]


@pytest.fixture(scope="module")
def queries(deployment: Deployment) -> np.ndarray:
    """The embeddings of some texts, shape (20, 384) float32."""
    request = encoder_pb2.EncodeRequest(texts=TEXTS, kind=types_pb2.TEXT_KIND_QUERY)
    answer = deployment.stubs("encoder").encoder.Encode(request, timeout=30)
    return unpack(answer.embeddings, answer.dim)


def ranked(response: search_pb2.SearchResponse) -> list[tuple[str, float]]:
    return [(result.item_id, result.score) for result in response.results]


def test_exact_results_are_those_of_a_scan_over_all_vectors(deployment, queries):
    for query in queries:
        embedding = search_pb2.EmbeddingQuery(packed=pack(query))
        params = types_pb2.SearchParams(exact=True)
        response = deployment.search(embedding=embedding, top_k=100, params=params, fields=["none"])
        expected = deployment.stored.rank(query)
        scores = dict(expected)
        assert len(response.results) == 100
        for result in response.results:
            assert result.score == pytest.approx(scores[result.item_id], abs=2e-7)
        # Neighbours whose scores differ by less than a float32 can tell may change places.
        for (item_id, score), (expected_id, expected_score) in zip(
            ranked(response), expected, strict=False
        ):
            assert item_id == expected_id or score == pytest.approx(expected_score, abs=2e-7)


def test_the_default_search_finds_at_least_95_percent_of_the_exact_ten(deployment, queries):
    found = 0
    for query in queries:
        embedding = search_pb2.EmbeddingQuery(packed=pack(query))
        default = deployment.search(embedding=embedding, top_k=10, fields=["none"], profile=True)
        assert {shard.path for shard in default.profile.shards} == {"hnsw"}
        best = {item_id for item_id, _ in deployment.stored.rank(query)[:10]}
        found += len(best & {result.item_id for result in default.results})
    assert found / (10 * len(queries)) >= 0.95


def test_a_score_does_not_depend_on_the_path(deployment):
    exact = deployment.search(
        text="linen shirt", top_k=50, params=types_pb2.SearchParams(exact=True), fields=["none"]
    )
    scores = dict(ranked(exact))
    default = deployment.search(text="linen shirt", top_k=50, fields=["none"])
    shared = [(item_id, score) for item_id, score in ranked(default) if item_id in scores]
    assert len(shared) > 40
    assert all(score == scores[item_id] for item_id, score in shared)


FILTERS: dict[str, Callable[[Record], bool]] = {
    'brand = "Kestrelle"': lambda a: a["brand"] == "Kestrelle",
    "price < 20": lambda a: a["price"] < 20,
    "price <= 20.5": lambda a: a["price"] <= 20.5,
    "price > 150": lambda a: a["price"] > 150,
    "price >= 20 AND price < 21": lambda a: 20 <= a["price"] < 21,
    'color IN ("Plum", "Coral")': lambda a: a["color"] in ("Plum", "Coral"),
    'occasions = "Office"': lambda a: "Office" in a["occasions"],
    'occasions IN ("Office", "Party")': lambda a: bool({"Office", "Party"} & {*a["occasions"]}),
    'NOT season = "Summer"': lambda a: a["season"] != "Summer",
    'gender = "Women" AND (price < 30 OR rating >= 4.5)': lambda a: a["gender"] == "Women"
    and (a["price"] < 30 or a["rating"] >= 4.5),
    'listed >= time("2021-06-01T00:00:00Z")': lambda a: a["listed"]["time"] >= "2021-06-01",
    'brand = "Nobody"': lambda a: False,
}  # fmt: skip


@pytest.mark.parametrize("expression", FILTERS)
def test_a_filter_agrees_with_a_look_at_every_item(deployment, sample_items, expression):
    expected = {item["item_id"] for item in sample_items if FILTERS[expression](item["attributes"])}
    response = deployment.search(
        text="something nice to wear",
        filter=parse_filter(expression),
        top_k=1000,
        fields=["none"],
        profile=True,
    )
    assert response.profile.items_matched == len(expected)
    found = [result.item_id for result in response.results]
    assert len(found) == min(1000, len(expected))
    assert len(set(found)) == len(found)
    assert set(found) <= expected


def number(value: float) -> types_pb2.FilterValue:
    return types_pb2.FilterValue(number=value)


def filter_trees() -> dict[str, tuple[types_pb2.Filter, Callable[[Record], bool]]]:
    """Every kind of node, as the wire has it."""
    price = types_pb2.RangeFilter(attribute="price", gt=number(20.5), lte=number(75.5))
    day = types_pb2.FilterValue(time=Timestamp(seconds=int(datetime(2021, 1, 1).timestamp())))
    day.time.FromDatetime(datetime(2021, 1, 1))
    brand = types_pb2.EqualsFilter(
        attribute="brand", value=types_pb2.FilterValue(keyword="Kestrelle")
    )
    ratings = types_pb2.OneOfFilter(attribute="rating", values=[number(3.5), number(4.0)])
    kestrelle, dear = types_pb2.Filter(equals=brand), types_pb2.Filter(range=price)
    both = types_pb2.FilterList(filters=[kestrelle, dear])
    return {
        "range, open below": (dear, lambda a: 20.5 < a["price"] <= 75.5),
        "range of times": (
            types_pb2.Filter(range=types_pb2.RangeFilter(attribute="listed", lt=day)),
            lambda a: a["listed"]["time"] < "2021-01-01T00:00:00Z",
        ),
        "equals a time": (
            types_pb2.Filter(equals=types_pb2.EqualsFilter(attribute="listed", value=day)),
            lambda a: a["listed"]["time"] == "2021-01-01T00:00:00Z",
        ),
        "one of numbers": (
            types_pb2.Filter(one_of=ratings),
            lambda a: a["rating"] in (3.5, 4.0),
        ),
        "all of": (
            types_pb2.Filter(all_of=both),
            lambda a: a["brand"] == "Kestrelle" and 20.5 < a["price"] <= 75.5,
        ),
        "any of": (
            types_pb2.Filter(any_of=both),
            lambda a: a["brand"] == "Kestrelle" or 20.5 < a["price"] <= 75.5,
        ),
        "none of": (
            types_pb2.Filter(none_of=both),
            lambda a: not (a["brand"] == "Kestrelle" or 20.5 < a["price"] <= 75.5),
        ),
        "exists": (
            types_pb2.Filter(exists=types_pb2.ExistsFilter(attribute="brand")),
            lambda a: True,
        ),
        "exists not": (
            types_pb2.Filter(exists=types_pb2.ExistsFilter(attribute="brand", present=False)),
            lambda a: False,
        ),
    }


@pytest.mark.parametrize("name", filter_trees())
def test_every_kind_of_node_agrees_with_a_look_at_every_item(deployment, sample_items, name):
    tree, matches = filter_trees()[name]
    expected = {item["item_id"] for item in sample_items if matches(item["attributes"])}
    response = deployment.search(
        text="something nice to wear", filter=tree, top_k=1000, fields=["none"], profile=True
    )
    assert response.profile.items_matched == len(expected)
    assert len(response.results) == min(1000, len(expected))
    assert {result.item_id for result in response.results} <= expected


def test_a_filtered_exact_search_ranks_what_matches(deployment, sample_items, queries):
    expression = "price < 40"
    cheap = {item["item_id"] for item in sample_items if item["attributes"]["price"] < 40}
    expected = [pair for pair in deployment.stored.rank(queries[0]) if pair[0] in cheap][:50]
    response = deployment.search(
        embedding=search_pb2.EmbeddingQuery(packed=pack(queries[0])),
        filter=parse_filter(expression),
        top_k=50,
        params=types_pb2.SearchParams(exact=True),
        fields=["none"],
    )
    assert [item_id for item_id, _ in ranked(response)] == [item_id for item_id, _ in expected]


class Cut:
    """The same vectors cut into a number of shards, each served by a process of its own."""

    def __init__(self, work: Path, deployment: Deployment, num_shards: int) -> None:
        self.generations = work.with_name(f"generations-{num_shards}")
        build = ["--work", work, "--generations", self.generations, "--shards", num_shards]
        succeed(run_module("index_service.build", *build))
        (self.generations / "active.json").write_text(
            '{"format_version": 1, "generation": 1, "previous": 0, "history": []}'
        )
        self._folder = work.with_name(f"run-{num_shards}")
        with ThreadPoolExecutor(num_shards) as threads:
            self._shards = list(threads.map(self._start_shard, range(num_shards)))
        settings = {
            "ENCODER": deployment.encoder.address,
            "SHARDS": ",".join(shard.address for shard in self._shards),
            "CATALOG": f"sqlite:///{deployment.home / 'catalog.sqlite'}",
            "GENERATIONS": self.generations,
        }
        self._gateway = start("gateway", settings, self._folder)
        wait_until_serving(self._gateway)
        self.stubs = Stubs(self._gateway.address)

    def _start_shard(self, shard: int) -> Process:
        settings = {"SHARD": shard, "GENERATIONS": self.generations}
        return start(f"shard-{shard}", settings, self._folder)

    def search(self, **fields: Any) -> search_pb2.SearchResponse:
        request = search_pb2.SearchRequest(fields=["none"], min_coverage=1.0, **fields)
        return self.stubs.search.Search(request, timeout=20)

    def close(self) -> None:
        self.stubs.close()
        for process in (self._gateway, *self._shards):
            process.kill()


@pytest.fixture(scope="module")
def work_folder(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `vitrine build` hands to its last stage, with few probe queries to save time."""
    work = tmp_path_factory.mktemp("cuts") / "work"
    catalog = f"sqlite:///{deployment.home / 'catalog.sqlite'}"
    succeed(run_module("gateway.export", "--catalog", catalog, "--out", work))
    (bundle,) = (deployment.home / "bundles").iterdir()
    embed = ["--bundle", bundle, "--items", work / "items.arrow", "--out", work]
    cache = deployment.home / "embeddings"
    result = succeed(run_module("encoder_service.embed", *embed, "--cache", cache)).document
    assert result["embedded"] == 0, "all of it is in the cache"
    probes = np.load(work / "probes.npy")
    np.save(work / "probes.npy", probes[:8])
    return work


@pytest.fixture(scope="module", params=[1, 2, 7], ids="{} shards".format)
def cut(request: pytest.FixtureRequest, work_folder: Path, deployment: Deployment) -> Iterator[Cut]:
    cluster = Cut(work_folder, deployment, request.param)
    try:
        yield cluster
    finally:
        cluster.close()


def test_the_number_of_shards_changes_no_exact_answer(cut, deployment):
    exact = types_pb2.SearchParams(exact=True)
    cheap = parse_filter("price < 60")
    for text in TEXTS[:6]:
        for options in ({}, {"filter": cheap}):
            wanted = {"text": text, "top_k": 200, "params": exact, **options}
            expected = deployment.search(fields=["none"], min_coverage=1.0, **wanted)
            assert ranked(cut.search(**wanted)) == ranked(expected)


def test_the_number_of_shards_changes_no_more_like_these(cut, deployment, sample_items):
    items = search_pb2.ItemsQuery(
        positive=[sample_items[0]["item_id"], sample_items[9]["item_id"]],
        negative=[sample_items[20]["item_id"]],
    )
    wanted = {"items": items, "top_k": 100, "params": types_pb2.SearchParams(exact=True)}
    assert ranked(cut.search(**wanted)) == ranked(deployment.search(**wanted))
