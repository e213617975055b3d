"""`vitrine search`: one request to a gateway, its answer as a table or as JSON."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from google.protobuf.json_format import MessageToDict, MessageToJson

from cli.arguments import utf8
from cli.calls import DEFAULT_TIMEOUT_S, call, connect
from cli.tables import profile_table, results_table, stdout, truth_lines
from protos.vitrine.v1 import search_pb2, search_pb2_grpc
from rpc.filter_expression import parse_filter
from rpc.terminal import CommandError

METHOD = "vitrine.v1.SearchService/Search"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What `vitrine search` can be told."""

    text: str = ""
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    top_k: int | None = None
    filter: str = ""
    exact: bool = False
    ef_search: int | None = None
    fields: Sequence[str] = ()
    profile: bool = False


def search(
    options: SearchOptions, address: str, timeout_s: float = DEFAULT_TIMEOUT_S
) -> search_pb2.SearchResponse:
    """Send one search.

    Raises:
        CommandError: text and items are both given, or neither; nothing answers.
        VitrineError: the gateway's own answer, in its words.
    """
    request = build_request(options)
    with connect(address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        response: search_pb2.SearchResponse = call(stub.Search, request, address, timeout_s)
    return response


def build_request(options: SearchOptions) -> search_pb2.SearchRequest:
    """Return the request that options stand for.

    Raises:
        CommandError: text and items are both given, or neither; one is not UTF-8.
        InvalidArgument: the filter expression cannot be understood.
    """
    fields = [utf8("a name of --fields", name) for name in options.fields]
    request = search_pb2.SearchRequest(fields=fields, profile=options.profile)
    _fill_query(request, options)
    if options.top_k is not None:
        request.top_k = _unsigned("top_k", options.top_k)
    if options.filter:
        request.filter.CopyFrom(parse_filter(utf8("--filter", options.filter)))
    if options.exact:
        request.params.exact = True
    if options.ef_search is not None:
        request.params.ef_search = _unsigned("ef_search", options.ef_search)
    return request


def print_response(response: search_pb2.SearchResponse, title: str = "") -> None:
    """Print results, then what the answer says of itself."""
    console = stdout()
    console.print(results_table(response, title))
    for line in truth_lines(response):
        console.print(line, style="dim", markup=False)
    if response.HasField("profile"):
        console.print(profile_table(response.profile))


def print_json(response: search_pb2.SearchResponse) -> None:
    """Print the response as protobuf's JSON with the contract's field names."""
    text = MessageToJson(
        response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    sys.stdout.write(f"{text}\n")


def grpcurl_line(options: SearchOptions, address: str) -> str:
    """Return the shell command that sends the same request."""
    body = orjson.dumps(MessageToDict(build_request(options))).decode()
    return f"grpcurl -plaintext -d {shlex.quote(body)} {address} {METHOD}"


def _fill_query(request: search_pb2.SearchRequest, options: SearchOptions) -> None:
    items = bool(options.like or options.unlike)
    if options.text and items:
        raise CommandError("give a text or --like items, not both: a search has one query")
    if not options.text and not items:
        raise CommandError(
            'nothing to search for; give a text, as in `vitrine search "red summer dress"`, or '
            "items with --like ITEM_ID"
        )
    if items:
        request.items.positive.extend(utf8("an item of --like", each) for each in options.like)
        request.items.negative.extend(utf8("an item of --unlike", each) for each in options.unlike)
    else:
        request.text = utf8("the text", options.text)


def _unsigned(name: str, value: int) -> int:
    """Return a value that the wire can carry; the gateway says which of them it allows."""
    if not 0 <= value < 2**32:
        raise CommandError(f"{name} is {value}; it must not be negative or beyond 4294967295")
    return value
