import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttributeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTRIBUTE_TYPE_UNSPECIFIED: _ClassVar[AttributeType]
    ATTRIBUTE_TYPE_KEYWORD: _ClassVar[AttributeType]
    ATTRIBUTE_TYPE_KEYWORD_LIST: _ClassVar[AttributeType]
    ATTRIBUTE_TYPE_NUMBER: _ClassVar[AttributeType]
    ATTRIBUTE_TYPE_BOOL: _ClassVar[AttributeType]
    ATTRIBUTE_TYPE_TIME: _ClassVar[AttributeType]

class SearchMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEARCH_MODE_UNSPECIFIED: _ClassVar[SearchMode]
    SEARCH_MODE_DENSE: _ClassVar[SearchMode]
    SEARCH_MODE_LEXICAL: _ClassVar[SearchMode]
    SEARCH_MODE_HYBRID: _ClassVar[SearchMode]

class TextKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_KIND_UNSPECIFIED: _ClassVar[TextKind]
    TEXT_KIND_QUERY: _ClassVar[TextKind]
    TEXT_KIND_ITEM: _ClassVar[TextKind]

class ShardState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SHARD_STATE_UNSPECIFIED: _ClassVar[ShardState]
    SHARD_STATE_OK: _ClassVar[ShardState]
    SHARD_STATE_TIMEOUT: _ClassVar[ShardState]
    SHARD_STATE_UNAVAILABLE: _ClassVar[ShardState]
    SHARD_STATE_FAILED: _ClassVar[ShardState]
    SHARD_STATE_SUSPENDED: _ClassVar[ShardState]

class DegradedReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADED_REASON_UNSPECIFIED: _ClassVar[DegradedReason]
    DEGRADED_REASON_RERANK_SHORTENED: _ClassVar[DegradedReason]
    DEGRADED_REASON_RERANK_SKIPPED: _ClassVar[DegradedReason]
    DEGRADED_REASON_EF_SEARCH_LOWERED: _ClassVar[DegradedReason]
    DEGRADED_REASON_LEXICAL_ONLY: _ClassVar[DegradedReason]
    DEGRADED_REASON_PARTIAL_COVERAGE: _ClassVar[DegradedReason]
    DEGRADED_REASON_ITEMS_MISSING: _ClassVar[DegradedReason]
ATTRIBUTE_TYPE_UNSPECIFIED: AttributeType
ATTRIBUTE_TYPE_KEYWORD: AttributeType
ATTRIBUTE_TYPE_KEYWORD_LIST: AttributeType
ATTRIBUTE_TYPE_NUMBER: AttributeType
ATTRIBUTE_TYPE_BOOL: AttributeType
ATTRIBUTE_TYPE_TIME: AttributeType
SEARCH_MODE_UNSPECIFIED: SearchMode
SEARCH_MODE_DENSE: SearchMode
SEARCH_MODE_LEXICAL: SearchMode
SEARCH_MODE_HYBRID: SearchMode
TEXT_KIND_UNSPECIFIED: TextKind
TEXT_KIND_QUERY: TextKind
TEXT_KIND_ITEM: TextKind
SHARD_STATE_UNSPECIFIED: ShardState
SHARD_STATE_OK: ShardState
SHARD_STATE_TIMEOUT: ShardState
SHARD_STATE_UNAVAILABLE: ShardState
SHARD_STATE_FAILED: ShardState
SHARD_STATE_SUSPENDED: ShardState
DEGRADED_REASON_UNSPECIFIED: DegradedReason
DEGRADED_REASON_RERANK_SHORTENED: DegradedReason
DEGRADED_REASON_RERANK_SKIPPED: DegradedReason
DEGRADED_REASON_EF_SEARCH_LOWERED: DegradedReason
DEGRADED_REASON_LEXICAL_ONLY: DegradedReason
DEGRADED_REASON_PARTIAL_COVERAGE: DegradedReason
DEGRADED_REASON_ITEMS_MISSING: DegradedReason

class Item(_message.Message):
    __slots__ = ("item_id", "title", "texts", "attributes", "metadata")
    class TextsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[AttributeValue, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    texts: _containers.ScalarMap[str, str]
    attributes: _containers.MessageMap[str, AttributeValue]
    metadata: _struct_pb2.Struct
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., texts: _Optional[_Mapping[str, str]] = ..., attributes: _Optional[_Mapping[str, AttributeValue]] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class AttributeValue(_message.Message):
    __slots__ = ("keyword", "keywords", "number", "flag", "time")
    KEYWORD_FIELD_NUMBER: _ClassVar[int]
    KEYWORDS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    keyword: str
    keywords: KeywordList
    number: float
    flag: bool
    time: _timestamp_pb2.Timestamp
    def __init__(self, keyword: _Optional[str] = ..., keywords: _Optional[_Union[KeywordList, _Mapping]] = ..., number: _Optional[float] = ..., flag: _Optional[bool] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class KeywordList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class AttributeSchema(_message.Message):
    __slots__ = ("name", "type", "items_present")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_PRESENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: AttributeType
    items_present: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[AttributeType, str]] = ..., items_present: _Optional[int] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("all_of", "any_of", "none_of", "equals", "one_of", "range", "exists")
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_FIELD_NUMBER: _ClassVar[int]
    EQUALS_FIELD_NUMBER: _ClassVar[int]
    ONE_OF_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    all_of: FilterList
    any_of: FilterList
    none_of: FilterList
    equals: EqualsFilter
    one_of: OneOfFilter
    range: RangeFilter
    exists: ExistsFilter
    def __init__(self, all_of: _Optional[_Union[FilterList, _Mapping]] = ..., any_of: _Optional[_Union[FilterList, _Mapping]] = ..., none_of: _Optional[_Union[FilterList, _Mapping]] = ..., equals: _Optional[_Union[EqualsFilter, _Mapping]] = ..., one_of: _Optional[_Union[OneOfFilter, _Mapping]] = ..., range: _Optional[_Union[RangeFilter, _Mapping]] = ..., exists: _Optional[_Union[ExistsFilter, _Mapping]] = ...) -> None: ...

class FilterList(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class FilterValue(_message.Message):
    __slots__ = ("keyword", "number", "flag", "time")
    KEYWORD_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    keyword: str
    number: float
    flag: bool
    time: _timestamp_pb2.Timestamp
    def __init__(self, keyword: _Optional[str] = ..., number: _Optional[float] = ..., flag: _Optional[bool] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class EqualsFilter(_message.Message):
    __slots__ = ("attribute", "value")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    value: FilterValue
    def __init__(self, attribute: _Optional[str] = ..., value: _Optional[_Union[FilterValue, _Mapping]] = ...) -> None: ...

class OneOfFilter(_message.Message):
    __slots__ = ("attribute", "values")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    values: _containers.RepeatedCompositeFieldContainer[FilterValue]
    def __init__(self, attribute: _Optional[str] = ..., values: _Optional[_Iterable[_Union[FilterValue, _Mapping]]] = ...) -> None: ...

class RangeFilter(_message.Message):
    __slots__ = ("attribute", "gte", "gt", "lte", "lt")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    GTE_FIELD_NUMBER: _ClassVar[int]
    GT_FIELD_NUMBER: _ClassVar[int]
    LTE_FIELD_NUMBER: _ClassVar[int]
    LT_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    gte: FilterValue
    gt: FilterValue
    lte: FilterValue
    lt: FilterValue
    def __init__(self, attribute: _Optional[str] = ..., gte: _Optional[_Union[FilterValue, _Mapping]] = ..., gt: _Optional[_Union[FilterValue, _Mapping]] = ..., lte: _Optional[_Union[FilterValue, _Mapping]] = ..., lt: _Optional[_Union[FilterValue, _Mapping]] = ...) -> None: ...

class ExistsFilter(_message.Message):
    __slots__ = ("attribute", "present")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    present: bool
    def __init__(self, attribute: _Optional[str] = ..., present: _Optional[bool] = ...) -> None: ...

class SearchParams(_message.Message):
    __slots__ = ("ef_search", "exact")
    EF_SEARCH_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    ef_search: int
    exact: bool
    def __init__(self, ef_search: _Optional[int] = ..., exact: _Optional[bool] = ...) -> None: ...

class ShardCoverage(_message.Message):
    __slots__ = ("shard", "state", "items", "latency_us", "detail")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    shard: int
    state: ShardState
    items: int
    latency_us: int
    detail: str
    def __init__(self, shard: _Optional[int] = ..., state: _Optional[_Union[ShardState, str]] = ..., items: _Optional[int] = ..., latency_us: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class Coverage(_message.Message):
    __slots__ = ("items_searched", "items_known", "fraction", "shards")
    ITEMS_SEARCHED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    items_searched: int
    items_known: int
    fraction: float
    shards: _containers.RepeatedCompositeFieldContainer[ShardCoverage]
    def __init__(self, items_searched: _Optional[int] = ..., items_known: _Optional[int] = ..., fraction: _Optional[float] = ..., shards: _Optional[_Iterable[_Union[ShardCoverage, _Mapping]]] = ...) -> None: ...

class Gate(_message.Message):
    __slots__ = ("ann_recall_at_10", "required_ann_recall_at_10", "ef_search", "probes", "search_p50_us")
    ANN_RECALL_AT_10_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_ANN_RECALL_AT_10_FIELD_NUMBER: _ClassVar[int]
    EF_SEARCH_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    SEARCH_P50_US_FIELD_NUMBER: _ClassVar[int]
    ann_recall_at_10: float
    required_ann_recall_at_10: float
    ef_search: int
    probes: int
    search_p50_us: float
    def __init__(self, ann_recall_at_10: _Optional[float] = ..., required_ann_recall_at_10: _Optional[float] = ..., ef_search: _Optional[int] = ..., probes: _Optional[int] = ..., search_p50_us: _Optional[float] = ...) -> None: ...
