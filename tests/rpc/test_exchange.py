"""What answers the requests of a standing call, against a stream as gRPC's is."""

import asyncio

import grpc

from protos.vitrine.v1 import encoder_pb2, exchange_pb2
from rpc.exchange import ExchangeService

METHOD = "/vitrine.v1.EncoderService/Encode"


class Stream:
    """Writes one message at a time, and goes on with one whose writer was cancelled."""

    def __init__(self):
        self.requests = asyncio.Queue()
        self.written = []
        self.writing = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def read(self):
        return await self.requests.get()

    async def write(self, response):
        assert not self.writing.is_set(), "too many operations"
        self.writing.set()
        await self.goes_on.wait()
        self.writing.clear()
        self.written.append(response.number)


async def answer(request, context):
    return encoder_pb2.EncodeResponse()


async def test_a_request_withdrawn_while_its_answer_is_written_costs_no_other_its_answer():
    stream = Stream()
    service = ExchangeService({METHOD: answer}, requests_max=8)
    exchange = asyncio.ensure_future(service.Exchange(None, stream))
    await stream.requests.put(exchange_pb2.ExchangeRequest(number=1, method=METHOD))
    await asyncio.wait_for(stream.writing.wait(), 10)
    await stream.requests.put(exchange_pb2.ExchangeRequest(number=1, withdrawn=True))
    for number in (2, 3):
        await stream.requests.put(exchange_pb2.ExchangeRequest(number=number, method=METHOD))
    # One that waits for its turn may still be withdrawn.
    await stream.requests.put(exchange_pb2.ExchangeRequest(number=3, withdrawn=True))
    while not stream.requests.empty():
        await asyncio.sleep(0)
    stream.goes_on.set()
    await stream.requests.put(grpc.aio.EOF)
    await asyncio.wait_for(exchange, 10)
    assert stream.written == [1, 2]
