"""A real server whose answers are told by the text it is asked to encode."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson
import pytest

from protos.vitrine.v1 import catalog_pb2, catalog_pb2_grpc, encoder_pb2, encoder_pb2_grpc
from rpc.addresses import bare_host
from rpc.client import open_channel
from rpc.errors import VitrineError, from_rpc_error
from rpc.server import ServiceServer
from rpc.settings import ServiceSettings
from rpc.telemetry import RpcMetrics, request_id

SERVICES = ("vitrine.v1.EncoderService", "vitrine.v1.CatalogService")
ENCODE = "/vitrine.v1.EncoderService/Encode"
Answer = Callable[[], Any]


@dataclass
class TestService(encoder_pb2_grpc.EncoderServiceServicer, catalog_pb2_grpc.CatalogServiceServicer):
    """Encode raises what is to be raised, or waits, or tells the request id as encoder_id."""

    __test__ = False

    to_raise: BaseException | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def Encode(self, request, context):
        if self.to_raise is not None:
            raise self.to_raise
        if request.texts[:1] == ["wait"]:
            self.waiting.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return encoder_pb2.EncodeResponse(encoder_id=request_id.get())

    async def TailChanges(self, request, context):
        for seq in range(request.after_seq + 1, request.after_seq + 4):
            yield catalog_pb2.TailChangesResponse(seq=seq)
        if self.to_raise is not None:
            raise self.to_raise


@dataclass
class RunningServer:
    """A server in this process, and ways to talk to it."""

    server: ServiceServer
    service: TestService
    metrics: RpcMetrics
    address: str
    http_address: str
    running: asyncio.Task[None]
    is_ready: asyncio.Event
    channel: grpc.aio.Channel

    @property
    def encoder(self) -> encoder_pb2_grpc.EncoderServiceStub:
        return encoder_pb2_grpc.EncoderServiceStub(self.channel)

    @property
    def catalog(self) -> catalog_pb2_grpc.CatalogServiceStub:
        return catalog_pb2_grpc.CatalogServiceStub(self.channel)

    async def encode(self, text: str = "x", **options):
        return await self.encoder.Encode(encoder_pb2.EncodeRequest(texts=[text]), **options)

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page over HTTP."""
        host, _, port = self.http_address.rpartition(":")
        reader, writer = await asyncio.open_connection(bare_host(host), int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        content = (await reader.read()).decode()
        writer.close()
        head, _, body = content.partition("\r\n\r\n")
        return int(head.split()[1]), body

    def count(self, method: str, code: str) -> float:
        labels = {"method": method, "code": code}
        return self.metrics.registry.get_sample_value("vitrine_rpc_calls_total", labels) or 0.0

    async def terminate(self) -> None:
        """Send SIGTERM to the process and wait until the server has drained."""
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(self.running, 10)


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds; the test's own timeout is the limit."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    tmp_path, *, ready_at_once: bool = True, **settings
) -> AsyncIterator[RunningServer]:
    announce_file = tmp_path / "announcement.json"
    metrics = RpcMetrics("test", "1.2.3")
    service, is_ready = TestService(), asyncio.Event()

    async def describe() -> dict[str, Any]:
        return {"note": "<b>bold</b>"}

    async def ready() -> None:
        await is_ready.wait()
        await server.set_serving(serving=True)

    options = ServiceSettings(announce_file=announce_file, **settings)
    server = ServiceServer("test", options, metrics, describe)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(service, server.grpc)
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(service, server.grpc)
    server.offer_exchange({ENCODE: (encoder_pb2.EncodeRequest.FromString, service.Encode)})
    if ready_at_once:
        is_ready.set()
    task = asyncio.create_task(server.run(SERVICES, ready))
    await eventually(lambda: announce_file.exists() or task.done())
    if task.done():
        task.result()
    announcement = orjson.loads(announce_file.read_bytes())
    channel = open_channel(announcement["address"], 1024 * 1024)
    try:
        yield RunningServer(
            server,
            service,
            metrics,
            announcement["address"],
            announcement["http_address"],
            task,
            is_ready,
            channel,
        )
    finally:
        await channel.close()
        service.go_on.set()
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 20)


@pytest.fixture
async def server(tmp_path) -> AsyncIterator[RunningServer]:
    async with running(tmp_path) as started:
        await eventually(lambda: started.server.serving)
        yield started


async def error_of(call) -> VitrineError:
    """Return our exception for the status that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
