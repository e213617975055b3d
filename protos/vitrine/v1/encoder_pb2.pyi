from protos.vitrine.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeEncoderRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeEncoderResponse(_message.Message):
    __slots__ = ("encoder_id", "name", "dim", "max_tokens", "batch_texts_max", "item_template", "quantization", "matryoshka_dims", "cpu_features", "reference_cosine", "can_rerank", "verified_here")
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BATCH_TEXTS_MAX_FIELD_NUMBER: _ClassVar[int]
    ITEM_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    MATRYOSHKA_DIMS_FIELD_NUMBER: _ClassVar[int]
    CPU_FEATURES_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_COSINE_FIELD_NUMBER: _ClassVar[int]
    CAN_RERANK_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_HERE_FIELD_NUMBER: _ClassVar[int]
    encoder_id: str
    name: str
    dim: int
    max_tokens: int
    batch_texts_max: int
    item_template: str
    quantization: str
    matryoshka_dims: _containers.RepeatedScalarFieldContainer[int]
    cpu_features: _containers.RepeatedScalarFieldContainer[str]
    reference_cosine: float
    can_rerank: bool
    verified_here: bool
    def __init__(self, encoder_id: _Optional[str] = ..., name: _Optional[str] = ..., dim: _Optional[int] = ..., max_tokens: _Optional[int] = ..., batch_texts_max: _Optional[int] = ..., item_template: _Optional[str] = ..., quantization: _Optional[str] = ..., matryoshka_dims: _Optional[_Iterable[int]] = ..., cpu_features: _Optional[_Iterable[str]] = ..., reference_cosine: _Optional[float] = ..., can_rerank: _Optional[bool] = ..., verified_here: _Optional[bool] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("texts", "kind", "encoder_id", "refuse_truncation")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSE_TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    kind: _types_pb2.TextKind
    encoder_id: str
    refuse_truncation: bool
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., kind: _Optional[_Union[_types_pb2.TextKind, str]] = ..., encoder_id: _Optional[str] = ..., refuse_truncation: _Optional[bool] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("embeddings", "dim", "encoder_id", "truncated", "queue_us", "compute_us", "tokens")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    ENCODER_ID_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    embeddings: bytes
    dim: int
    encoder_id: str
    truncated: _containers.RepeatedScalarFieldContainer[int]
    queue_us: int
    compute_us: int
    tokens: int
    def __init__(self, embeddings: _Optional[bytes] = ..., dim: _Optional[int] = ..., encoder_id: _Optional[str] = ..., truncated: _Optional[_Iterable[int]] = ..., queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class RerankRequest(_message.Message):
    __slots__ = ("query", "texts", "refuse_truncation")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    REFUSE_TRUNCATION_FIELD_NUMBER: _ClassVar[int]
    query: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    refuse_truncation: bool
    def __init__(self, query: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., refuse_truncation: _Optional[bool] = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("scores", "reranker_id", "queue_us", "compute_us", "truncated", "tokens")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    RERANKER_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    reranker_id: str
    queue_us: int
    compute_us: int
    truncated: _containers.RepeatedScalarFieldContainer[int]
    tokens: int
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., reranker_id: _Optional[str] = ..., queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., truncated: _Optional[_Iterable[int]] = ..., tokens: _Optional[int] = ...) -> None: ...
