"""A gateway that starts waits for what may come, and not for what will not."""

from gateway.fanout import ShardState
from gateway.query import SearchPlan, TextQuery
from rpc.active import read_active, write_active
from rpc.deadlines import Deadline
from tests.gateway.fakes import catalogue, running


async def look_after_load(it, shard):
    """Look once more when the load that a look began has ended."""
    await it.cluster.look()
    (replica,) = it.cluster.shards[shard].replicas
    await replica._loading
    await it.cluster.look()


async def test_a_shard_that_cannot_load_is_not_waited_for_longer_than_the_grace(tmp_path):
    async with running(tmp_path, look=False) as it:
        it.shards[1].loaded.clear()
        it.shards[1].can_load.clear()
        await look_after_load(it, 1)
        answer = await it.searcher.search(SearchPlan(TextQuery("hat")), Deadline.after(5))

    assert [outcome.state for outcome in answer.coverage.outcomes] == [
        ShardState.OK,
        ShardState.UNAVAILABLE,
    ]


async def test_within_the_grace_it_is_waited_for_and_its_reason_told(tmp_path):
    async with running(tmp_path, look=False, startup_grace_s=60) as it:
        it.shards[1].loaded.clear()
        it.shards[1].can_load.clear()
        await look_after_load(it, 1)

        assert not it.cluster.ready
        assert str(it.cluster.blocked_on).endswith("lacks generation 1: no such generation: 1")


async def test_a_shard_that_loads_is_waited_for_whatever_the_grace(tmp_path):
    async with running(tmp_path, look=False) as it:
        it.shards[1].loaded.clear()
        it.shards[1].load_delay_s = 0.1
        await it.cluster.look()
        assert str(it.cluster.blocked_on).endswith("is loading generation 1")
        await look_after_load(it, 1)

        assert it.cluster.view().items_by_shard[1] > 0


async def test_a_switch_waits_for_a_shard_that_cannot_load(tmp_path):
    async with running(tmp_path) as it:
        for shard in it.shards:
            shard.generations[2] = catalogue(prefix="new")
            shard.__post_init__()
        it.shards[1].loaded.discard(2)
        it.shards[1].can_load.discard(2)
        write_active(str(tmp_path), read_active(str(tmp_path)).promoted(2, "promote", ""))
        await look_after_load(it, 1)

        assert it.cluster.view().generation == 1
        assert str(it.cluster.blocked_on).endswith("lacks generation 2: no such generation: 2")
