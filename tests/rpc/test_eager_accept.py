"""The server takes many calls at once, and loses none of them when it shuts down."""

import asyncio

import grpc
import pytest

from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc
from rpc.eager_accept import can_accept_eagerly, eager_server

REQUEST = encoder_pb2.DescribeEncoderRequest()


class Counting(encoder_pb2_grpc.EncoderServiceServicer):
    """Answers when told to; knows how many calls it has."""

    def __init__(self):
        self.in_flight = 0
        self.let_go = asyncio.Event()

    async def DescribeEncoder(self, request, context):
        self.in_flight += 1
        try:
            await self.let_go.wait()
        finally:
            self.in_flight -= 1
        return encoder_pb2.DescribeEncoderResponse(dim=3)


async def start(servicer):
    server = eager_server((), (("grpc.so_reuseport", 0),))
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, grpc.aio.insecure_channel(f"127.0.0.1:{port}")


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_the_pinned_grpcio_has_what_eager_accepting_needs():
    assert can_accept_eagerly()


async def test_more_calls_than_are_taken_at_once_are_all_answered():
    servicer = Counting()
    server, channel = await start(servicer)
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    calls = [stub.DescribeEncoder(REQUEST) for _ in range(200)]
    await until(lambda: servicer.in_flight == 200)
    servicer.let_go.set()

    assert {(await call).dim for call in calls} == {3}
    await channel.close(None)
    await server.stop(grace=1)


async def test_an_unknown_method_is_unimplemented():
    server, channel = await start(Counting())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary("/vitrine.v1.EncoderService/NoSuchMethod")(b"")

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await channel.close(None)
    await server.stop(grace=1)


async def test_calls_in_flight_end_well_when_the_server_stops_under_load():
    servicer = Counting()
    server, channel = await start(servicer)
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    calls = [stub.DescribeEncoder(REQUEST) for _ in range(50)]
    await until(lambda: servicer.in_flight == 50)
    stopping = asyncio.ensure_future(server.stop(grace=10))
    await asyncio.sleep(0)
    servicer.let_go.set()

    assert {(await call).dim for call in calls} == {3}
    async with asyncio.timeout(5):  # well before the grace period: nothing was left unhandled
        await stopping
    await channel.close(None)


async def test_a_cancelled_call_cancels_its_handler():
    servicer = Counting()
    server, channel = await start(servicer)
    call = encoder_pb2_grpc.EncoderServiceStub(channel).DescribeEncoder(REQUEST)
    await until(lambda: servicer.in_flight == 1)
    call.cancel()

    await until(lambda: servicer.in_flight == 0)
    await channel.close(None)
    await server.stop(grace=1)
