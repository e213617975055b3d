"""A request over a standing call ends as a call of its own would, whatever happens."""

import asyncio

import grpc
import pytest

from protos.vitrine.v1 import encoder_pb2
from rpc import standing_call
from rpc.errors import InvalidArgument, NotFound, from_rpc_error
from rpc.standing_call import StandingCall
from tests.rpc.conftest import ENCODE, eventually, running

RERANK = "/vitrine.v1.EncoderService/Rerank"
TIMEOUT_S = 10.0


@pytest.fixture
async def standing(server):
    call = StandingCall(server.channel, ENCODE, encoder_pb2.EncodeResponse.FromString)
    yield call
    await call.close()


def texts(*texts: str) -> bytes:
    return encoder_pb2.EncodeRequest(texts=texts).SerializeToString()


async def status_of(asking) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asking
    return caught.value


async def test_requests_share_one_stream_and_are_counted_and_named_one_by_one(server, standing):
    streams = count_streams(standing)
    asking = (standing.ask(texts("x"), TIMEOUT_S, f"id-{number}") for number in range(50))
    answers = await asyncio.gather(*asking)
    assert [answer.encoder_id for answer in answers] == [f"id-{number}" for number in range(50)]
    assert server.count(ENCODE, "OK") == 50
    assert streams == [1]


async def test_a_slow_request_holds_up_no_other(server, standing):
    slow = asyncio.ensure_future(standing.ask(texts("wait"), TIMEOUT_S, "slow"))
    await server.service.waiting.wait()
    assert (await standing.ask(texts("x"), TIMEOUT_S, "quick")).encoder_id == "quick"
    server.service.go_on.set()
    assert (await slow).encoder_id == "slow"


async def test_an_error_of_ours_arrives_with_its_details(server, standing):
    server.service.to_raise = NotFound("item", ["B1"])
    error = from_rpc_error(await status_of(standing.ask(texts("x"), TIMEOUT_S, "")))
    assert isinstance(error, NotFound)
    assert str(error) == "no such item: 'B1'"
    assert server.count(ENCODE, "NOT_FOUND") == 1


async def test_a_bug_is_internal_and_keeps_its_text_to_itself(server, standing):
    server.service.to_raise = ZeroDivisionError("the secret")
    error = await status_of(standing.ask(texts("x"), TIMEOUT_S, "abc"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error; request id abc"


async def test_bytes_that_are_no_request_are_the_askers_fault_and_hurt_no_other(server, standing):
    error = from_rpc_error(await status_of(standing.ask(b"\xff\xff", TIMEOUT_S, "")))
    assert isinstance(error, InvalidArgument)
    assert (await standing.ask(texts("x"), TIMEOUT_S, "next")).encoder_id == "next"


async def test_a_withdrawn_request_stops_its_handler(server, standing):
    asking = asyncio.ensure_future(standing.ask(texts("wait"), TIMEOUT_S, ""))
    await server.service.waiting.wait()
    asking.cancel()
    await asyncio.wait_for(server.service.cancelled.wait(), 10)
    await eventually(lambda: server.count(ENCODE, "CANCELLED") == 1)


async def test_a_deadline_that_passes_stops_the_handler(server, standing):
    error = await status_of(standing.ask(texts("wait"), 0.2, ""))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(server.service.cancelled.wait(), 10)


async def test_an_asker_that_is_gone_stops_all_its_requests(server, standing):
    asking = asyncio.ensure_future(standing.ask(texts("wait"), TIMEOUT_S, ""))
    await server.service.waiting.wait()
    await standing.close()
    assert (await status_of(asking)).code() is grpc.StatusCode.CANCELLED
    await asyncio.wait_for(server.service.cancelled.wait(), 10)


async def test_a_server_that_stops_answers_what_it_was_asked_before(server, standing):
    asking = asyncio.ensure_future(standing.ask(texts("wait"), TIMEOUT_S, "last"))
    await server.service.waiting.wait()
    stopping = asyncio.ensure_future(server.terminate())
    await eventually(lambda: not server.server.serving)
    server.service.go_on.set()
    assert (await asking).encoder_id == "last"
    await stopping
    error = await status_of(standing.ask(texts("x"), TIMEOUT_S, ""))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_idle_standing_call_does_not_hold_up_a_stop(server, standing):
    await standing.ask(texts("x"), TIMEOUT_S, "")
    await server.terminate()


async def test_an_old_stream_is_replaced_and_ends_with_its_last_answer(
    server, standing, monkeypatch
):
    streams = count_streams(standing)
    asking = asyncio.ensure_future(standing.ask(texts("wait"), TIMEOUT_S, "old"))
    await server.service.waiting.wait()
    old = standing._stream
    monkeypatch.setattr(standing_call, "LIFE_S", 0.0)
    assert (await standing.ask(texts("x"), TIMEOUT_S, "new")).encoder_id == "new"
    assert streams == [2]
    server.service.go_on.set()
    assert (await asking).encoder_id == "old"
    await asyncio.wait_for(old._reading, 10)


async def test_a_method_that_is_not_offered_is_unimplemented_and_the_stream_goes_on(server):
    other = StandingCall(server.channel, RERANK, encoder_pb2.RerankResponse.FromString)
    error = await status_of(other.ask(b"", TIMEOUT_S, ""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "not served by this version" in (error.details() or "")
    assert not other._stream.is_over
    await other.close()


async def test_a_server_without_exchanges_is_asked_by_calls_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("rpc.server.ServiceServer.offer_exchange", lambda *_: None)
    async with running(tmp_path) as server:
        standing = StandingCall(server.channel, ENCODE, encoder_pb2.EncodeResponse.FromString)
        streams = count_streams(standing)
        for number in range(3):
            answer = await standing.ask(texts("x"), TIMEOUT_S, f"id-{number}")
            assert answer.encoder_id == f"id-{number}"
        assert streams == [1]
        await standing.close()


async def test_nobody_listening_is_unavailable():
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        standing = StandingCall(channel, ENCODE, encoder_pb2.EncodeResponse.FromString)
        error = await status_of(standing.ask(texts("x"), TIMEOUT_S, ""))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await standing.close()


def count_streams(standing: StandingCall) -> list[int]:
    """Return a list whose one entry is how many streams were opened from now on."""
    opened, open_stream = [0], standing._open_stream

    def counted():
        opened[0] += 1
        return open_stream()

    standing._open_stream = counted
    return opened


async def test_giving_up_while_a_request_is_being_written_hurts_no_other(tmp_path):
    async with running(tmp_path, calls_in_flight_max=1) as server:
        standing = StandingCall(server.channel, ENCODE, encoder_pb2.EncodeResponse.FromString)
        streams = count_streams(standing)
        first = asyncio.ensure_future(standing.ask(texts("wait"), TIMEOUT_S, "first"))
        await server.service.waiting.wait()
        # More than the connection holds while the server reads no further.
        large = texts("x" * 1_000_000)
        refused = await asyncio.gather(
            *(status_of(standing.ask(large, 0.3, "")) for _ in range(16))
        )
        assert {error.code() for error in refused} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        server.service.go_on.set()
        assert (await first).encoder_id == "first"
        assert (await standing.ask(texts("x"), TIMEOUT_S, "next")).encoder_id == "next"
        assert streams == [1]
        await standing.close()
