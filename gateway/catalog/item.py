"""What an item is inside the gateway, the limits of its contract, and its stored form.

The limits are those that `protos/vitrine/v1/types.proto` promises; every way into the catalogue
checks them with `check_item`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from protos.vitrine.v1.types_pb2 import Item
from rpc.errors import InvalidArgument

ITEM_ID_BYTES_MAX = 256
TITLE_BYTES_MAX = 10_000
TEXT_FIELDS_MAX = 64
TEXT_BYTES_MAX = 100_000
ATTRIBUTES_MAX = 256
ATTRIBUTE_NAME_CHARS_MAX = 64
KEYWORD_BYTES_MAX = 1_024
KEYWORDS_MAX = 256
METADATA_BYTES_MAX = 256 * 1024
# Protobuf reads 100 messages in one another and no more. An object takes three of them, and the
# messages that an item travels in are some as well.
METADATA_NESTING_MAX = 30

AttributeKind = Literal["keyword", "keyword_list", "number", "bool", "time"]
ATTRIBUTE_KINDS: tuple[AttributeKind, ...] = ("keyword", "keyword_list", "number", "bool", "time")
# str: keyword, tuple: keyword list, float: number, bool: truth value, datetime: time.
AttributeValue = str | tuple[str, ...] | float | bool | datetime

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ATTRIBUTE_NAME = re.compile(rf"[A-Za-z_.][A-Za-z0-9_.]{{0,{ATTRIBUTE_NAME_CHARS_MAX - 1}}}")
_KIND_OF_TYPE: dict[type, AttributeKind] = {
    str: "keyword",
    tuple: "keyword_list",
    float: "number",
    bool: "bool",
    datetime: "time",
}


@dataclass(frozen=True, slots=True)
class CatalogItem:
    """One product. Times are timezone-aware; metadata holds JSON values only."""

    item_id: str
    title: str
    texts: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


def kind_of(value: AttributeValue) -> AttributeKind:
    """Return the kind of an attribute's value.

    >>> kind_of("red"), kind_of(("red", "blue")), kind_of(9.5), kind_of(True)
    ('keyword', 'keyword_list', 'number', 'bool')
    """
    return _KIND_OF_TYPE[type(value)]


def check_item(item: CatalogItem) -> None:
    """Refuse an item that breaks a limit of the contract.

    Raises:
        InvalidArgument: names the field, its value and what is allowed.
    """
    check_item_id(item.item_id)
    if not item.title.strip():
        raise InvalidArgument("title", item.title, f"1..{TITLE_BYTES_MAX} bytes, not blank")
    _check_bytes("title", item.title, TITLE_BYTES_MAX)
    if item.texts:
        _check_texts(item.texts)
    _check_attributes(item.attributes)


def check_item_id(item_id: str) -> None:
    """Refuse an id that is empty, too long or not printable.

    Raises:
        InvalidArgument: says what is allowed.

    >>> check_item_id("B07XYZ")
    """
    if not 1 <= _num_bytes(item_id) <= ITEM_ID_BYTES_MAX or _CONTROL.search(item_id):
        allowed = f"1..{ITEM_ID_BYTES_MAX} bytes of UTF-8 without control characters"
        raise InvalidArgument("item_id", item_id, allowed)


def is_attribute_name(name: str) -> bool:
    """Tell whether filters can use a name.

    >>> is_attribute_name("color"), is_attribute_name("2nd color")
    (True, False)
    """
    return _ATTRIBUTE_NAME.fullmatch(name) is not None


def to_bytes(item: CatalogItem) -> bytes:
    """Return the stored form: a serialized vitrine.v1.Item, the same bytes for the same item.

    Raises:
        InvalidArgument: the metadata is larger than the contract allows.
    """
    stored = Item(item_id=item.item_id, title=item.title, texts=item.texts)
    for name, value in item.attributes.items():
        _set_attribute(stored.attributes[name], value)
    if item.metadata:
        stored.metadata.update(item.metadata)
        num_bytes = stored.metadata.ByteSize()
        if num_bytes > METADATA_BYTES_MAX:
            allowed = f"at most {METADATA_BYTES_MAX} bytes serialized"
            raise InvalidArgument("metadata", f"{num_bytes} bytes", allowed)
    serialized: bytes = stored.SerializeToString(deterministic=True)
    return serialized


def _set_attribute(stored: Any, value: AttributeValue) -> None:
    match value:
        case bool():
            stored.flag = value
        case str():
            stored.keyword = value
        case float():
            stored.number = value
        case tuple():
            stored.keywords.values.extend(value)
        case datetime():
            stored.time.FromDatetime(value.astimezone(UTC))


def _check_texts(texts: Mapping[str, str]) -> None:
    if len(texts) > TEXT_FIELDS_MAX:
        raise InvalidArgument("texts", f"{len(texts)} fields", f"at most {TEXT_FIELDS_MAX}")
    num_bytes = sum(map(_num_bytes, texts.values()))
    if num_bytes > TEXT_BYTES_MAX:
        raise InvalidArgument("texts", f"{num_bytes} bytes", f"at most {TEXT_BYTES_MAX} together")


def _check_attributes(attributes: Mapping[str, AttributeValue]) -> None:
    if len(attributes) > ATTRIBUTES_MAX:
        raise InvalidArgument("attributes", f"{len(attributes)} of them", f"0..{ATTRIBUTES_MAX}")
    for name, value in attributes.items():
        if not is_attribute_name(name):
            allowed = 'names of 1..64 letters, digits, "_" and ".", not starting with a digit'
            raise InvalidArgument("attributes", name, allowed)
        _check_value(f"attributes.{name}", value)


def _check_value(name: str, value: AttributeValue) -> None:
    match value:
        case str():
            _check_bytes(name, value, KEYWORD_BYTES_MAX)
        case float() if not math.isfinite(value):
            raise InvalidArgument(name, value, "a finite number")
        case tuple():
            if not 1 <= len(value) <= KEYWORDS_MAX:
                raise InvalidArgument(name, f"{len(value)} keywords", f"1..{KEYWORDS_MAX}")
            for keyword in value:
                _check_bytes(name, keyword, KEYWORD_BYTES_MAX)


def _check_bytes(name: str, text: str, bytes_max: int) -> None:
    if len(text) > bytes_max // 4 and (num_bytes := _num_bytes(text)) > bytes_max:
        raise InvalidArgument(name, f"{num_bytes} bytes", f"at most {bytes_max} bytes")


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
