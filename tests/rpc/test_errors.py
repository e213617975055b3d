"""Every error goes over a real wire and comes back as itself."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc
from rpc.client import open_channel
from rpc.errors import (
    DETAILS_KEY,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RemoteError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    VitrineError,
    from_rpc_error,
    is_gone,
)
from rpc.filter_expression import FilterSyntaxError
from tests.rpc.conftest import error_of

Code = grpc.StatusCode

CASES = [
    (InvalidArgument("top_k", 5000, "1..1000"), Code.INVALID_ARGUMENT, {"field": "top_k"}),
    (NotFound("generation", [7]), Code.NOT_FOUND, {"kind": "generation"}),
    (
        FailedPrecondition("ENCODER_MISMATCH", "another encoder", "aaa", "bbb"),
        Code.FAILED_PRECONDITION,
        {"reason": "ENCODER_MISMATCH", "expected": "aaa", "got": "bbb"},
    ),
    (ResourceExhausted("queue is full", 0.25), Code.RESOURCE_EXHAUSTED, {"retry_after_s": 0.25}),
    (Unavailable("NO_ENCODER", "no encoder"), Code.UNAVAILABLE, {"reason": "NO_ENCODER"}),
    (DeadlineExceeded("embed"), Code.DEADLINE_EXCEEDED, {"stage": "embed"}),
    (DataLoss("graph.faiss", "sha256 differs"), Code.DATA_LOSS, {"file": "graph.faiss"}),
    (Unimplemented("mode HYBRID"), Code.UNIMPLEMENTED, {"reason": "UNIMPLEMENTED"}),
]


@pytest.mark.parametrize(
    ("error", "code", "attributes"), CASES, ids=[type(case[0]).__name__ for case in CASES]
)
async def test_an_error_crosses_the_wire_whole(server, error, code, attributes):
    server.service.to_raise = error
    got = await error_of(server.encode())
    assert type(got) is type(error)
    assert got.code is code
    assert str(got) == str(error)
    assert {name: getattr(got, name) for name in attributes} == attributes


async def test_a_filter_error_arrives_as_a_bad_field(server):
    server.service.to_raise = FilterSyntaxError("a = ?", 4, "expected a value")
    got = await error_of(server.encode())
    assert type(got) is InvalidArgument
    assert got.field == "filter"
    assert str(got).splitlines()[1:] == ["  a = ?", "      ^"]


async def test_a_caller_in_any_language_finds_google_rpc_details(server):
    server.service.to_raise = InvalidArgument("top_k", 5000, "1..1000")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.encode()
    packed = dict(caught.value.trailing_metadata())[DETAILS_KEY]
    status = status_pb2.Status.FromString(packed)
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert (status.code, status.message) == (3, "top_k is 5000; allowed 1..1000")
    assert bad.field_violations[0].field == "top_k"


async def test_a_status_of_the_transport_has_no_details_and_still_maps(tmp_path):
    channel = open_channel("127.0.0.1:1", 1024 * 1024)
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    error = await error_of(stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest(), timeout=10))
    assert isinstance(error, Unavailable)
    assert error.reason == "UNAVAILABLE"
    await channel.close()


def test_a_call_that_met_a_server_in_its_last_moment_found_nobody():
    metadata = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, metadata, metadata, "CANCELLED")
    assert is_gone(error)
    assert isinstance(from_rpc_error(error), Unavailable)
    refused = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, metadata, metadata, "no")
    assert not is_gone(refused)


def test_a_code_that_we_never_send_keeps_its_code():
    status = grpc.aio.AioRpcError(
        Code.ALREADY_EXISTS, grpc.aio.Metadata(), grpc.aio.Metadata(), "x"
    )
    error = from_rpc_error(status)
    assert isinstance(error, RemoteError)
    assert error.remote_code is Code.ALREADY_EXISTS
    assert isinstance(error, VitrineError)


def test_messages_name_what_is_wrong_and_cut_what_is_long():
    assert str(InvalidArgument("text", "", "1..8192 bytes")) == "text is ''; allowed 1..8192 bytes"
    assert len(str(InvalidArgument("text", "x" * 100_000, "less"))) < 120
    assert str(NotFound("item", list("abcdefg"))) == (
        "no such item: 'a', 'b', 'c', 'd', 'e' and 2 more"
    )
