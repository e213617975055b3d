"""SearchService on the wire: requests are checked field by field here, answers written out."""

import asyncio
import unicodedata
from typing import Any

import grpc
import numpy as np
import xxhash

from gateway.fanout import Coverage, ShardState
from gateway.items import check_fields, fill_item
from gateway.metrics import GatewayMetrics
from gateway.query import (
    NO_FIELDS,
    TOP_K_DEFAULT,
    TOP_K_MAX,
    GivenEmbedding,
    LikeItems,
    Query,
    SearchPlan,
    TextQuery,
)
from gateway.search import Answer, Searcher
from protos.vitrine.v1 import search_pb2, search_pb2_grpc, types_pb2
from rpc.deadlines import Deadline
from rpc.errors import InvalidArgument, Unimplemented, VitrineError
from rpc.telemetry import request_id
from rpc.vectors import unpack

TEXT_BYTES_MAX = 8_192
LIKE_ITEMS_MAX = 100
ITEM_ID_BYTES_MAX = 256
EF_SEARCH_MAX = 10_000
BATCH_MAX = 256
PAGE_TOKEN_CHARS_MAX = 256

_SHARD_STATES = {
    state: types_pb2.ShardState.Value(f"SHARD_STATE_{state.value}") for state in ShardState
}

Context = grpc.aio.ServicerContext[Any, Any]


class SearchService(search_pb2_grpc.SearchServiceServicer):
    """Answers Search and SearchBatch."""

    def __init__(
        self,
        searcher: Searcher,
        metrics: GatewayMetrics,
        search_timeout_s: float,
        exact_timeout_s: float,
    ) -> None:
        self._searcher = searcher
        self._metrics = metrics
        self._search_timeout_s = search_timeout_s
        self._exact_timeout_s = exact_timeout_s

    async def Search(
        self, request: search_pb2.SearchRequest, context: Context
    ) -> search_pb2.SearchResponse:
        """Rank items for one query."""
        plan = read_search(request)
        return await self._answer(plan, Deadline.of_call(context, self._longest_s(plan)))

    async def SearchBatch(
        self, request: search_pb2.SearchBatchRequest, context: Context
    ) -> search_pb2.SearchBatchResponse:
        """Rank items for several queries; each succeeds or fails on its own."""
        if not 1 <= len(request.requests) <= BATCH_MAX:
            raise InvalidArgument("requests", f"{len(request.requests)} long", f"1..{BATCH_MAX}")
        async with asyncio.TaskGroup() as tasks:
            outcomes = [
                tasks.create_task(self._outcome(entry, context)) for entry in request.requests
            ]
        return search_pb2.SearchBatchResponse(outcomes=[task.result() for task in outcomes])

    async def _outcome(
        self, request: search_pb2.SearchRequest, context: Context
    ) -> search_pb2.SearchOutcome:
        try:
            response = await self.Search(request, context)
        except VitrineError as exc:
            failure = search_pb2.SearchFailure(
                code=exc.code.value[0], message=str(exc), reason=exc.reason
            )
            return search_pb2.SearchOutcome(failure=failure)
        return search_pb2.SearchOutcome(response=response)

    async def _answer(self, plan: SearchPlan, deadline: Deadline) -> search_pb2.SearchResponse:
        answer = await self._searcher.search(plan, deadline)
        response = write_answer(answer, plan)
        self._metrics.backlog.add(self._metrics.count_answer, answer)
        return response

    def _longest_s(self, plan: SearchPlan) -> float:
        return self._exact_timeout_s if plan.exact else self._search_timeout_s


def read_search(request: search_pb2.SearchRequest) -> SearchPlan:
    """Return the search that a request asks for.

    Raises:
        InvalidArgument: a field is out of range; names it.
        Unimplemented: a part of the contract that is not served yet; names it.
    """
    _require_served(request)
    check_fields(request.fields)
    params = request.params
    if params.HasField("ef_search"):
        _require_range("params.ef_search", params.ef_search, 1, EF_SEARCH_MAX)
    if request.HasField("min_coverage"):
        _require_range("min_coverage", request.min_coverage, 0, 1)
    if request.HasField("min_score") and not np.isfinite(request.min_score):
        raise InvalidArgument("min_score", request.min_score, "a finite number")
    if request.HasField("generation"):
        _require_range("generation", request.generation, 1, 2**63)
    if len(request.page_token) > PAGE_TOKEN_CHARS_MAX:
        raise InvalidArgument("page_token", request.page_token, "a token of an earlier answer")
    top_k = request.top_k if request.HasField("top_k") else TOP_K_DEFAULT
    _require_range("top_k", top_k, 1, TOP_K_MAX)
    page_token, fingerprint = _take_page_token(request)
    return SearchPlan(
        query=_read_query(request),
        top_k=top_k,
        page_token=page_token,
        fingerprint=fingerprint,
        filter=_read_filter(request),
        ef_search=params.ef_search if params.HasField("ef_search") else None,
        exact=params.exact,
        min_score=request.min_score if request.HasField("min_score") else None,
        min_coverage=request.min_coverage if request.HasField("min_coverage") else None,
        min_seq=request.min_seq if request.HasField("min_seq") else None,
        fields=tuple(request.fields),
        generation=request.generation if request.HasField("generation") else None,
        profile=request.profile,
        bypass_embedding_cache=request.bypass_embedding_cache,
    )


def write_answer(answer: Answer, plan: SearchPlan) -> search_pb2.SearchResponse:
    """Return the response for an answer."""
    watch, view, answers = answer.stopwatch, answer.view, answer.coverage.answers
    response = search_pb2.SearchResponse(
        next_page_token=answer.next_page_token,
        degraded=[f"DEGRADED_REASON_{step.value}" for step in answer.degraded],
        generation=view.generation,
        encoder_id=view.encoder_id,
        applied_seq=min((one.applied_seq for one in answers), default=view.applied_seq),
        query_truncated=answer.embedding.truncated,
        request_id=request_id.get(),
    )
    _write_coverage(response.coverage, answer.coverage)
    _write_results(response, answer, plan)
    if plan.profile:
        response.profile.CopyFrom(_write_profile(answer))
    timing = response.timing
    timing.embed_us = watch.lap_us("embed")
    timing.search_us = watch.lap_us("search")
    timing.merge_us = watch.lap_us("merge")
    timing.attach_us = watch.lap_us("attach")
    timing.encoder_compute_us = answer.embedding.compute_us
    timing.shard_compute_us = max((one.search_us for one in answers), default=0)
    timing.total_us = watch.total_us
    return response


def _require_served(request: search_pb2.SearchRequest) -> None:
    """Refuse what the contract has but this version does not serve."""
    if request.mode in (types_pb2.SEARCH_MODE_LEXICAL, types_pb2.SEARCH_MODE_HYBRID):
        raise Unimplemented(f"mode {types_pb2.SearchMode.Name(request.mode)}")
    if request.mode not in types_pb2.SearchMode.values():
        raise InvalidArgument("mode", request.mode, "a SearchMode")
    for field in ("fusion", "rerank", "diversity"):
        if request.HasField(field):
            raise Unimplemented(field)


def _read_query(request: search_pb2.SearchRequest) -> Query:
    match request.WhichOneof("query"):
        case "text":
            return _read_text(request.text)
        case "items":
            return _read_like(request.items)
        case "embedding":
            return _read_embedding(request.embedding)
        case _:
            raise InvalidArgument("query", "absent", "one of text, items, embedding")


def _read_filter(request: search_pb2.SearchRequest) -> bytes:
    """Return the filter's wire form; the shards judge all of it but that there is something."""
    if request.HasField("filter") and request.filter.WhichOneof("node") is None:
        raise InvalidArgument("filter", "without a condition", "one of its kinds to be set")
    return request.filter.SerializeToString()


def _read_text(text: str) -> TextQuery:
    size = len(text.encode())
    if size > TEXT_BYTES_MAX:
        raise InvalidArgument("text", f"{size} bytes long", f"1..{TEXT_BYTES_MAX} bytes")
    normalized = unicodedata.normalize("NFC", " ".join(text.split()))
    if not normalized:
        raise InvalidArgument("text", text, "a text that is not blank")
    return TextQuery(normalized)


def _read_like(items: search_pb2.ItemsQuery) -> LikeItems:
    if not 1 <= len(items.positive) <= LIKE_ITEMS_MAX:
        raise InvalidArgument("items.positive", f"{len(items.positive)} long", "1..100 item ids")
    if len(items.negative) > LIKE_ITEMS_MAX:
        raise InvalidArgument("items.negative", f"{len(items.negative)} long", "0..100 item ids")
    for field, ids in (("positive", items.positive), ("negative", items.negative)):
        for place, item_id in enumerate(ids):
            if not 1 <= len(item_id.encode()) <= ITEM_ID_BYTES_MAX:
                raise InvalidArgument(f"items.{field}[{place}]", item_id, "1..256 bytes of UTF-8")
    return LikeItems(tuple(items.positive), tuple(items.negative))


def _read_embedding(query: search_pb2.EmbeddingQuery) -> GivenEmbedding:
    if bool(query.values) == bool(query.packed):
        raise InvalidArgument("embedding", "both or neither", "exactly one of values and packed")
    if query.values:
        vector = np.array(query.values, dtype=np.float32)
    else:
        vector = unpack(query.packed, 1, "embedding.packed").ravel()
    return GivenEmbedding(vector, query.encoder_id)


def _require_range(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidArgument(field, value, f"{least}..{most}")


def _take_page_token(request: search_pb2.SearchRequest) -> tuple[str, int]:
    """Take the token out of a request; return it and a 64-bit hash of all the rest."""
    token = request.page_token
    request.ClearField("page_token")
    return token, xxhash.xxh3_64_intdigest(request.SerializeToString(deterministic=True))


def _write_results(response: search_pb2.SearchResponse, answer: Answer, plan: SearchPlan) -> None:
    ranks = range(answer.first_rank, answer.first_rank + len(answer.hits))
    for rank, item_id, score in zip(ranks, answer.hits.item_ids, answer.hits.scores, strict=True):
        result = response.results.add()
        result.item_id = item_id
        result.score = score
        scores = result.scores
        scores.dense = score
        scores.dense_rank = rank
        if plan.fields != NO_FIELDS and (item := answer.items.get(item_id)):
            fill_item(result.item, item, plan.fields)


def _write_coverage(message: types_pb2.Coverage, coverage: Coverage) -> None:
    message.items_searched = coverage.items_searched
    message.items_known = coverage.items_known
    message.fraction = coverage.fraction
    for outcome in coverage.outcomes:
        message.shards.add(
            shard=outcome.shard,
            state=_SHARD_STATES[outcome.state],
            items=outcome.items,
            latency_us=outcome.latency_us,
            detail=outcome.detail,
        )


def _write_profile(answer: Answer) -> search_pb2.SearchProfile:
    profile = search_pb2.SearchProfile(
        embedding_cached=answer.embedding.cached,
        hits_merged=answer.hits_merged,
        items_matched=sum(one.items_matched for one in answer.coverage.answers),
    )
    for outcome in answer.coverage.outcomes:
        if outcome.answer is None:
            continue
        entry = profile.shards.add(
            shard=outcome.shard,
            queue_us=outcome.answer.queue_us,
            search_us=outcome.answer.search_us,
            queries_in_call=outcome.answer.queries_in_call,
        )
        if (path := outcome.answer.profile) is not None:
            entry.path = path.path
            entry.ef_search = path.ef_search
            entry.selectivity = path.selectivity
    return profile
