"""What every call gets: a request id, counters, an error status, a limit."""

import asyncio

import grpc
import pytest
import structlog

from protos.vitrine.v1 import catalog_pb2, encoder_pb2
from rpc.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable, Unimplemented
from rpc.telemetry import REQUEST_ID_CHARS_MAX, REQUEST_ID_KEY
from tests.rpc.conftest import error_of, eventually, running

ENCODE = "/vitrine.v1.EncoderService/Encode"
TAIL = "/vitrine.v1.CatalogService/TailChanges"


async def test_a_callers_request_id_is_kept(server):
    answer = await server.encode(metadata=((REQUEST_ID_KEY, "abc-123"),))
    assert answer.encoder_id == "abc-123"


async def test_a_call_without_request_id_gets_its_own(server):
    first, second = await server.encode(), await server.encode()
    assert len(first.encoder_id) == 32
    assert first.encoder_id != second.encoder_id


async def test_an_overlong_request_id_is_cut(server):
    answer = await server.encode(metadata=((REQUEST_ID_KEY, "x" * 5000),))
    assert answer.encoder_id == "x" * REQUEST_ID_CHARS_MAX


async def test_our_error_reaches_the_caller_with_its_status_and_is_counted(server):
    server.service.to_raise = NotFound("item", ["B1"])
    error = await error_of(server.encode())
    assert isinstance(error, NotFound)
    assert str(error) == "no such item: 'B1'"
    assert server.count(ENCODE, "NOT_FOUND") == 1


async def test_a_bug_is_internal_and_its_text_stays_in_the_log(server):
    server.service.to_raise = ZeroDivisionError("the secret")
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.encode(metadata=((REQUEST_ID_KEY, "abc"),))
        await eventually(lambda: any(log["event"] == "call" for log in logs))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error; request id abc"
    assert "the secret" not in str(caught.value)
    (line,) = [log for log in logs if log["event"] == "call"]
    assert "the secret" in str(line["exc_info"])
    assert line["request_id"] == "abc"
    assert server.count(ENCODE, "INTERNAL") == 1


@pytest.mark.parametrize("request_", [b"\xff\xff", b"\x0a\x02\xff\xfe"], ids=["noise", "not UTF-8"])
async def test_bytes_that_are_no_request_are_the_callers_fault(server, request_):
    error = await error_of(server.channel.unary_unary(ENCODE)(request_))
    assert isinstance(error, InvalidArgument)
    assert error.field == "request"
    assert server.count(ENCODE, "INVALID_ARGUMENT") == 1


async def test_bytes_that_are_no_request_of_a_stream_are_the_callers_fault(server):
    call = server.channel.unary_stream(TAIL)(b"\xff\xff")
    error = await error_of(anext(aiter(call)))
    assert isinstance(error, InvalidArgument)
    assert server.count(TAIL, "INVALID_ARGUMENT") == 1


async def test_a_cancelled_call_stops_its_handler(server):
    call = asyncio.ensure_future(server.encode("wait"))
    await server.service.waiting.wait()
    call.cancel()
    await asyncio.wait_for(server.service.cancelled.wait(), 10)
    await eventually(lambda: server.count(ENCODE, "CANCELLED") == 1)


async def test_a_deadline_that_passes_stops_the_handler(server):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.encode("wait", timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(server.service.cancelled.wait(), 10)


async def test_calls_above_the_limit_are_refused_at_once(tmp_path):
    async with running(tmp_path, calls_in_flight_max=1) as server:
        first = asyncio.ensure_future(server.encode("wait"))
        await server.service.waiting.wait()
        error = await error_of(server.encode(timeout=10))
        assert isinstance(error, ResourceExhausted)
        assert error.retry_after_s > 0
        server.service.go_on.set()
        await first
        await server.encode()
        assert server.count(ENCODE, "OK") == 2
        assert server.metrics.registry.get_sample_value("vitrine_rpc_in_flight") == 0


async def test_streams_are_counted_and_their_errors_mapped(server):
    request = catalog_pb2.TailChangesRequest(after_seq=7)
    assert [change.seq async for change in server.catalog.TailChanges(request)] == [8, 9, 10]
    assert server.count(TAIL, "OK") == 1

    server.service.to_raise = Unavailable("DRAINING", "the service is stopping")
    got, call = [], server.catalog.TailChanges(request)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        got.extend([change.seq async for change in call])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.count(TAIL, "UNAVAILABLE") == 1


async def test_methods_that_a_service_leaves_out_are_unimplemented(server):
    error = await error_of(server.encoder.Rerank(encoder_pb2.RerankRequest(query="x")))
    assert isinstance(error, Unimplemented)
    assert str(error) == "/vitrine.v1.EncoderService/Rerank is not served by this version"
    assert server.count("/vitrine.v1.EncoderService/Rerank", "UNIMPLEMENTED") == 1
