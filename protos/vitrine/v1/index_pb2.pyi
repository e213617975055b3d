from protos.vitrine.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATION_STATE_UNSPECIFIED: _ClassVar[GenerationState]
    GENERATION_STATE_LOADING: _ClassVar[GenerationState]
    GENERATION_STATE_READY: _ClassVar[GenerationState]
    GENERATION_STATE_RELEASING: _ClassVar[GenerationState]
GENERATION_STATE_UNSPECIFIED: GenerationState
GENERATION_STATE_LOADING: GenerationState
GENERATION_STATE_READY: GenerationState
GENERATION_STATE_RELEASING: GenerationState

class IndexServiceSearchRequest(_message.Message):
    __slots__ = ("generation", "encoder_id", "queries")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    generation: int
    encoder_id: str
    queries: _containers.RepeatedCompositeFieldContainer[ShardQuery]
    def __init__(self, generation: _Optional[int] = ..., encoder_id: _Optional[str] = ..., queries: _Optional[_Iterable[_Union[ShardQuery, _Mapping]]] = ...) -> None: ...

class ShardQuery(_message.Message):
    __slots__ = ("embedding", "text", "fetch_k", "filter", "params", "exclude_item_ids", "mode", "profile")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FETCH_K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    embedding: bytes
    text: str
    fetch_k: int
    filter: _types_pb2.Filter
    params: _types_pb2.SearchParams
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    mode: _types_pb2.SearchMode
    profile: bool
    def __init__(self, embedding: _Optional[bytes] = ..., text: _Optional[str] = ..., fetch_k: _Optional[int] = ..., filter: _Optional[_Union[_types_pb2.Filter, _Mapping]] = ..., params: _Optional[_Union[_types_pb2.SearchParams, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., mode: _Optional[_Union[_types_pb2.SearchMode, str]] = ..., profile: _Optional[bool] = ...) -> None: ...

class IndexServiceSearchResponse(_message.Message):
    __slots__ = ("hits", "generation", "shard", "items", "applied_seq", "queue_us", "search_us")
    HITS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    SEARCH_US_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[ShardHits]
    generation: int
    shard: int
    items: int
    applied_seq: int
    queue_us: int
    search_us: int
    def __init__(self, hits: _Optional[_Iterable[_Union[ShardHits, _Mapping]]] = ..., generation: _Optional[int] = ..., shard: _Optional[int] = ..., items: _Optional[int] = ..., applied_seq: _Optional[int] = ..., queue_us: _Optional[int] = ..., search_us: _Optional[int] = ...) -> None: ...

class ShardHits(_message.Message):
    __slots__ = ("dense", "lexical", "items_matched", "profile")
    DENSE_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_FIELD_NUMBER: _ClassVar[int]
    ITEMS_MATCHED_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    dense: HitList
    lexical: HitList
    items_matched: int
    profile: ShardProfile
    def __init__(self, dense: _Optional[_Union[HitList, _Mapping]] = ..., lexical: _Optional[_Union[HitList, _Mapping]] = ..., items_matched: _Optional[int] = ..., profile: _Optional[_Union[ShardProfile, _Mapping]] = ...) -> None: ...

class HitList(_message.Message):
    __slots__ = ("item_ids", "scores")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[float]] = ...) -> None: ...

class ShardProfile(_message.Message):
    __slots__ = ("path", "ef_search", "selectivity", "rescored", "filter_us", "candidates_us", "rescore_us")
    PATH_FIELD_NUMBER: _ClassVar[int]
    EF_SEARCH_FIELD_NUMBER: _ClassVar[int]
    SELECTIVITY_FIELD_NUMBER: _ClassVar[int]
    RESCORED_FIELD_NUMBER: _ClassVar[int]
    FILTER_US_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_US_FIELD_NUMBER: _ClassVar[int]
    RESCORE_US_FIELD_NUMBER: _ClassVar[int]
    path: str
    ef_search: int
    selectivity: float
    rescored: int
    filter_us: int
    candidates_us: int
    rescore_us: int
    def __init__(self, path: _Optional[str] = ..., ef_search: _Optional[int] = ..., selectivity: _Optional[float] = ..., rescored: _Optional[int] = ..., filter_us: _Optional[int] = ..., candidates_us: _Optional[int] = ..., rescore_us: _Optional[int] = ...) -> None: ...

class GetEmbeddingsRequest(_message.Message):
    __slots__ = ("generation", "item_ids")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    generation: int
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, generation: _Optional[int] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetEmbeddingsResponse(_message.Message):
    __slots__ = ("item_ids", "embeddings", "dim")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    embeddings: bytes
    dim: int
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., embeddings: _Optional[bytes] = ..., dim: _Optional[int] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ("generation", "filter")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    generation: int
    filter: _types_pb2.Filter
    def __init__(self, generation: _Optional[int] = ..., filter: _Optional[_Union[_types_pb2.Filter, _Mapping]] = ...) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("items_matched", "items")
    ITEMS_MATCHED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items_matched: int
    items: int
    def __init__(self, items_matched: _Optional[int] = ..., items: _Optional[int] = ...) -> None: ...

class DescribeShardRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeShardResponse(_message.Message):
    __slots__ = ("shard", "generations", "resident_bytes", "version")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    shard: int
    generations: _containers.RepeatedCompositeFieldContainer[LoadedGeneration]
    resident_bytes: int
    version: str
    def __init__(self, shard: _Optional[int] = ..., generations: _Optional[_Iterable[_Union[LoadedGeneration, _Mapping]]] = ..., resident_bytes: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class LoadedGeneration(_message.Message):
    __slots__ = ("generation", "state", "encoder_id", "compatible_query_encoders", "dim", "num_shards", "items", "items_total", "applied_seq", "attributes", "gate", "forced")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    COMPATIBLE_QUERY_ENCODERS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQ_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    generation: int
    state: GenerationState
    encoder_id: str
    compatible_query_encoders: _containers.RepeatedScalarFieldContainer[str]
    dim: int
    num_shards: int
    items: int
    items_total: int
    applied_seq: int
    attributes: _containers.RepeatedCompositeFieldContainer[_types_pb2.AttributeSchema]
    gate: _types_pb2.Gate
    forced: bool
    def __init__(self, generation: _Optional[int] = ..., state: _Optional[_Union[GenerationState, str]] = ..., encoder_id: _Optional[str] = ..., compatible_query_encoders: _Optional[_Iterable[str]] = ..., dim: _Optional[int] = ..., num_shards: _Optional[int] = ..., items: _Optional[int] = ..., items_total: _Optional[int] = ..., applied_seq: _Optional[int] = ..., attributes: _Optional[_Iterable[_Union[_types_pb2.AttributeSchema, _Mapping]]] = ..., gate: _Optional[_Union[_types_pb2.Gate, _Mapping]] = ..., forced: _Optional[bool] = ...) -> None: ...

class IndexServiceLoadGenerationRequest(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class IndexServiceLoadGenerationResponse(_message.Message):
    __slots__ = ("loaded", "load_us", "warm_us")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    LOAD_US_FIELD_NUMBER: _ClassVar[int]
    WARM_US_FIELD_NUMBER: _ClassVar[int]
    loaded: LoadedGeneration
    load_us: int
    warm_us: int
    def __init__(self, loaded: _Optional[_Union[LoadedGeneration, _Mapping]] = ..., load_us: _Optional[int] = ..., warm_us: _Optional[int] = ...) -> None: ...

class ReleaseGenerationRequest(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class ReleaseGenerationResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: bool
    def __init__(self, released: _Optional[bool] = ...) -> None: ...

class ProbeRecallRequest(_message.Message):
    __slots__ = ("generation", "probes", "ef_search")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    EF_SEARCH_FIELD_NUMBER: _ClassVar[int]
    generation: int
    probes: int
    ef_search: int
    def __init__(self, generation: _Optional[int] = ..., probes: _Optional[int] = ..., ef_search: _Optional[int] = ...) -> None: ...

class ProbeRecallResponse(_message.Message):
    __slots__ = ("measured",)
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    measured: _types_pb2.Gate
    def __init__(self, measured: _Optional[_Union[_types_pb2.Gate, _Mapping]] = ...) -> None: ...
