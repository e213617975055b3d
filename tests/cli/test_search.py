"""`vitrine search` against a gateway with known answers, over a real connection."""

import os
import shlex
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import orjson
import pytest
from google.protobuf.json_format import Parse
from hypothesis import given
from hypothesis import strategies as st

from cli.search import SearchOptions, build_request, grpcurl_line
from protos.vitrine.v1 import search_pb2, search_pb2_grpc, types_pb2
from rpc.errors import DETAILS_KEY, InvalidArgument, Unavailable, to_status

ANSWER = search_pb2.SearchResponse(
    results=[
        search_pb2.Result(
            item_id="B1",
            score=0.75,
            item=types_pb2.Item(
                item_id="B1",
                title="Linen dress [bold]not markup[/bold]",
                attributes={
                    "brand": types_pb2.AttributeValue(keyword="Acme"),
                    "price": types_pb2.AttributeValue(number=19.5),
                    "colors": types_pb2.AttributeValue(keywords={"values": ["red", "pink"]}),
                    "sale": types_pb2.AttributeValue(flag=True),
                },
            ),
        ),
        search_pb2.Result(item_id="B2", score=0.5),
    ],
    coverage=types_pb2.Coverage(
        items_searched=750,
        items_known=1000,
        fraction=0.75,
        shards=[
            types_pb2.ShardCoverage(shard=0, state=types_pb2.SHARD_STATE_OK),
            types_pb2.ShardCoverage(
                shard=1, state=types_pb2.SHARD_STATE_TIMEOUT, detail="no answer in 2 s"
            ),
        ],
    ),
    degraded=[types_pb2.DEGRADED_REASON_PARTIAL_COVERAGE],
    timing=search_pb2.Timing(total_us=12_340, embed_us=5_000),
    generation=7,
    encoder_id="ab" * 12,
    profile=search_pb2.SearchProfile(
        hits_merged=20, shards=[search_pb2.SearchProfileShard(shard=0, path="hnsw", ef_search=32)]
    ),
)


@dataclass
class KnownAnswers(search_pb2_grpc.SearchServiceServicer):
    """Answers, or fails with an error of ours; keeps the requests."""

    address: str = ""
    requests: list = field(default_factory=list)
    error: Exception | None = None

    def Search(self, request, context):
        self.requests.append(request)
        if self.error is not None:
            status = to_status(self.error).SerializeToString()
            context.set_trailing_metadata(((DETAILS_KEY, status),))
            context.abort(self.error.code, str(self.error))
        return ANSWER


@pytest.fixture
def gateway() -> Iterator[KnownAnswers]:
    server = grpc.server(ThreadPoolExecutor(2))
    answers = KnownAnswers()
    search_pb2_grpc.add_SearchServiceServicer_to_server(answers, server)
    answers.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield answers
    server.stop(None).wait()


def test_results_are_a_table_and_the_answer_tells_the_truth_about_itself(vitrine, gateway):
    ran = vitrine("search", "linen dress", "--address", gateway.address, "--profile")
    assert ran.status == 0, ran.err
    for words in (
        "0.7500",
        "Linen dress [bold]not markup[/bold]",
        "brand Acme, price 19.5, colors red/pink, sale yes",
        "2 results in 12.3 ms (embed 5.0 ms",
        "searched 750 of 1,000 items on 1 of 2 shards, generation 7",
        "shard 1: timeout no answer in 2 s",
        "degraded: partial_coverage",
        "20 hits merged",
        "hnsw",
    ):
        assert words in ran.out
    assert gateway.requests[0] == search_pb2.SearchRequest(text="linen dress", profile=True)


def test_json_is_the_response_itself(vitrine, gateway):
    ran = vitrine("search", "x", "--address", gateway.address, "--json")
    assert Parse(ran.out, search_pb2.SearchResponse()) == ANSWER
    assert ran.document["coverage"]["items_searched"] == "750"


def test_every_option_reaches_the_request(vitrine, gateway):
    arguments = ["--like", "A", "B", "--unlike", "C", "--top-k", "3", "--exact", "--ef-search", "9"]
    arguments += ["--filter", "price < 50", "--fields", "title", "--address", gateway.address]
    assert vitrine("search", *arguments).status == 0
    (request,) = gateway.requests
    assert list(request.items.positive) == ["A", "B"]
    assert list(request.items.negative) == ["C"]
    assert (request.top_k, list(request.fields)) == (3, ["title"])
    assert (request.params.exact, request.params.ef_search) == (True, 9)
    assert request.filter.range.lt.number == 50


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InvalidArgument("top_k", 0, "1..1000"), "top_k is 0; allowed 1..1000"),
        (Unavailable("NO_SHARD", "no shard answered"), "no shard answered"),
    ],
)
def test_the_gateways_own_words_are_the_error(vitrine, gateway, error, sentence):
    gateway.error = error
    ran = vitrine("search", "x", "--top-k", "0", "--address", gateway.address)
    assert (ran.status, ran.out, ran.err) == (1, "", f"error: {sentence}\n")


def test_nobody_listening_is_a_sentence_with_a_remedy(vitrine):
    ran = vitrine("search", "x", "--address", "127.0.0.1:1")
    assert ran.status == 1
    assert ran.err.startswith(
        "error: no gateway answers at 127.0.0.1:1; start one with `vitrine up"
    )


def http2_frame(kind, payload=b"", flags=0):
    """Return a frame of a whole connection. Source: RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


def test_what_grpc_says_of_a_connection_is_not_shown():
    settings, acknowledged = http2_frame(4), http2_frame(4, flags=1)
    goodbye = http2_frame(7, struct.pack(">II", 0, 2) + b"closing")

    def say_goodbye(listening):
        while True:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            caller.recv(4096)
            caller.sendall(settings + acknowledged + goodbye)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=say_goodbye, args=[listening], daemon=True).start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "cli", "search", "x", "--timeout", "2", "--address", address],
            env={name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no gateway answers at {address}")


def test_a_gateway_that_hangs_is_left_after_the_timeout(vitrine):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        ran = vitrine("search", "x", "--address", address, "--timeout", "0.3")
    assert ran.status == 1
    assert "did not answer within 0.3 s" in ran.err or "no gateway answers" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to search for"),
        (["x", "--like", "A"], "not both"),
        (["x", "--top-k", "-1"], "top_k is -1"),
        (["x", "--filter", "price <"], "filter is wrong at character 8"),
        (["\udcff"], "the text is not valid UTF-8"),
        (["--like", "\udcff"], "an item of --like is not valid UTF-8"),
        (["--like", "A", "--unlike", "\udcff"], "an item of --unlike is not valid UTF-8"),
        (["x", "--fields", "\udcff"], "a name of --fields is not valid UTF-8"),
        (["x", "--filter", 'brand = "\udcff"'], "--filter is not valid UTF-8"),
    ],
)
def test_bad_requests_are_sentences_before_anything_is_sent(vitrine, gateway, arguments, words):
    ran = vitrine("search", *arguments, "--address", gateway.address)
    assert ran.status == 1
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert gateway.requests == []


@pytest.mark.parametrize("address", ["foo", "foo:", "foo:99999", "\udcff:1", "::1:7700"])
def test_an_address_that_is_none_is_told(vitrine, address):
    ran = vitrine("search", "x", "--address", address)
    assert ran.status == 1
    assert ran.err.startswith("error: --address: ")
    assert "is no host:port" in ran.err


@pytest.mark.parametrize("seconds", ["inf", "nan", "0"])
def test_a_timeout_is_a_number_of_seconds(vitrine, seconds):
    ran = vitrine("search", "x", "--timeout", seconds)
    assert ran.status != 0
    assert "Invalid value for '--timeout'" in ran.err


@given(st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text))
def test_the_grpcurl_line_sends_the_same_request(text):
    options = SearchOptions(text=text, top_k=3, filter='brand = "it\'s"')
    words = shlex.split(grpcurl_line(options, "127.0.0.1:7700"))
    assert words[:3] == ["grpcurl", "-plaintext", "-d"]
    assert words[4:] == ["127.0.0.1:7700", "vitrine.v1.SearchService/Search"]
    assert Parse(words[3], search_pb2.SearchRequest()) == build_request(options)
    assert orjson.loads(words[3])["topK"] == 3
