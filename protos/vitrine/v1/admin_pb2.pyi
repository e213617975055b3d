import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from protos.vitrine.v1 import index_pb2 as _index_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeClusterResponse(_message.Message):
    __slots__ = ("generation", "previous_generation", "encoder", "shards", "catalog", "version", "blocked_on")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_GENERATION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_ON_FIELD_NUMBER: _ClassVar[int]
    generation: int
    previous_generation: int
    encoder: EncoderStatus
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    catalog: CatalogStatus
    version: str
    blocked_on: str
    def __init__(self, generation: _Optional[int] = ..., previous_generation: _Optional[int] = ..., encoder: _Optional[_Union[EncoderStatus, _Mapping]] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., catalog: _Optional[_Union[CatalogStatus, _Mapping]] = ..., version: _Optional[str] = ..., blocked_on: _Optional[str] = ...) -> None: ...

class EncoderStatus(_message.Message):
    __slots__ = ("target", "reachable", "encoder_id", "name", "detail")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    target: str
    reachable: bool
    encoder_id: str
    name: str
    detail: str
    def __init__(self, target: _Optional[str] = ..., reachable: _Optional[bool] = ..., encoder_id: _Optional[str] = ..., name: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "target", "reachable", "generations", "resident_bytes", "detail")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    shard: int
    target: str
    reachable: bool
    generations: _containers.RepeatedCompositeFieldContainer[_index_pb2.LoadedGeneration]
    resident_bytes: int
    detail: str
    def __init__(self, shard: _Optional[int] = ..., target: _Optional[str] = ..., reachable: _Optional[bool] = ..., generations: _Optional[_Iterable[_Union[_index_pb2.LoadedGeneration, _Mapping]]] = ..., resident_bytes: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class CatalogStatus(_message.Message):
    __slots__ = ("kind", "reachable", "items", "seq", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reachable: bool
    items: int
    seq: int
    detail: str
    def __init__(self, kind: _Optional[str] = ..., reachable: _Optional[bool] = ..., items: _Optional[int] = ..., seq: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class AdminServiceLoadGenerationRequest(_message.Message):
    __slots__ = ("generation",)
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    generation: int
    def __init__(self, generation: _Optional[int] = ...) -> None: ...

class AdminServiceLoadGenerationResponse(_message.Message):
    __slots__ = ("loaded",)
    LOADED_FIELD_NUMBER: _ClassVar[int]
    loaded: _containers.RepeatedCompositeFieldContainer[_index_pb2.LoadedGeneration]
    def __init__(self, loaded: _Optional[_Iterable[_Union[_index_pb2.LoadedGeneration, _Mapping]]] = ...) -> None: ...

class PromoteGenerationRequest(_message.Message):
    __slots__ = ("generation", "force_reason")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    FORCE_REASON_FIELD_NUMBER: _ClassVar[int]
    generation: int
    force_reason: str
    def __init__(self, generation: _Optional[int] = ..., force_reason: _Optional[str] = ...) -> None: ...

class PromoteGenerationResponse(_message.Message):
    __slots__ = ("generation", "previous_generation", "promoted_at")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_AT_FIELD_NUMBER: _ClassVar[int]
    generation: int
    previous_generation: int
    promoted_at: _timestamp_pb2.Timestamp
    def __init__(self, generation: _Optional[int] = ..., previous_generation: _Optional[int] = ..., promoted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RollbackGenerationRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class RollbackGenerationResponse(_message.Message):
    __slots__ = ("generation", "previous_generation", "promoted_at")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PROMOTED_AT_FIELD_NUMBER: _ClassVar[int]
    generation: int
    previous_generation: int
    promoted_at: _timestamp_pb2.Timestamp
    def __init__(self, generation: _Optional[int] = ..., previous_generation: _Optional[int] = ..., promoted_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
