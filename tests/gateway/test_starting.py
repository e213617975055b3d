"""A gateway that starts waits for what may come, and not for what will not."""

import socket

from structlog.testing import capture_logs

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


async def test_a_name_that_does_not_resolve_is_the_reason(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with capture_logs() as logs:
        async with running(
            tmp_path, look=False, shards="nosuch.invalid:7702,gone.invalid:7702"
        ) as it:
            await it.cluster.look()
            await it.cluster.look()
            blocked = str(it.cluster.blocked_on)

    assert "nosuch.invalid:7702 does not resolve: [Errno -2] Name or service not known" in blocked
    assert "gone.invalid:7702 does not resolve" in blocked
    told = [entry for entry in logs if entry["event"] == "cannot serve what is promoted"]
    assert [(entry["log_level"], entry["error"]) for entry in told] == [("warning", blocked)]


async def test_a_load_that_every_shard_refused_is_the_reason(tmp_path):
    async with running(tmp_path, num_shards=1, look=False) as it:
        it.shards[0].loaded.clear()
        it.shards[0].can_load.clear()
        await look_after_load(it, 0)

        assert str(it.cluster.blocked_on) == ("no shard holds generation 1: no such generation: 1")
