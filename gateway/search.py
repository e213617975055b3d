"""The life of a query: one function tells it, the rest of this package are its verbs.

    embed -> ask every shard -> merge -> attach items -> tell the truth about it

Everything a search needs to know of the cluster it takes once, at the start, as a view of one
generation; so one answer never mixes two. Each stage gets a share of the time that is left.
What falls short (a shard, the catalogue) is named in the answer; what makes an answer
impossible (no encoder for a text, no shard at all) is raised as an error of `rpc.errors`.
"""

from dataclasses import dataclass
from enum import Enum

from gateway.cluster import Cluster, require_encoder
from gateway.embedding_cache import EmbeddingCache
from gateway.encoder_client import Embedding
from gateway.fanout import Coverage, ask_shards
from gateway.items import ItemReader
from gateway.like_items import embed_like
from gateway.merge import Hits, merge
from gateway.page_token import read_page_token, write_page_token
from gateway.query import NO_FIELDS, TOP_K_MAX, GivenEmbedding, LikeItems, SearchPlan, TextQuery
from gateway.question import Question
from gateway.settings import GatewaySettings
from gateway.stopwatch import Stopwatch
from gateway.view import GenerationView
from protos.vitrine.v1 import index_pb2, types_pb2
from rpc.deadlines import Deadline
from rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from rpc.vectors import pack, unit


class Degraded(Enum):
    """A step down from the full answer; the names are those of the wire."""

    PARTIAL_COVERAGE = "PARTIAL_COVERAGE"
    ITEMS_MISSING = "ITEMS_MISSING"


@dataclass(frozen=True, slots=True)
class Answer:
    """Ranked hits with their items, and how they came about."""

    hits: Hits
    items: dict[str, bytes]
    first_rank: int
    next_page_token: str
    coverage: Coverage
    degraded: tuple[Degraded, ...]
    view: GenerationView
    embedding: Embedding
    hits_merged: int
    stopwatch: Stopwatch


class Searcher:
    """Answers searches."""

    def __init__(
        self,
        cluster: Cluster,
        embeddings: EmbeddingCache,
        items: ItemReader,
        settings: GatewaySettings,
    ) -> None:
        self._cluster = cluster
        self._embeddings = embeddings
        self._items = items
        self._settings = settings
        longest_s = max(settings.search_timeout_s, settings.exact_timeout_s)
        self._embed_longest_s = longest_s * settings.embed_share

    async def search(self, plan: SearchPlan, deadline: Deadline) -> Answer:
        """Answer one search; once more when its generation was retired under it.

        Raises:
            VitrineError: the search cannot be answered; see the statuses of SearchService.Search.
        """
        try:
            return await self._search(plan, deadline)
        except FailedPrecondition as exc:
            if exc.reason != "GENERATION_RETIRED" or plan.generation is not None:
                raise
        return await self._search(plan, deadline)

    async def _search(self, plan: SearchPlan, deadline: Deadline) -> Answer:
        stopwatch = Stopwatch()

        # 1. One view of one generation, for the whole search.
        view = self._cluster.view(plan.generation)
        offset = _offset_in(plan, view)
        _require_seq(plan, view)

        # 2. The query becomes an embedding that means something in this generation.
        embedding = await self._embed(plan, view, deadline)
        require_encoder(view, embedding.encoder_id)
        stopwatch.lap("embed")

        # 3. Every shard is asked for as many hits as the page's end needs.
        wanted = min(offset + plan.top_k, TOP_K_MAX)
        question = Question(
            view.generation, embedding.encoder_id, _shard_query(plan, embedding, wanted)
        )
        coverage = await ask_shards(
            self._cluster, view, question, self._shard_deadline(plan, deadline)
        )
        _require_coverage(coverage, plan.min_coverage)
        stopwatch.lap("search")

        # 4. Their hits become one list, and the list becomes a page.
        merged = merge((answer.hits for answer in coverage.answers), wanted)
        hits = merged if plan.min_score is None else merged.at_least(plan.min_score)
        page = hits.cut(offset, wanted)
        stopwatch.lap("merge")

        # 5. The page's items come from the catalogue; without it the hits stand alone.
        items = await self._attach(plan, page, deadline)
        stopwatch.lap("attach")

        # 6. The answer says what it is.
        return Answer(
            hits=page,
            items=items or {},
            first_rank=offset + 1,
            next_page_token=_next_page_token(plan, view, wanted, len(hits)),
            coverage=coverage,
            degraded=_degraded(coverage, items),
            view=view,
            embedding=embedding,
            hits_merged=sum(len(answer.hits) for answer in coverage.answers),
            stopwatch=stopwatch,
        )

    async def _embed(self, plan: SearchPlan, view: GenerationView, deadline: Deadline) -> Embedding:
        """Return the query's embedding, whatever the query is made of."""
        share_s = deadline.share_s(self._settings.embed_share)
        match plan.query:
            case TextQuery(text):
                return await self._embed_text(
                    text, view, share_s, bypass=plan.bypass_embedding_cache
                )
            case LikeItems() as like:
                return await embed_like(like, view, self._cluster, share_s)
            case GivenEmbedding(vector, encoder_id):
                if vector.size != view.dim:
                    raise InvalidArgument(
                        "embedding", f"{vector.size} values", f"{view.dim} values"
                    )
                return Embedding(unit(vector), encoder_id or view.encoder_id)

    async def _embed_text(
        self, text: str, view: GenerationView, share_s: float, *, bypass: bool
    ) -> Embedding:
        # Others may come to share it, with more time than this search has.
        deadline = Deadline.after(share_s if bypass else self._embed_longest_s)
        try:
            return await self._embeddings.get(
                (self._expected_encoder(view), text),
                lambda: self._cluster.encoder.encode(text, deadline),
                share_s,
                bypass=bypass,
            )
        except (TimeoutError, DeadlineExceeded) as exc:
            raise DeadlineExceeded("embed") from exc

    def _expected_encoder(self, view: GenerationView) -> str:
        """Return whose embedding to look for: the connected encoder's, where it belongs here."""
        connected = self._cluster.encoder.encoder_id
        return connected if view.accepts(connected) else view.encoder_id

    def _shard_deadline(self, plan: SearchPlan, deadline: Deadline) -> Deadline:
        settings = self._settings
        most_s = settings.exact_timeout_s if plan.exact else settings.shard_timeout_s
        return Deadline.after(deadline.share_s(settings.shard_share, most_s))

    async def _attach(
        self, plan: SearchPlan, page: Hits, deadline: Deadline
    ) -> dict[str, bytes] | None:
        """Return the page's items by id; None when the catalogue could not give them."""
        if plan.fields == NO_FIELDS or not page.item_ids:
            return {}
        share_s = deadline.share_s(1.0, self._settings.attach_timeout_s)
        try:
            return await self._items.get(page.item_ids, Deadline.after(share_s))
        except (Unavailable, TimeoutError):
            return None


def _offset_in(plan: SearchPlan, view: GenerationView) -> int:
    offset = read_page_token(plan.page_token, view.generation, plan.fingerprint)
    if offset >= TOP_K_MAX:
        raise InvalidArgument("page_token", "past the end", f"pages up to result {TOP_K_MAX}")
    return offset


def _require_seq(plan: SearchPlan, view: GenerationView) -> None:
    """Refuse to answer without changes that the caller must see."""
    if plan.min_seq is not None and plan.min_seq > view.applied_seq:
        raise Unimplemented(
            f"min_seq {plan.min_seq}, newer than generation {view.generation} (which contains "
            f"changes up to {view.applied_seq}),"
        )


def _shard_query(plan: SearchPlan, embedding: Embedding, wanted: int) -> index_pb2.ShardQuery:
    query = index_pb2.ShardQuery(
        embedding=pack(embedding.vector),
        fetch_k=wanted,
        params=types_pb2.SearchParams(ef_search=plan.ef_search, exact=plan.exact),
        exclude_item_ids=plan.excluded,
        mode=types_pb2.SEARCH_MODE_DENSE,
        profile=plan.profile,
    )
    if plan.filter:
        query.filter.MergeFromString(plan.filter)
    return query


def _require_coverage(coverage: Coverage, min_coverage: float | None) -> None:
    if min_coverage is not None and coverage.fraction < min_coverage:
        raise Unavailable(
            "COVERAGE_TOO_LOW",
            f"coverage is {coverage.fraction:.3f}; asked for at least {min_coverage}",
        )


def _next_page_token(plan: SearchPlan, view: GenerationView, wanted: int, num_hits: int) -> str:
    """Return the token of the next page; empty when this page is not full or is the last."""
    if num_hits < wanted or wanted >= TOP_K_MAX:
        return ""
    return write_page_token(view.generation, plan.fingerprint, wanted)


def _degraded(coverage: Coverage, items: dict[str, bytes] | None) -> tuple[Degraded, ...]:
    """Name the steps down that an answer took."""
    steps = (
        (Degraded.PARTIAL_COVERAGE, not coverage.whole),
        (Degraded.ITEMS_MISSING, items is None),
    )
    return tuple(step for step, taken in steps if taken)
