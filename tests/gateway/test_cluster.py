"""The gateway knows its cluster truly, whatever shards, names and the pointer do meanwhile."""

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from gateway.admin_service import AdminService
from gateway.catalog_service import CatalogService
from gateway.fanout import ShardState
from gateway.query import LikeItems, SearchPlan, TextQuery
from gateway.replica import Replica
from protos.vitrine.v1 import admin_pb2, types_pb2
from rpc.active import read_active, write_active
from rpc.deadlines import Deadline
from rpc.errors import FailedPrecondition, NotFound, Unavailable
from tests.gateway.fakes import FakeShard, catalogue, running, serve
from tests.gateway.fakes import index_pb2_grpc as grpc_of_shards

NEW = catalogue(prefix="new")


def add_generation(it, number, items=NEW):
    """Put a generation where shards can load it."""
    for shard in it.shards:
        shard.generations[number] = dict(items)
        shard.__post_init__()
        shard.loaded.discard(number)


async def search(it, generation=None, min_seq=None):
    plan = SearchPlan(TextQuery("red dress"), generation=generation, min_seq=min_seq)
    return await it.searcher.search(plan, Deadline.after(5))


def states(answer):
    return [outcome.state for outcome in answer.coverage.outcomes]


async def until(condition, timeout_s=5.0):
    """Wait for something that other tasks bring about."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


# The watch goes on


async def test_the_watch_survives_a_replica_that_is_closed_while_it_is_asked(tmp_path, monkeypatch):
    async with running(tmp_path, replicas=2, num_shards=1) as it:
        addresses = [replica.address for replica in it.cluster.shards[0].replicas]

        async def resolved(target):
            return [target] if target in addresses else []

        monkeypatch.setattr("gateway.cluster._addresses_of", resolved)
        gone, before = it.shards[1], it.shards[1].num_describes
        gone.describe_delay_s = 30.0
        watching = asyncio.create_task(it.cluster.watch())
        await until(lambda: gone.num_describes > before)
        del addresses[1]
        await it.cluster.look()
        await asyncio.sleep(0)

        assert len(it.cluster.shards[0].replicas) == 1
        assert not watching.done()
        watching.cancel()
        assert isinstance(
            (await asyncio.gather(watching, return_exceptions=True))[0], asyncio.CancelledError
        )


@pytest.mark.parametrize("error", [RuntimeError("no token"), ImportError("install s3fs")], ids=repr)
async def test_the_watch_survives_whatever_a_store_raises(tmp_path, monkeypatch, error):
    async with running(tmp_path, look=False, refresh_s=0.01) as it:
        failures = iter([error, error])

        def read(url):
            for failure in failures:
                raise failure
            return read_active(url)

        monkeypatch.setattr("gateway.pointer.read_active", read)
        with capture_logs() as logs:
            watching = asyncio.create_task(it.cluster.watch())
            await asyncio.wait_for(it.cluster.became_ready.wait(), 5)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    told = [entry for entry in logs if entry["event"] == "the pointer cannot be read"]
    assert [(entry["error"], entry["kind"]) for entry in told] == [
        (str(error), type(error).__name__)
    ]


@pytest.fixture
async def silent():
    """A replica that takes long to say anything, and the shard behind it."""
    shard = FakeShard(0, 1, {1: catalogue()}, describe_delay_s=30.0, load_delay_s=30.0)
    server, address = await serve(grpc_of_shards.add_IndexServiceServicer_to_server, shard)
    replica = Replica(address, 0, 1 << 20)
    yield replica, shard
    await replica.close()
    await server.stop(grace=0)


async def test_a_replica_closed_while_it_is_asked_is_out_of_reach(silent):
    replica, shard = silent
    probing = asyncio.create_task(replica.probe(5.0))
    await until(lambda: shard.num_describes)
    await replica.close()
    await probing

    assert (replica.reachable, replica.suspended) == (False, False)
    await replica.probe(5.0)
    assert replica.detail.endswith("its name has other addresses now")


async def test_a_replica_closed_while_it_loads_is_unavailable(silent):
    replica, shard = silent
    loading = asyncio.create_task(replica.load(1, 5.0))
    await until(lambda: shard.loads)
    await replica.close()

    with pytest.raises(Unavailable, match="other addresses"):
        await loading


async def test_who_withdraws_a_probe_is_still_told_so(silent):
    replica, shard = silent
    probing = asyncio.create_task(replica.probe(5.0))
    await until(lambda: shard.num_describes)
    probing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await probing


async def test_a_look_asked_for_during_another_one_comes_next(tmp_path):
    async with running(tmp_path, refresh_s=60, probe_timeout_s=30) as it:
        [shard, _] = it.shards
        before = shard.num_describes
        shard.describe_delay_s = 0.1
        watching = asyncio.create_task(it.cluster.watch())
        await until(lambda: shard.num_describes == before + 1)
        it.cluster.look_soon()
        await until(lambda: shard.num_describes == before + 2)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


# Looks and promotions


@pytest.fixture
def slow_pointer(monkeypatch):
    """Make the gateway's next read of the pointer take until it is let go; return both ends."""
    is_read, let_go = threading.Event(), threading.Event()

    def read(url):
        active = read_active(url)
        is_read.set()
        assert let_go.wait(5)
        return active

    monkeypatch.setattr("gateway.pointer.read_active", read)
    yield is_read, let_go
    let_go.set()


async def test_a_look_that_read_the_pointer_before_a_promotion_does_not_undo_it(
    tmp_path, slow_pointer
):
    is_read, let_go = slow_pointer
    async with running(tmp_path, look=False) as it:
        add_generation(it, 2)
        let_go.set()
        await it.cluster.look()
        let_go.clear()
        is_read.clear()
        looking = asyncio.create_task(it.cluster.look())
        await until(is_read.is_set)
        await it.generations.promote(2)
        let_go.set()
        await looking

        assert it.cluster.active.generation == 2
        assert it.cluster.view().generation == 2
        await it.generations.rollback()
        assert it.cluster.view().generation == 1


async def test_looks_that_wait_for_another_share_the_next_one(tmp_path, slow_pointer):
    is_read, let_go = slow_pointer
    async with running(tmp_path, look=False) as it:
        first = asyncio.create_task(it.cluster.look())
        await until(is_read.is_set)
        others = [asyncio.create_task(it.cluster.look()) for _ in range(5)]
        await asyncio.sleep(0)
        let_go.set()
        await asyncio.gather(first, *others)

        assert [shard.num_describes for shard in it.shards] == [2, 2]


# Generations on their way


async def test_a_replica_that_still_loads_hides_nothing_that_another_one_said(tmp_path):
    async with running(tmp_path, replicas=2, look=False) as it:
        first_of_each = it.shards[0], it.shards[2]
        for shard in first_of_each:
            shard.loading.add(1)
        await it.cluster.look()
        view = it.cluster.view()
        answer = await search(it, min_seq=9)

    assert (view.encoder_id, view.applied_seq) == ("encoder-a", 9)
    assert view.items_by_shard == (
        len(it.shards[0].generations[1]),
        len(it.shards[2].generations[1]),
    )
    assert answer.coverage.whole


async def test_a_gateway_waits_for_what_every_replica_still_loads(tmp_path):
    async with running(tmp_path, look=False) as it:
        for shard in it.shards:
            shard.loading.add(1)
        await it.cluster.look()

        assert (it.cluster.ready, it.cluster.blocked_on.reason) == (False, "SHARD_LOADING")
        assert [shard.loads for shard in it.shards] == [[], []]


async def test_a_named_generation_that_is_on_its_way_is_unavailable(tmp_path):
    async with running(tmp_path) as it:
        for shard in it.shards:
            shard.loading.add(2)
        await it.cluster.look()

        with pytest.raises(Unavailable, match="loading generation 2") as caught:
            await search(it, generation=2)
        assert caught.value.reason == "SHARD_LOADING"
        with pytest.raises(NotFound):
            await search(it, generation=3)


# Shards that lack the promoted generation


async def test_a_shard_that_lacks_the_promoted_generation_loads_it(tmp_path):
    async with running(tmp_path) as it:
        it.shards[1].loaded.discard(1)
        without = await search(it)
        await it.cluster.look()
        await until(lambda: 1 in it.shards[1].loaded)
        await it.cluster.look()
        again = await search(it)

    assert states(without) == [ShardState.OK, ShardState.UNAVAILABLE]
    assert 0 < without.coverage.fraction < 1
    assert states(again) == [ShardState.OK, ShardState.OK]


async def test_no_look_waits_for_a_load(tmp_path):
    async with running(tmp_path) as it:
        it.shards[1].loaded.discard(1)
        it.shards[1].load_delay_s = 30.0
        await asyncio.wait_for(it.cluster.look(), 5)
        await until(lambda: it.shards[1].loads)
        await asyncio.wait_for(it.cluster.look(), 5)

        assert it.shards[1].loads == [1], "one load at a time"


async def test_a_shard_that_cannot_load_is_left_alone_for_a_while(tmp_path):
    async with running(tmp_path) as it:
        it.shards[1].can_load.clear()
        it.shards[1].loaded.clear()
        (replica,) = it.cluster.shards[1].replicas
        pauses = []
        for number in range(1, 4):
            await it.cluster.look()
            await replica._loading
            await it.cluster.look()
            assert len(it.shards[1].loads) == number
            pauses.append(replica._attempts[1].pause.remaining_s())
            replica._attempts[1].pause = Deadline.after(0)

    assert [round(pause) for pause in pauses] == [1, 2, 4]


async def test_a_shard_that_lets_go_of_what_it_just_loaded_is_left_alone_for_a_while(tmp_path):
    async with running(tmp_path) as it:
        (replica,) = it.cluster.shards[1].replicas
        for _ in range(2):
            it.shards[1].loaded.clear()
            await it.cluster.look()
            await replica._loading

    assert it.shards[1].loads == [1]
    assert replica._attempts[1].pause.remaining_s() > 50


async def test_the_promoted_generation_is_not_retired_where_every_shard_let_go_of_it(tmp_path):
    async with running(tmp_path) as it:
        for shard in it.shards:
            shard.loaded.clear()

        with pytest.raises(Unavailable, match="lacks generation 1") as caught:
            await search(it)
        assert caught.value.reason == "SHARD_LOADING"


def forget(shard):
    """Make a shard let go of everything."""
    shard.loaded.clear()


def never_hold(shard):
    """Make a shard that never had anything."""
    shard.loaded.clear()
    shard.generations.clear()


def more_like(it, *shards):
    """Search for more like an item of each of these shards."""
    liked = [next(iter(it.shards[shard].generations[1])) for shard in shards]
    plan = SearchPlan(LikeItems(tuple(liked), ()), top_k=5)
    return it.searcher.search(plan, Deadline.after(5))


def count(it):
    service = CatalogService(it.items, it.catalog, it.cluster, it.settings)
    priced = types_pb2.Filter(exists=types_pb2.ExistsFilter(attribute="price"))
    return service._count(1, priced, Deadline.after(5))


@pytest.mark.parametrize("lack", [forget, never_hold])
async def test_counts_and_more_like_these_are_unavailable_where_a_shard_lacks_what_is_served(
    tmp_path, lack
):
    async with running(tmp_path) as it:
        asked = more_like(it, 1)
        lack(it.shards[1])
        for call in (asked, count(it)):
            with pytest.raises(Unavailable, match="lacks generation 1 now") as caught:
                await call
            assert caught.value.reason == "SHARD_LOADING"
        assert it.cluster._look_now.is_set(), "the shard is looked at, and loads it again"


async def test_another_replica_answers_for_one_that_lacks_what_is_served(tmp_path):
    async with running(tmp_path, replicas=2) as it:
        forget(it.shards[2])
        for _ in range(2):
            assert len((await more_like(it, 0, 2)).hits) == 5
            assert sum(answer for answer in await count(it)) == 40
            assert (await search(it)).coverage.whole


async def test_what_is_served_comes_back_while_the_promoted_generation_does_not_fit(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2)
        for shard in it.shards:
            shard.num_shards_of[2] = 4  # as where another set of services shares the folder
        write_active(str(tmp_path), read_active(str(tmp_path)).promoted(2, "promote", ""))
        (replica,) = it.cluster.shards[1].replicas
        it.shards[1].loaded = set()  # it starts again, and loads what is promoted
        for _ in range(3):
            await it.cluster.look()
            await replica._loading
        answer = await search(it)

    assert it.cluster.blocked_on.reason == "SHARD_COUNT_MISMATCH"
    assert (answer.view.generation, answer.coverage.fraction) == (1, 1.0)
    assert it.shards[1].loads == [2, 1]


async def test_an_encoder_that_one_shard_refuses_is_refused(tmp_path):
    async with running(tmp_path) as it:
        it.shards[1].refuse = FailedPrecondition("ENCODER_MISMATCH", "another one")

        with pytest.raises(FailedPrecondition, match="another one"):
            await search(it)


async def test_a_search_that_promotions_overtake_answers_whole_from_the_next_generation(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2)
        add_generation(it, 3)
        it.shards[1].search_delay_s = 0.5
        searching = asyncio.create_task(search(it))
        await until(lambda: it.shards[1].calls)
        await it.generations.promote(2)
        await it.generations.promote(3)
        it.shards[1].search_delay_s = 0.0
        answer = await searching

    assert (answer.view.generation, answer.coverage.fraction) == (3, 1.0)


# Shards in the wrong place


async def test_a_shard_named_twice_is_not_taken_for_two(tmp_path):
    async with running(tmp_path) as it:
        it.shards[1].shard = 0  # as where SHARDS has the address of shard 0 twice
        unnoticed = await search(it)
        await it.cluster.look()
        noticed = await search(it)
        (replica,) = it.cluster.shards[1].replicas
        with pytest.raises(Unavailable, match="is shard 0, not 1; see SHARDS"):
            await it.cluster.shards[1].count(1, types_pb2.Filter(), 5.0)
        with pytest.raises(Unavailable, match="see SHARDS"):
            await it.generations.load(1)
        it.shards[1].shard = 1
        await it.cluster.look()
        mended = await search(it)

    assert (replica.reachable, replica.detail) == (True, "")
    for answer in (unnoticed, noticed):
        assert states(answer) == [ShardState.OK, ShardState.UNAVAILABLE]
        assert answer.coverage.outcomes[1].detail.endswith("is shard 0, not 1; see SHARDS")
    assert states(mended) == [ShardState.OK, ShardState.OK]


async def test_describe_cluster_tells_of_a_shard_in_the_wrong_place(tmp_path):
    async with running(tmp_path) as it:
        it.shards[1].shard = 0
        admin = AdminService(it.cluster, it.generations, it.catalog, it.items)
        told = await admin.DescribeCluster(admin_pb2.DescribeClusterRequest(), None)

    assert [(shard.reachable, shard.detail) for shard in told.shards] == [
        (True, ""),
        (False, "is shard 0, not 1; see SHARDS"),
    ]


async def test_another_replica_answers_for_one_that_is_another_shard(tmp_path):
    async with running(tmp_path, replicas=2) as it:
        it.shards[2].shard, it.shards[2].generations = 0, it.shards[0].generations
        all_items = SearchPlan(TextQuery("red dress"), top_k=40)
        answers = [await it.searcher.search(all_items, Deadline.after(5)) for _ in range(4)]

    assert all(answer.coverage.whole for answer in answers)
    assert [len(answer.hits) for answer in answers] == [40] * 4


# Generations of another number of shards


async def test_a_generation_of_more_shards_than_there_are_is_not_searched_in_part(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2)
        for shard in it.shards:
            shard.num_shards_of[2] = 4
            shard.loaded.add(2)
        await it.cluster.look()

        with pytest.raises(FailedPrecondition, match="cut into 4 shards") as caught:
            await search(it, generation=2)
        assert caught.value.reason == "SHARD_COUNT_MISMATCH"
        assert (caught.value.expected, caught.value.got) == ("2", "4")


async def test_a_generation_of_more_shards_than_there_are_does_not_stay_loaded(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2)
        for shard in it.shards:
            shard.num_shards_of[2] = 4
        with pytest.raises(FailedPrecondition) as caught:
            await it.generations.load(2)

        assert caught.value.reason == "SHARD_COUNT_MISMATCH"
        assert [shard.loaded for shard in it.shards] == [{1}, {1}]
