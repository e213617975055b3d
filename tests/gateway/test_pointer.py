"""A pointer that cannot be read stops nothing but promotions, and is told."""

import asyncio
import threading

import pytest

from gateway.admin_service import AdminService
from protos.vitrine.v1 import admin_pb2
from rpc.active import ACTIVE_FILE, read_active
from rpc.errors import Unavailable
from tests.gateway.fakes import running


async def described(it):
    admin = AdminService(it.cluster, it.generations, it.catalog, it.items)
    return await admin.DescribeCluster(admin_pb2.DescribeClusterRequest(), None)


@pytest.fixture
def hanging(monkeypatch):
    """Make reads of the pointer take until they are let go; return the event, and the reads."""
    let_go, reads = threading.Event(), []

    def read(url):
        reads.append(url)
        assert let_go.wait(30)
        return read_active(url)

    monkeypatch.setattr("gateway.pointer.read_active", read)
    yield let_go, reads
    let_go.set()


async def test_describe_cluster_tells_of_a_damaged_pointer(tmp_path):
    async with running(tmp_path) as it:
        (tmp_path / ACTIVE_FILE).write_bytes(b"{garbage")
        told = await described(it)

    assert told.generation == 1
    assert told.blocked_on.startswith("the pointer cannot be read: ")
    assert [shard.reachable for shard in told.shards] == [True, True]


async def test_a_gateway_that_starts_says_that_it_cannot_read_the_pointer(tmp_path):
    async with running(tmp_path, look=False) as it:
        (tmp_path / ACTIVE_FILE).write_bytes(b"{garbage")
        await it.cluster.look()

        with pytest.raises(Unavailable, match=r"the pointer cannot be read: .*not a valid pointer"):
            it.cluster.view()


async def test_a_pointer_that_hangs_holds_up_no_probe_and_is_read_once(tmp_path, hanging):
    let_go, reads = hanging
    async with running(tmp_path, look=False) as it:
        for _ in range(3):
            await asyncio.wait_for(it.cluster.look(), 20)
        assert [len(reads), it.shards[0].num_describes] == [1, 3]
        assert str(it.cluster.blocked_on) == "the pointer cannot be read: no answer in 0.3 s"
        let_go.set()
        await it.cluster.look()

        assert it.cluster.view().generation == 1


async def test_what_is_served_comes_back_to_a_shard_while_the_pointer_is_unreadable(tmp_path):
    async with running(tmp_path) as it:
        (tmp_path / ACTIVE_FILE).write_bytes(b"{garbage")
        it.shards[1].loaded.clear()
        await it.cluster.look()
        (replica,) = it.cluster.shards[1].replicas
        await replica._loading

    assert it.shards[1].loads == [1]
