"""The format "vitrine": a JSON object an item, fields as in the contract.

{"item_id": "d1", "title": "Linen dress", "texts": {"description": "..."},
 "attributes": {"brand": "Acme", "price": 59.9, "in_stock": true, "sizes": ["S", "M"],
                "listed": {"time": "2024-05-01T00:00:00Z"}},
 "metadata": {"image": "https://..."}}
"""

from decimal import Decimal
from typing import Any

from gateway.catalog.item import AttributeValue, CatalogItem
from gateway.ingest.records import Fields, Reason, Refused
from gateway.ingest.values import parse_time, plain

_EXACT_MAX = 2.0**53
"""Up to here every whole number is a float."""

FIELDS = frozenset({"item_id", "title", "texts", "attributes", "metadata"})


def looks_like_vitrine(columns: set[str]) -> bool:
    """Tell whether records with these fields are in this format."""
    return "item_id" in columns and bool(columns & {"texts", "attributes", "metadata"})


def to_item(fields: Fields) -> CatalogItem:
    """Return the item in a record.

    Raises:
        Refused: a field is missing, unknown, or of another type.
    """
    if not fields.keys() <= FIELDS:
        unknown = ", ".join(sorted(fields.keys() - FIELDS))
        allowed = ", ".join(sorted(FIELDS))
        raise Refused(Reason.INVALID_FIELD, f"unknown field {unknown}; allowed {allowed}")
    attributes = _object(fields, "attributes")
    return CatalogItem(
        item_id=item_id_of(fields.get("item_id")),
        title=title_of(fields.get("title")),
        texts={name: _text(name, text) for name, text in _object(fields, "texts").items()},
        attributes={
            name: _attribute(name, value) for name, value in attributes.items() if value is not None
        },
        metadata=plain(_object(fields, "metadata")),
    )


def item_id_of(value: object) -> str:
    """Return an item id as text; whole numbers are taken for their digits.

    Raises:
        Refused: there is none.
    """
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    # Of a larger one the digits are lost already: another item may have become the same.
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_MAX:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Refused(Reason.NO_ITEM_ID, "no item id")


def title_of(value: object) -> str:
    """Return a title without the blanks around it.

    Raises:
        Refused: there is none.
    """
    if isinstance(value, str) and (title := value.strip()):
        return title
    raise Refused(Reason.NO_TITLE, "no title")


def _object(fields: Fields, name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(Reason.INVALID_FIELD, f"{name} is no JSON object")
    return value


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    raise Refused(Reason.INVALID_FIELD, f"texts.{name} is no string")


def _attribute(name: str, value: object) -> AttributeValue:
    match value:
        case bool() | str():
            return value
        case int() | float():
            return float(value)
        case list() if value and all(isinstance(keyword, str) for keyword in value):
            return tuple(value)
        case {"time": moment, **others} if not others:
            if (parsed := parse_time(moment)) is not None:
                return parsed
    allowed = 'a string, a number, a bool, a list of strings, or {"time": "ISO 8601"}'
    raise Refused(Reason.INVALID_FIELD, f"attributes.{name} is not {allowed}")
