"""Calls over the wire, by grpcurl and by stubs, and what their failures say."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import orjson
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2, error_details_pb2, status_pb2  # noqa: F401

from protos.vitrine.v1 import (
    admin_pb2_grpc,
    catalog_pb2_grpc,
    encoder_pb2_grpc,
    index_pb2_grpc,
    search_pb2_grpc,
)
from rpc.errors import DETAILS_KEY

GRPCURL = Path(sys.executable).with_name("grpcurl")
CALL_TIMEOUT_S = 20.0
_STATUS_OFFSET = 64
_DECODER = json.JSONDecoder()

SEARCH = "vitrine.v1.SearchService/Search"


@dataclass(frozen=True)
class Failure:
    """A status that is not OK, with its details as JSON."""

    code: str
    message: str
    details: list[dict[str, Any]] = field(default_factory=list)

    def detail(self, kind: str) -> dict[str, Any]:
        """Return the detail of a kind, as "RetryInfo"."""
        found = [each for each in self.details if each["@type"].endswith(f"google.rpc.{kind}")]
        assert len(found) == 1, self
        return found[0]

    @property
    def field(self) -> str:
        """The field that a BadRequest names."""
        (violation,) = self.detail("BadRequest")["field_violations"]
        return str(violation["field"])

    @property
    def reason(self) -> str:
        """The reason in an ErrorInfo."""
        info = self.detail("ErrorInfo")
        assert info["domain"] == "vitrine"
        return str(info["reason"])


@dataclass(frozen=True)
class Reply:
    """What grpcurl printed: messages, or a failure."""

    messages: list[dict[str, Any]]
    failure: Failure | None

    @property
    def message(self) -> dict[str, Any]:
        """The one message of a successful unary call."""
        assert self.failure is None, self.failure
        (message,) = self.messages
        return message

    @property
    def refusal(self) -> Failure:
        """The failure of a call that must fail."""
        assert self.failure is not None, self.messages
        return self.failure


def grpcurl(
    address: str,
    method: str,
    request: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    max_time_s: float = CALL_TIMEOUT_S,
) -> Reply:
    """Call a method as a person with a shell would; the server's reflection says how."""
    options = ["-plaintext", "-format-error", "-emit-defaults", "-max-time", f"{max_time_s:g}"]
    for name, value in (headers or {}).items():
        options += ["-H", f"{name}: {value}"]
    done = run_grpcurl(*options, "-d", "@", address, method, given=orjson.dumps(request or {}))
    if done.returncode == 0:
        return Reply(_documents(done.stdout.decode()), None)
    assert done.returncode > _STATUS_OFFSET, done.stderr.decode()
    (status,) = _documents(done.stderr.decode())
    assert status["code"] == done.returncode - _STATUS_OFFSET
    return Reply(
        _documents(done.stdout.decode()),
        Failure(code_pb2.Code.Name(status["code"]), status["message"], status.get("details", [])),
    )


def run_grpcurl(*arguments: str, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run grpcurl."""
    return subprocess.run(
        [str(GRPCURL), *arguments],
        input=given,
        capture_output=True,
        timeout=CALL_TIMEOUT_S + 10,
        check=False,
    )


def _documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that follow one another in a text."""
    decoder, documents, at = _DECODER, [], 0
    while rest := text[at:].lstrip():
        at = len(text) - len(rest)
        document, at = decoder.raw_decode(text, at)
        documents.append(document)
    return documents


class Stubs:
    """Stubs of every service at one address."""

    def __init__(self, address: str) -> None:
        options = (
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
            # A server that was started again is found at once.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
            # Each set of stubs has a connection of its own.
            ("grpc.use_local_subchannel_pool", 1),
        )
        self.channel = grpc.insecure_channel(address, options=options)
        self.search = search_pb2_grpc.SearchServiceStub(self.channel)
        self.catalog = catalog_pb2_grpc.CatalogServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.encoder = encoder_pb2_grpc.EncoderServiceStub(self.channel)
        self.index = index_pb2_grpc.IndexServiceStub(self.channel)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


def failure_of(call: Callable[[], object]) -> Failure:
    """Return how a call fails, which it must."""
    try:
        answer = call()
    except grpc.RpcError as exc:
        return failure_in(exc)
    raise AssertionError(f"it did not fail: {answer}")


def failure_in(error: Any) -> Failure:
    """Return what an RpcError says."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            status.ParseFromString(value)
    details = MessageToDict(status, preserving_proto_field_name=True).get("details", [])
    return Failure(error.code().name, error.details(), details)
