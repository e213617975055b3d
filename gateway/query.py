"""A search as the gateway understands it, once the door has checked every field."""

from dataclasses import dataclass

from rpc.vectors import Vectors

TOP_K_DEFAULT = 10
TOP_K_MAX = 1_000
NO_FIELDS = ("none",)


@dataclass(frozen=True, slots=True)
class TextQuery:
    """What a shopper typed, whitespace collapsed, in Unicode form NFC."""

    text: str


@dataclass(frozen=True, slots=True)
class LikeItems:
    """Known items to look like, and others not to look like."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class GivenEmbedding:
    """A caller's own embedding, (dim,) of any length but zero, and its encoder ("" unknown)."""

    vector: Vectors
    encoder_id: str = ""


Query = TextQuery | LikeItems | GivenEmbedding


@dataclass(frozen=True, slots=True, eq=False)
class SearchPlan:
    """One search. `filter` is the wire form of a Filter, judged by the shards; b"" means none."""

    query: Query
    top_k: int = TOP_K_DEFAULT
    page_token: str = ""
    fingerprint: int = 0
    filter: bytes = b""
    ef_search: int | None = None
    exact: bool = False
    min_score: float | None = None
    min_coverage: float | None = None
    min_seq: int | None = None
    fields: tuple[str, ...] = ()
    generation: int | None = None
    profile: bool = False
    bypass_embedding_cache: bool = False

    @property
    def excluded(self) -> tuple[str, ...]:
        """Items that must not be results: those that the query is made of."""
        if isinstance(self.query, LikeItems):
            return (*self.query.positive, *self.query.negative)
        return ()
