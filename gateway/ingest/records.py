"""What a file of products is made of: records, and the places where one cannot be used."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Fields = dict[str, Any]


class Reason(StrEnum):
    """Why a record was refused; the value is counted in the result."""

    NOT_JSON = "not_json"
    INVALID_UTF8 = "invalid_utf8"
    TOO_LONG = "too_long"
    WRONG_COLUMNS = "wrong_columns"
    OPEN_QUOTE = "open_quote"
    NO_ITEM_ID = "no_item_id"
    INVALID_ITEM_ID = "invalid_item_id"
    NO_TITLE = "no_title"
    ATTRIBUTE_KIND = "attribute_kind"
    INVALID_FIELD = "invalid_field"
    DUPLICATE_ITEM_ID = "duplicate_item_id"


REMEDIES = {
    Reason.NOT_JSON: "write one JSON object a line",
    Reason.INVALID_UTF8: "save the file as UTF-8",
    Reason.TOO_LONG: "shorten the record",
    Reason.WRONG_COLUMNS: "quote values that hold the delimiter",
    Reason.OPEN_QUOTE: "close the quote, or write it twice where it is part of a value",
    Reason.NO_ITEM_ID: "give the item an id, or name the column with --map item_id=COLUMN",
    Reason.INVALID_ITEM_ID: "give the item another id",
    Reason.NO_TITLE: "give the item a title, or name the column with --map title=COLUMN",
    Reason.ATTRIBUTE_KIND: "give the attribute one kind everywhere, or --map it to another name",
    Reason.INVALID_FIELD: "correct the field",
    Reason.DUPLICATE_ITEM_ID: "keep one record an item",
}


class Refused(Exception):
    """A record that cannot become an item."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read: its 1-based line (row in Parquet) and its fields."""

    line: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class Rejection:
    """One record that could not be used, and why."""

    line: int
    reason: Reason
    detail: str


Records = Iterator[Record | Rejection]
