"""Attributes of serialized items as columns."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from google.protobuf.message import DecodeError

from index_service.attributes import ARROW_TYPES
from index_service.generation.manifest import AttributeKind
from protos.vitrine.v1 import types_pb2
from rpc.terminal import CommandError

_KINDS = {
    "keyword": AttributeKind.KEYWORD,
    "keywords": AttributeKind.KEYWORD_LIST,
    "number": AttributeKind.NUMBER,
    "flag": AttributeKind.BOOL,
    "time": AttributeKind.TIME,
}
_MICROS = 1_000_000
# 0001-01-01 to 9999-12-31, what a protobuf Timestamp may hold.
_SECONDS_MIN, _SECONDS_MAX = -62_135_596_800, 253_402_300_799


def attributes_of(item_id: str, serialized: bytes) -> Iterator[tuple[str, AttributeKind, Any]]:
    """Yield name, kind and plain value of each attribute that an item has.

    A value is str, list of str, float, bool, or microseconds since 1970 for a time.

    Raises:
        CommandError: the item cannot be read, or a value is none that a filter could compare.
    """
    try:
        item = types_pb2.Item.FromString(serialized)
    except DecodeError as exc:
        raise CommandError(f"item {item_id!r} cannot be read; run the export stage again") from exc
    for name, value in item.attributes.items():
        field = value.WhichOneof("kind")
        if field is None or (field == "keywords" and not value.keywords.values):
            continue
        kind = _KINDS[field]
        plain = _plain(value, kind)
        if plain is None:
            raise CommandError(
                f"item {item_id!r} has attribute {name!r} = {getattr(value, field)}; "
                f"allowed is a finite {kind}. Correct the item and build again"
            )
        yield name, kind, plain


def columns(
    items: Iterable[tuple[str, bytes]], schema: Mapping[str, AttributeKind]
) -> pa.RecordBatch:
    """Return one column an attribute, null where an item lacks it.

    Args:
        items: id and serialized item, in the order of rows.
        schema: the attributes of the whole catalogue, so that all shards have the same columns.
    """
    rows: list[dict[str, Any]] = [
        {name: plain for name, _, plain in attributes_of(item_id, serialized)}
        for item_id, serialized in items
    ]
    arrays = [
        pa.array([row.get(name) for row in rows], type=ARROW_TYPES[kind])
        for name, kind in schema.items()
    ]
    if not arrays:
        # Arrow counts rows by columns: without one, all rows would be lost.
        return pa.record_batch([pa.nulls(len(rows))], names=[NO_ATTRIBUTES])
    return pa.record_batch(arrays, schema=arrow_schema(schema))


NO_ATTRIBUTES = ""
"""Name of the column that stands in for attributes where there are none."""


def arrow_schema(schema: Mapping[str, AttributeKind]) -> pa.Schema:
    """Return the schema of attributes.arrow."""
    if not schema:
        return pa.schema([(NO_ATTRIBUTES, pa.null())])
    return pa.schema([(name, ARROW_TYPES[kind]) for name, kind in schema.items()])


def _plain(value: types_pb2.AttributeValue, kind: AttributeKind) -> Any:
    """Return a plain value; None when it cannot be compared."""
    match kind:
        case AttributeKind.KEYWORD:
            return value.keyword
        case AttributeKind.KEYWORD_LIST:
            return list(value.keywords.values)
        case AttributeKind.NUMBER:
            return value.number if math.isfinite(value.number) else None
        case AttributeKind.BOOL:
            return value.flag
        case AttributeKind.TIME:
            seconds, nanos = value.time.seconds, value.time.nanos
            in_range = _SECONDS_MIN <= seconds <= _SECONDS_MAX and 0 <= nanos < 10**9
            return seconds * _MICROS + nanos // 1000 if in_range else None
