"""IndexService over a real server: what is asked badly is refused by name."""

import asyncio
import shutil
import threading
from contextlib import asynccontextmanager

import faiss
import grpc
import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from index_service.executor import SearchExecutor
from index_service.generation.manifest import read_manifest
from index_service.generation.verify import Verification
from index_service.holdings import State
from index_service.memory import MemoryBudget, needed_bytes
from index_service.metrics import IndexMetrics
from index_service.planner import PlanLimits
from index_service.service import IndexService
from protos.vitrine.v1 import index_pb2, index_pb2_grpc, types_pb2
from rpc import errors
from rpc.client import open_channel
from rpc.errors import from_rpc_error
from rpc.server import ServiceServer
from rpc.settings import ServiceSettings
from rpc.vectors import pack, unpack
from tests.index_service.catalogue import (
    DIM,
    ENCODER_ID,
    Catalogue,
    build,
    manifest_of,
    open_shard,
    random_attributes,
    random_units,
)
from tests.index_service.handles import handles_left
from tests.index_service.test_generation import flip_a_bit


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two generations of 500 items, one shard."""
    home = tmp_path_factory.mktemp("service")
    rng = np.random.default_rng(0)
    catalogue = Catalogue(
        random_units(rng, 500), random_units(rng, 16), random_attributes(rng, 500)
    )
    build(catalogue, home)
    build(catalogue, home)
    return home, catalogue


class Running:
    """A service on a port, and a stub to call it with."""

    def __init__(self, stub, server, executor, shard, service, metrics):
        self.stub, self.server, self.executor, self.shard = stub, server, executor, shard
        self._service = service
        self.metrics = metrics

    def moves(self):
        """Loads, releases and late checks under way."""
        return self._service._moves

    def verify_late(self, generation):
        """Begin a late check."""
        return self._service._start(self._service._verify_late(generation))

    async def refusal(self, call, request, **options):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await getattr(self.stub, call)(request, **options)
        return from_rpc_error(refused.value)


@asynccontextmanager
async def running(
    home, tmp_path, waiting_max=8, short_search_us=0, recall_sample=0.0, **shard_options
):
    metrics = IndexMetrics("shard-0", "test")
    shard = open_shard(home, **shard_options)
    executor = SearchExecutor(1, waiting_max)
    service = IndexService(
        shard, executor, metrics, PlanLimits(), 30.0, short_search_us, recall_sample
    )
    announced = tmp_path / "announced.json"
    settings = ServiceSettings(announce_file=announced, log_level="error")

    async def describe():
        return {}

    server = ServiceServer("shard-0", settings, metrics, describe)
    service.on_change = server.set_serving
    index_pb2_grpc.add_IndexServiceServicer_to_server(service, server.grpc)
    ready = asyncio.Event()

    async def become_ready():
        await service.load(1)
        ready.set()

    serving = asyncio.create_task(server.run(("vitrine.v1.IndexService",), become_ready))
    await asyncio.wait(
        (serving, asyncio.ensure_future(ready.wait())), return_when="FIRST_COMPLETED"
    )
    address = orjson.loads(announced.read_bytes())["address"]
    channel = open_channel(address, 16 * 1024 * 1024)
    try:
        yield Running(
            index_pb2_grpc.IndexServiceStub(channel), server, executor, shard, service, metrics
        )
    finally:
        await channel.close()
        server._stop_asked.set()
        await serving
        await service.close()


@pytest.fixture
async def service(published, tmp_path):
    async with running(published[0], tmp_path) as started:
        yield started


def a_query(published, place=0, **fields):
    embedding = pack(published[1].probes[place])
    return index_pb2.ShardQuery(**{"embedding": embedding, "fetch_k": 5, **fields})


def a_search(*queries, generation=1, encoder_id=ENCODER_ID):
    return index_pb2.IndexServiceSearchRequest(
        generation=generation, encoder_id=encoder_id, queries=queries
    )


def keyword(attribute, value):
    leaf = types_pb2.EqualsFilter(attribute=attribute, value=types_pb2.FilterValue(keyword=value))
    return types_pb2.Filter(equals=leaf)


EXACT = types_pb2.SearchParams(exact=True)


def wider(ef_search):
    return types_pb2.SearchParams(ef_search=ef_search)


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


async def test_generations_are_loaded_and_released(service, published):
    load = index_pb2.IndexServiceLoadGenerationRequest(generation=2)
    first, second = await asyncio.gather(
        service.stub.LoadGeneration(load), service.stub.LoadGeneration(load)
    )
    assert first.loaded.state == second.loaded.state == index_pb2.GENERATION_STATE_READY
    assert sorted(answer.load_us > 0 for answer in (first, second)) == [False, True]
    await service.stub.Search(a_search(a_query(published), generation=2))
    release = index_pb2.ReleaseGenerationRequest(generation=1)
    assert (await service.stub.ReleaseGeneration(release)).released
    assert not (await service.stub.ReleaseGeneration(release)).released
    error = await service.refusal("Search", a_search(a_query(published)))
    assert (error.reason, error.got) == ("GENERATION_RETIRED", "1")
    assert service.server.serving
    assert (
        await service.stub.ReleaseGeneration(index_pb2.ReleaseGenerationRequest(generation=2))
    ).released
    assert not service.server.serving


@pytest.mark.parametrize(
    ("generation", "kind"), [(0, errors.InvalidArgument), (99, errors.NotFound)]
)
async def test_a_generation_that_cannot_be_is_not_loaded(service, generation, kind):
    request = index_pb2.IndexServiceLoadGenerationRequest(generation=generation)
    assert isinstance(await service.refusal("LoadGeneration", request), kind)
    assert service.server.serving


async def test_recall_is_probed(service):
    response = await service.stub.ProbeRecall(index_pb2.ProbeRecallRequest(generation=1, probes=9))
    assert response.measured.probes == 9
    assert 0.9 <= response.measured.ann_recall_at_10 <= 1.0
    wide = index_pb2.ProbeRecallRequest(generation=1, ef_search=500)
    measured = (await service.stub.ProbeRecall(wide)).measured
    assert (measured.probes, measured.ef_search, measured.ann_recall_at_10) == (16, 500, 1.0)


async def test_a_probed_recall_is_exported_until_its_generation_is_released(service):
    def shown(generation):
        labels = {"generation": str(generation)}
        return service.metrics.registry.get_sample_value("vitrine_index_ann_recall_at_10", labels)

    await service.stub.LoadGeneration(index_pb2.IndexServiceLoadGenerationRequest(generation=2))
    for generation in (1, 2):
        await service.stub.ProbeRecall(index_pb2.ProbeRecallRequest(generation=generation))
    assert shown(1) >= 0.9
    await service.stub.ReleaseGeneration(index_pb2.ReleaseGenerationRequest(generation=1))
    assert shown(1) is None
    assert shown(2) >= 0.9


@pytest.mark.parametrize("fields", [{"probes": 0}, {"probes": 1001}, {"ef_search": 0}])
async def test_a_probe_out_of_range_is_refused(service, fields):
    request = index_pb2.ProbeRecallRequest(generation=1, **fields)
    error = await service.refusal("ProbeRecall", request)
    assert [error.field] == list(fields)


class Blocked:
    """Holds the only search thread until let go."""

    def __init__(self, service):
        self._go_on = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._service = service

    async def __aenter__(self):
        started = asyncio.Event()

        def work(stop):
            self._loop.call_soon_threadsafe(started.set)
            asyncio.run_coroutine_threadsafe(self._go_on.wait(), self._loop).result(30)

        from rpc.deadlines import Deadline

        self._running = asyncio.ensure_future(
            self._service.executor.run(work, Deadline.after(30), lambda: None)
        )
        await started.wait()

    async def __aexit__(self, *_):
        self._go_on.set()
        await self._running


async def test_only_a_lone_short_search_runs_where_it_arrives(published, tmp_path, monkeypatch):
    gate = read_manifest(published[0] / "generations" / "000001").gate
    longest_us = int(2 * gate.search_p50_us) + 1
    async with running(published[0], tmp_path, short_search_us=longest_us) as service:
        here, threads, search = threading.get_ident(), [], service.shard.search

        def noted(*arguments):
            threads.append(threading.get_ident())
            return search(*arguments)

        monkeypatch.setattr(service.shard, "search", noted)
        lone = a_query(published)
        answer = await service.stub.Search(a_search(lone))
        assert threads == [here]
        others = (
            a_search(lone, lone),
            a_search(a_query(published, params=EXACT)),
            a_search(a_query(published, filter=keyword("brand", "Acme"))),
            a_search(a_query(published, params=wider(3 * gate.ef_search))),
            a_search(a_query(published, fetch_k=3 * gate.ef_search)),
        )
        for request in others:
            await service.stub.Search(request)
        assert here not in threads[1:]
        assert len(threads) == 1 + len(others)
        handed_over = await service.stub.Search(a_search(lone, lone))
        assert answer.hits[0].dense == handed_over.hits[0].dense


async def test_calls_beyond_the_queue_are_refused_at_once(published, tmp_path):
    async with running(published[0], tmp_path, waiting_max=1) as service:
        async with Blocked(service):
            waiting = service.stub.Search(a_search(a_query(published)))
            while service.executor.waiting < 1:
                await asyncio.sleep(0.001)
            error = await service.refusal("Search", a_search(a_query(published)))
            assert isinstance(error, errors.ResourceExhausted)
        assert len((await waiting).hits) == 1


async def test_a_call_whose_deadline_passes_in_the_queue_is_never_searched(service, published):
    async with Blocked(service):
        error = await service.refusal("Search", a_search(a_query(published)), timeout=0.05)
        assert isinstance(error, errors.DeadlineExceeded)
    assert service.shard.holdings()[0].users == 0
    assert service.executor.waiting == 0


async def test_a_cancelled_call_leaves_the_queue(service, published):
    async with Blocked(service):
        call = service.stub.Search(a_search(a_query(published)))
        while service.executor.waiting < 1:
            await asyncio.sleep(0.001)
        call.cancel()
        while service.executor.waiting:
            await asyncio.sleep(0.001)
        assert service.shard.holdings()[0].users == 0


async def test_release_waits_for_a_search_in_the_queue(service, published):
    async with Blocked(service):
        search = service.stub.Search(a_search(a_query(published)))
        while service.executor.waiting < 1:
            await asyncio.sleep(0.001)
        release = service.stub.ReleaseGeneration(index_pb2.ReleaseGenerationRequest(generation=1))
        while service.shard.holdings()[0].state is not State.RELEASING:
            await asyncio.sleep(0.001)
        error = await service.refusal("Search", a_search(a_query(published)))
        assert error.reason == "GENERATION_RETIRED"
        assert not release.done()
    assert len((await search).hits) == 1
    assert (await release).released


async def test_a_generation_that_does_not_fit_beside_the_other_is_refused_before_loading(
    published, tmp_path
):
    # Room for one and a half.
    needed = needed_bytes(manifest_of(published[0]), 0, 128)
    budget = MemoryBudget(needed * 3 // 2)
    async with running(published[0], tmp_path, budget=budget) as service:
        load = index_pb2.IndexServiceLoadGenerationRequest(generation=2)
        refused = await service.refusal("LoadGeneration", load)
        assert isinstance(refused, errors.ResourceExhausted)
        assert "generation 2 needs about" in str(refused)
        assert "beside generation 1" in str(refused)
        # What serves goes on, and once it is gone there is room.
        await service.stub.Search(a_search(a_query(published)))
        await service.stub.ReleaseGeneration(index_pb2.ReleaseGenerationRequest(generation=1))
        assert (await service.stub.LoadGeneration(load)).loaded.generation == 2


@pytest.fixture
def damaged_home(published, tmp_path):
    """The generations, the first with one byte of its vectors changed."""
    home = tmp_path / "damaged"
    shutil.copytree(published[0], home)
    flip_a_bit(home / "generations" / "000001" / "shard-0000" / "vectors.f16", 100)
    return home


async def test_a_generation_verified_late_is_let_go_when_it_is_damaged(
    published, damaged_home, tmp_path
):
    async with running(damaged_home, tmp_path, verification=Verification.LAZY) as service:
        # Loaded already; the release follows the check.
        while service.shard.ready:
            await asyncio.sleep(0.01)
        refused = await service.refusal("Search", a_search(a_query(published)))
        assert (refused.code.name, refused.reason) == ("FAILED_PRECONDITION", "GENERATION_RETIRED")


async def test_a_generation_verified_late_stays_when_it_is_whole(published, tmp_path):
    async with running(published[0], tmp_path, verification=Verification.LAZY) as service:
        await service.stub.Search(a_search(a_query(published)))
        while service.moves():
            await asyncio.sleep(0.01)
        assert service.shard.ready


async def test_a_late_check_that_finds_no_file_handle_is_made_again(
    published, tmp_path, monkeypatch
):
    monkeypatch.setattr("index_service.service.VERIFY_AGAIN_S", 0.01)
    home = tmp_path / "copied"
    shutil.copytree(published[0], home)
    async with running(home, tmp_path, verification=Verification.LAZY) as service:
        while service.moves():
            await asyncio.sleep(0.01)
        flip_a_bit(home / "generations" / "000001" / "shard-0000" / "vectors.f16", 100)
        with capture_logs() as logs, handles_left(0):
            service.verify_late(1)
            while len(logs) < 3:
                await asyncio.sleep(0.01)
            assert {line["event"] for line in logs} == {"not verified yet"}
            assert "Too many open files" in logs[0]["error"]
            assert service.shard.ready
        while service.shard.ready:
            await asyncio.sleep(0.01)


async def test_a_late_check_that_is_to_be_made_again_does_not_keep_the_service_from_closing(
    published, tmp_path
):
    async with running(published[0], tmp_path, verification=Verification.LAZY) as service:
        while service.moves():
            await asyncio.sleep(0.01)
        with capture_logs() as logs, handles_left(0):
            service.verify_late(1)
            while not logs:
                await asyncio.sleep(0.01)


async def test_a_generation_of_another_faiss_is_served_with_a_warning(published, tmp_path):
    home = tmp_path / "copied"
    shutil.copytree(published[0], home)
    path = home / "generations" / "000002" / "manifest.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "faiss_version": "0.0.1"}))
    with capture_logs() as logs:
        async with running(home, tmp_path) as service:
            load = index_pb2.IndexServiceLoadGenerationRequest(generation=2)
            await service.stub.LoadGeneration(load)
            await service.stub.LoadGeneration(load)
            assert (await service.stub.Search(a_search(a_query(published), generation=2))).hits
    [warning] = [line for line in logs if "another version of FAISS" in line["event"]]
    assert (warning["log_level"], warning["generation"]) == ("warning", 2)
    assert (warning["built_with"], warning["searched_with"]) == ("0.0.1", faiss.__version__)


async def test_recall_of_live_searches_is_exported(published, tmp_path):
    async with running(published[0], tmp_path, recall_sample=1.0) as service:
        read = service.metrics.registry.get_sample_value
        await service.stub.Search(a_search(a_query(published)))
        labels = {"selectivity": "none"}
        while not read("vitrine_index_recall_possible_total", labels):
            await asyncio.sleep(0.01)
        # The query wants 5.
        assert read("vitrine_index_recall_possible_total", labels) == 5
        assert read("vitrine_index_recall_found_total", labels) in (4, 5)
