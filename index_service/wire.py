"""From protobuf to plain values and back, for `service.py`; refuses what is out of range."""

from collections.abc import Callable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from index_service.filter import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    Filter,
    FilterLimits,
    FilterValue,
    NoneOf,
    OneOf,
    Range,
    Time,
    check,
)
from index_service.generation.manifest import AttributeKind, GateEntry, Manifest
from index_service.holdings import Holding, State
from index_service.query import Hits, Query
from protos.vitrine.v1 import index_pb2, types_pb2
from rpc.errors import InvalidArgument, Unimplemented
from rpc.vectors import unpack_unit

QUERIES_MAX = 256
FETCH_K_MAX = 2_000
EF_SEARCH_MAX = 10_000
EXCLUDED_MAX = 1_000
CHILDREN_MAX = 256

_TYPES = {
    AttributeKind.KEYWORD: types_pb2.ATTRIBUTE_TYPE_KEYWORD,
    AttributeKind.KEYWORD_LIST: types_pb2.ATTRIBUTE_TYPE_KEYWORD_LIST,
    AttributeKind.NUMBER: types_pb2.ATTRIBUTE_TYPE_NUMBER,
    AttributeKind.BOOL: types_pb2.ATTRIBUTE_TYPE_BOOL,
    AttributeKind.TIME: types_pb2.ATTRIBUTE_TYPE_TIME,
}
_STATES = {
    State.LOADING: index_pb2.GENERATION_STATE_LOADING,
    State.READY: index_pb2.GENERATION_STATE_READY,
    State.RELEASING: index_pb2.GENERATION_STATE_RELEASING,
}
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799


def queries_of(request: index_pb2.IndexServiceSearchRequest, manifest: Manifest) -> list[Query]:
    """Return the queries of a request, each fit for the generation.

    Raises:
        InvalidArgument: names the query by its place, the field, its value and what is allowed.
        Unimplemented: a mode that is not served.
    """
    require_between("queries", len(request.queries), 1, QUERIES_MAX, "queries")
    return [
        _query_of(query, manifest, f"queries[{place}]")
        for place, query in enumerate(request.queries)
    ]


def filter_of(message: types_pb2.Filter, schema: Mapping[str, AttributeKind], field: str) -> Filter:
    """Return a filter that fits the attributes.

    Raises:
        InvalidArgument: names the place in the filter.
    """
    tree = _node_of(message, field, FilterLimits().depth_max)
    check(tree, schema, FilterLimits(), field)
    return tree


def hits_message(hits: Hits, *, with_profile: bool) -> index_pb2.ShardHits:
    """Return the wire form of one query's hits."""
    dense = index_pb2.HitList(item_ids=hits.item_ids, scores=hits.scores.tolist())
    message = index_pb2.ShardHits(dense=dense, items_matched=hits.items_matched)
    if with_profile:
        profile = hits.profile
        message.profile.path = profile.path
        message.profile.ef_search = profile.ef_search
        message.profile.selectivity = profile.selectivity
        message.profile.rescored = profile.rescored
        message.profile.filter_us = profile.filter_us
        message.profile.candidates_us = profile.candidates_us
        message.profile.rescore_us = profile.rescore_us
    return message


def holding_message(holding: Holding) -> index_pb2.LoadedGeneration:
    """Return the wire form of a generation here, coming or going."""
    message = index_pb2.LoadedGeneration(
        generation=holding.generation, state=_STATES[holding.state]
    )
    if holding.loaded is None:
        return message
    manifest = holding.loaded.manifest
    message.encoder_id = manifest.encoder.encoder_id
    message.compatible_query_encoders.extend(manifest.compatible_encoder_ids)
    message.dim = manifest.encoder.dim
    message.num_shards = manifest.num_shards
    message.items = holding.loaded.segment.items
    message.items_total = manifest.items
    message.applied_seq = manifest.seq
    message.attributes.extend(
        types_pb2.AttributeSchema(
            name=entry.name, type=_TYPES[entry.type], items_present=entry.items_present
        )
        for entry in manifest.attributes
    )
    message.gate.CopyFrom(gate_message(manifest.gate))
    return message


def gate_message(gate: GateEntry) -> types_pb2.Gate:
    """Return the wire form of a gate."""
    return types_pb2.Gate(
        ann_recall_at_10=gate.ann_recall_at_10,
        required_ann_recall_at_10=gate.required_ann_recall_at_10,
        ef_search=gate.ef_search,
        probes=gate.probes,
        search_p50_us=gate.search_p50_us,
    )


def require_between(field: str, value: int, least: int, most: int, unit: str = "") -> None:
    """Refuse a number out of range.

    Raises:
        InvalidArgument: it is.
    """
    if not least <= value <= most:
        raise InvalidArgument(field, value, f"{least}..{most} {unit}".strip())


def _query_of(query: index_pb2.ShardQuery, manifest: Manifest, field: str) -> Query:
    _require_dense(query.mode, field)
    embedding = unpack_unit(query.embedding, manifest.encoder.dim, f"{field}.embedding")
    require_between(f"{field}.fetch_k", query.fetch_k, 1, FETCH_K_MAX)
    excluded = tuple(query.exclude_item_ids)
    require_between(f"{field}.exclude_item_ids", len(excluded), 0, EXCLUDED_MAX, "ids")
    params = query.params
    ef_search = params.ef_search if params.HasField("ef_search") else None
    if ef_search is not None:
        require_between(f"{field}.params.ef_search", ef_search, 1, EF_SEARCH_MAX)
    filter_ = None
    if query.HasField("filter"):
        filter_ = filter_of(query.filter, manifest.schema, f"{field}.filter")
    return Query(embedding, query.fetch_k, filter_, ef_search, params.exact, excluded)


def _require_dense(mode: int, field: str) -> None:
    match mode:
        case types_pb2.SEARCH_MODE_UNSPECIFIED | types_pb2.SEARCH_MODE_DENSE:
            return
        case types_pb2.SEARCH_MODE_LEXICAL:
            raise Unimplemented("lexical search")
        case types_pb2.SEARCH_MODE_HYBRID:
            raise Unimplemented("hybrid search")
    raise InvalidArgument(f"{field}.mode", mode, "a value of SearchMode")


def _node_of(message: types_pb2.Filter, field: str, levels: int) -> Filter:
    """Return one node and what is below it."""
    kind = message.WhichOneof("node")
    match kind:
        case None:
            raise InvalidArgument(field, "without a condition", "one of its kinds to be set")
        case "all_of":
            return AllOf(_children(message.all_of, f"{field}.all_of", levels))
        case "any_of":
            return AnyOf(_children(message.any_of, f"{field}.any_of", levels))
        case "none_of":
            return NoneOf(_children(message.none_of, f"{field}.none_of", levels))
        case _:
            return _LEAVES[kind](message, f"{field}.{kind}")


def _children(message: types_pb2.FilterList, field: str, levels: int) -> tuple[Filter, ...]:
    require_between(f"{field}.filters", len(message.filters), 1, CHILDREN_MAX, "filters")
    if levels == 1:
        raise InvalidArgument(f"{field}.filters", "deeper", f"{FilterLimits().depth_max} levels")
    return tuple(
        _node_of(child, f"{field}.filters[{place}]", levels - 1)
        for place, child in enumerate(message.filters)
    )


def _equals_of(message: types_pb2.Filter, field: str) -> Equals:
    leaf = message.equals
    return Equals(leaf.attribute, _value_of(leaf.value, f"{field}.value"))


def _one_of_of(message: types_pb2.Filter, field: str) -> OneOf:
    leaf = message.one_of
    most = FilterLimits().values_max
    require_between(f"{field}.values", len(leaf.values), 1, most, "values")
    values = enumerate(leaf.values)
    return OneOf(
        leaf.attribute,
        tuple(_value_of(value, f"{field}.values[{place}]") for place, value in values),
    )


def _range_of(message: types_pb2.Filter, field: str) -> Range:
    leaf = message.range
    return Range(
        leaf.attribute,
        lower=_bound_of(leaf, leaf.WhichOneof("lower"), field),
        upper=_bound_of(leaf, leaf.WhichOneof("upper"), field),
    )


def _exists_of(message: types_pb2.Filter, _: str) -> Exists:
    leaf = message.exists
    return Exists(leaf.attribute, leaf.present if leaf.HasField("present") else True)


_LEAVES: dict[str, Callable[[types_pb2.Filter, str], Filter]] = {
    "equals": _equals_of,
    "one_of": _one_of_of,
    "range": _range_of,
    "exists": _exists_of,
}


def _bound_of(leaf: types_pb2.RangeFilter, side: str | None, field: str) -> Bound | None:
    if side is None:
        return None
    message = getattr(leaf, side)
    value = _value_of(message, f"{field}.{side}")
    # Items' times are whole microseconds: where a bound lies between two, the next one begins
    # what is at or after it, and ends what is before it.
    if isinstance(value, Time) and message.time.nanos % 1_000 and side in ("gte", "lt"):
        value = Time(value.micros + 1)
    return Bound(value, side in ("gte", "lte"))


def _value_of(message: types_pb2.FilterValue, field: str) -> FilterValue:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument(field, "without a value", "a keyword, number, flag or time")
    if kind == "time":
        return _time_of(message.time, field)
    value: FilterValue = getattr(message, kind)
    return value


def _time_of(message: Timestamp, field: str) -> Time:
    if not (_SECONDS_MIN <= message.seconds <= _SECONDS_MAX and 0 <= message.nanos < 10**9):
        shown = f"{message.seconds} s + {message.nanos} ns"
        raise InvalidArgument(field, shown, "a time from the year 1 to the year 9999")
    return Time(message.seconds * 1_000_000 + message.nanos // 1_000)
