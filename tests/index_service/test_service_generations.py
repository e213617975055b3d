"""IndexService over a real server: generations come and go, calls wait or are refused."""

import asyncio
import shutil
import threading

import faiss
import orjson
import pytest
from structlog.testing import capture_logs

from index_service import service as service_module
from index_service.generation.manifest import read_manifest
from index_service.generation.verify import Verification
from index_service.holdings import State
from index_service.memory import MemoryBudget, needed_bytes
from protos.vitrine.v1 import index_pb2
from rpc import errors
from tests.index_service.catalogue import (
    manifest_of,
)
from tests.index_service.handles import handles_left
from tests.index_service.serving import (
    EXACT,
    a_query,
    a_search,
    keyword,
    publish,
    running,
    wider,
)
from tests.index_service.test_generation import flip_a_bit


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    home = tmp_path_factory.mktemp("service")
    return home, publish(home)


@pytest.fixture
async def service(published, tmp_path):
    async with running(published[0], tmp_path) as started:
        yield started


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


async def test_probes_and_releases_do_not_wait_for_each_other_in_vain(service, monkeypatch):
    go_on, probe_recall = threading.Event(), service_module.probe_recall

    def late(*arguments):
        go_on.wait(30)
        return probe_recall(*arguments)

    monkeypatch.setattr(service_module, "probe_recall", late)
    probe = index_pb2.ProbeRecallRequest(generation=1, probes=2)
    release = index_pb2.ReleaseGenerationRequest(generation=1)
    probes = [asyncio.ensure_future(service.stub.ProbeRecall(probe)) for _ in range(4)]
    await until(lambda: service.shard.holdings()[0].users == 4)
    releases = [asyncio.ensure_future(service.stub.ReleaseGeneration(release)) for _ in range(4)]
    await until(lambda: len(service.moves()) == 4)
    one_more = asyncio.ensure_future(service.stub.ProbeRecall(probe))
    await until(lambda: service.shard.holdings()[0].users == 5 or one_more.done())
    go_on.set()
    async with asyncio.timeout(20):
        assert all(answer.measured.probes == 2 for answer in await asyncio.gather(*probes))
        answers = await asyncio.gather(*releases)
    assert sorted(answer.released for answer in answers) == [False, False, False, True]
    await asyncio.wait([one_more])


@pytest.mark.parametrize("fields", [{"probes": 0}, {"probes": 1001}, {"ef_search": 0}])
async def test_a_probe_out_of_range_is_refused(service, fields):
    request = index_pb2.ProbeRecallRequest(generation=1, **fields)
    error = await service.refusal("ProbeRecall", request)
    assert [error.field] == list(fields)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


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
