from protos.vitrine.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("text", "items", "embedding", "top_k", "page_token", "filter", "mode", "fusion", "rerank", "params", "min_score", "min_coverage", "min_seq", "fields", "generation", "diversity", "profile", "bypass_embedding_cache")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    RERANK_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MIN_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    MIN_SEQ_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    BYPASS_EMBEDDING_CACHE_FIELD_NUMBER: _ClassVar[int]
    text: str
    items: ItemsQuery
    embedding: EmbeddingQuery
    top_k: int
    page_token: str
    filter: _types_pb2.Filter
    mode: _types_pb2.SearchMode
    fusion: Fusion
    rerank: Rerank
    params: _types_pb2.SearchParams
    min_score: float
    min_coverage: float
    min_seq: int
    fields: _containers.RepeatedScalarFieldContainer[str]
    generation: int
    diversity: Diversity
    profile: bool
    bypass_embedding_cache: bool
    def __init__(self, text: _Optional[str] = ..., items: _Optional[_Union[ItemsQuery, _Mapping]] = ..., embedding: _Optional[_Union[EmbeddingQuery, _Mapping]] = ..., top_k: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[_Union[_types_pb2.Filter, _Mapping]] = ..., mode: _Optional[_Union[_types_pb2.SearchMode, str]] = ..., fusion: _Optional[_Union[Fusion, _Mapping]] = ..., rerank: _Optional[_Union[Rerank, _Mapping]] = ..., params: _Optional[_Union[_types_pb2.SearchParams, _Mapping]] = ..., min_score: _Optional[float] = ..., min_coverage: _Optional[float] = ..., min_seq: _Optional[int] = ..., fields: _Optional[_Iterable[str]] = ..., generation: _Optional[int] = ..., diversity: _Optional[_Union[Diversity, _Mapping]] = ..., profile: _Optional[bool] = ..., bypass_embedding_cache: _Optional[bool] = ...) -> None: ...

class ItemsQuery(_message.Message):
    __slots__ = ("positive", "negative")
    POSITIVE_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    positive: _containers.RepeatedScalarFieldContainer[str]
    negative: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, positive: _Optional[_Iterable[str]] = ..., negative: _Optional[_Iterable[str]] = ...) -> None: ...

class EmbeddingQuery(_message.Message):
    __slots__ = ("values", "packed", "encoder_id")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    packed: bytes
    encoder_id: str
    def __init__(self, values: _Optional[_Iterable[float]] = ..., packed: _Optional[bytes] = ..., encoder_id: _Optional[str] = ...) -> None: ...

class Fusion(_message.Message):
    __slots__ = ("rrf", "weighted")
    RRF_FIELD_NUMBER: _ClassVar[int]
    WEIGHTED_FIELD_NUMBER: _ClassVar[int]
    rrf: RrfFusion
    weighted: WeightedFusion
    def __init__(self, rrf: _Optional[_Union[RrfFusion, _Mapping]] = ..., weighted: _Optional[_Union[WeightedFusion, _Mapping]] = ...) -> None: ...

class RrfFusion(_message.Message):
    __slots__ = ("k", "dense_weight", "lexical_weight")
    K_FIELD_NUMBER: _ClassVar[int]
    DENSE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    k: int
    dense_weight: float
    lexical_weight: float
    def __init__(self, k: _Optional[int] = ..., dense_weight: _Optional[float] = ..., lexical_weight: _Optional[float] = ...) -> None: ...

class WeightedFusion(_message.Message):
    __slots__ = ("alpha",)
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    alpha: float
    def __init__(self, alpha: _Optional[float] = ...) -> None: ...

class Rerank(_message.Message):
    __slots__ = ("depth",)
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    depth: int
    def __init__(self, depth: _Optional[int] = ...) -> None: ...

class Diversity(_message.Message):
    __slots__ = ("attribute", "max_per_value")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    MAX_PER_VALUE_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    max_per_value: int
    def __init__(self, attribute: _Optional[str] = ..., max_per_value: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results", "next_page_token", "coverage", "degraded", "timing", "generation", "encoder_id", "applied_seq", "query_truncated", "request_id", "profile")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    QUERY_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    next_page_token: str
    coverage: _types_pb2.Coverage
    degraded: _containers.RepeatedScalarFieldContainer[_types_pb2.DegradedReason]
    timing: Timing
    generation: int
    encoder_id: str
    applied_seq: int
    query_truncated: bool
    request_id: str
    profile: SearchProfile
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., coverage: _Optional[_Union[_types_pb2.Coverage, _Mapping]] = ..., degraded: _Optional[_Iterable[_Union[_types_pb2.DegradedReason, str]]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., generation: _Optional[int] = ..., encoder_id: _Optional[str] = ..., applied_seq: _Optional[int] = ..., query_truncated: _Optional[bool] = ..., request_id: _Optional[str] = ..., profile: _Optional[_Union[SearchProfile, _Mapping]] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("item_id", "score", "scores", "item")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    scores: Scores
    item: _types_pb2.Item
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ..., item: _Optional[_Union[_types_pb2.Item, _Mapping]] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("dense", "lexical", "fused", "rerank", "dense_rank", "lexical_rank")
    DENSE_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_FIELD_NUMBER: _ClassVar[int]
    FUSED_FIELD_NUMBER: _ClassVar[int]
    RERANK_FIELD_NUMBER: _ClassVar[int]
    DENSE_RANK_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_RANK_FIELD_NUMBER: _ClassVar[int]
    dense: float
    lexical: float
    fused: float
    rerank: float
    dense_rank: int
    lexical_rank: int
    def __init__(self, dense: _Optional[float] = ..., lexical: _Optional[float] = ..., fused: _Optional[float] = ..., rerank: _Optional[float] = ..., dense_rank: _Optional[int] = ..., lexical_rank: _Optional[int] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("total_us", "embed_us", "search_us", "merge_us", "rerank_us", "attach_us", "encoder_compute_us", "shard_compute_us")
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    EMBED_US_FIELD_NUMBER: _ClassVar[int]
    SEARCH_US_FIELD_NUMBER: _ClassVar[int]
    MERGE_US_FIELD_NUMBER: _ClassVar[int]
    RERANK_US_FIELD_NUMBER: _ClassVar[int]
    ATTACH_US_FIELD_NUMBER: _ClassVar[int]
    ENCODER_COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    SHARD_COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    total_us: int
    embed_us: int
    search_us: int
    merge_us: int
    rerank_us: int
    attach_us: int
    encoder_compute_us: int
    shard_compute_us: int
    def __init__(self, total_us: _Optional[int] = ..., embed_us: _Optional[int] = ..., search_us: _Optional[int] = ..., merge_us: _Optional[int] = ..., rerank_us: _Optional[int] = ..., attach_us: _Optional[int] = ..., encoder_compute_us: _Optional[int] = ..., shard_compute_us: _Optional[int] = ...) -> None: ...

class SearchProfile(_message.Message):
    __slots__ = ("embedding_cached", "shards", "hits_merged", "items_matched")
    EMBEDDING_CACHED_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    HITS_MERGED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_MATCHED_FIELD_NUMBER: _ClassVar[int]
    embedding_cached: bool
    shards: _containers.RepeatedCompositeFieldContainer[SearchProfileShard]
    hits_merged: int
    items_matched: int
    def __init__(self, embedding_cached: _Optional[bool] = ..., shards: _Optional[_Iterable[_Union[SearchProfileShard, _Mapping]]] = ..., hits_merged: _Optional[int] = ..., items_matched: _Optional[int] = ...) -> None: ...

class SearchProfileShard(_message.Message):
    __slots__ = ("shard", "path", "ef_search", "selectivity", "queue_us", "search_us", "queries_in_call")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    EF_SEARCH_FIELD_NUMBER: _ClassVar[int]
    SELECTIVITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    SEARCH_US_FIELD_NUMBER: _ClassVar[int]
    QUERIES_IN_CALL_FIELD_NUMBER: _ClassVar[int]
    shard: int
    path: str
    ef_search: int
    selectivity: float
    queue_us: int
    search_us: int
    queries_in_call: int
    def __init__(self, shard: _Optional[int] = ..., path: _Optional[str] = ..., ef_search: _Optional[int] = ..., selectivity: _Optional[float] = ..., queue_us: _Optional[int] = ..., search_us: _Optional[int] = ..., queries_in_call: _Optional[int] = ...) -> None: ...

class SearchBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[SearchRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[SearchRequest, _Mapping]]] = ...) -> None: ...

class SearchBatchResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[SearchOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[SearchOutcome, _Mapping]]] = ...) -> None: ...

class SearchOutcome(_message.Message):
    __slots__ = ("response", "failure")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    response: SearchResponse
    failure: SearchFailure
    def __init__(self, response: _Optional[_Union[SearchResponse, _Mapping]] = ..., failure: _Optional[_Union[SearchFailure, _Mapping]] = ...) -> None: ...

class SearchFailure(_message.Message):
    __slots__ = ("code", "message", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
