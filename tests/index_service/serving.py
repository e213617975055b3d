"""An index service on a port of this process, and what it is asked."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import numpy as np
import orjson
import pytest

from index_service.executor import SearchExecutor
from index_service.metrics import IndexMetrics
from index_service.planner import PlanLimits
from index_service.service import IndexService
from protos.vitrine.v1 import index_pb2, index_pb2_grpc, types_pb2
from rpc.client import open_channel
from rpc.errors import from_rpc_error
from rpc.server import ServiceServer
from rpc.settings import ServiceSettings
from rpc.vectors import pack
from tests.index_service.catalogue import (
    ENCODER_ID,
    Catalogue,
    build,
    open_shard,
    random_attributes,
    random_units,
)


def publish(home):
    """Build two generations of 500 items, one shard; return their catalogue."""
    rng = np.random.default_rng(0)
    catalogue = Catalogue(
        random_units(rng, 500), random_units(rng, 16), random_attributes(rng, 500)
    )
    build(catalogue, home)
    build(catalogue, home)
    return catalogue


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
