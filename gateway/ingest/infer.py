"""Finds out what the columns of a flat file mean from its first records."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from gateway.catalog.item import (
    ATTRIBUTE_NAME_CHARS_MAX,
    ATTRIBUTES_MAX,
    KEYWORDS_MAX,
    TEXT_FIELDS_MAX,
    AttributeKind,
)
from gateway.ingest.mapping import AttributeColumn, MappedField, Mapping
from gateway.ingest.records import Fields
from gateway.ingest.values import is_absent, parse_amount, parse_time
from rpc.terminal import CommandError

SAMPLE_RECORDS = 1_000
KEYWORD_CHARS_MAX = 100

ID_COLUMNS = ("item_id", "id", "sku", "asin", "parent_asin", "product_id")
TITLE_COLUMNS = ("title", "name", "product_name", "product_title")
_URL = re.compile(r"(?:https?:)?//\S+")
# As programs write numbers, or with thousands set apart as shops do. Codes like 007 are words.
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d*|(?=\.\d))(?:\.\d+)?(?:[eE][+-]?\d+)?|[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)"
)
_MONEY = re.compile(r"(?:from )?[$€£]\s?\d[\d,]*(?:\.\d+)?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def infer_mapping(
    sample: Sequence[Fields], asked: Sequence[MappedField], untyped: bool, file: str
) -> Mapping:
    """Return the mapping of a file, from its first records and what the user said.

    Args:
        sample: the first records.
        asked: what the user named; it wins over everything inferred.
        untyped: every value is text, as in CSV: numbers and truth values are read out of it.
        file: named in errors.

    Raises:
        CommandError: no column can be the id, or the title, or one that was named is not there.
    """
    columns = list(dict.fromkeys(column for fields in sample for column in fields))
    wanted = {field.part: field.column for field in asked if field.part in ("item_id", "title")}
    item_id = wanted.get("item_id") or _pick(columns, ID_COLUMNS, "item_id", file)
    title = wanted.get("title") or _pick(columns, TITLE_COLUMNS, "title", file)
    texts = {field.name: field.column for field in asked if field.part == "texts"}
    attributes: dict[str, AttributeColumn] = {}
    for field in asked:
        if field.part == "attributes":
            kind = field.kind or _asked_kind(field, sample, untyped, file)
            attributes[field.name] = AttributeColumn(column=field.column, kind=kind)
    taken = {item_id, title, *(field.column for field in asked)}
    for column in columns:
        if column not in taken:
            _place(column, [row.get(column) for row in sample], untyped, texts, attributes)
    return Mapping(item_id=item_id, title=title, texts=texts, attributes=attributes)


def kind_of_column(values: Sequence[object], untyped: bool) -> AttributeKind | None:
    """Return the kind that all present values have; None when they share none, or there are none.

    >>> kind_of_column(["19.5", "", "7"], untyped=True)
    'number'
    >>> kind_of_column(["1,199.00", "89.50"], untyped=True)
    'number'
    >>> kind_of_column(["red", "blue"], untyped=False)
    'keyword'
    """
    present = [value for value in values if not is_absent(value)]
    if not present:
        return None
    tests = _TESTS_UNTYPED + _TESTS if untyped else _TESTS
    return next((kind for kind, test in tests if all(map(test, present))), None)


def _place(
    column: str,
    values: Sequence[object],
    untyped: bool,
    texts: dict[str, str],
    attributes: dict[str, AttributeColumn],
) -> None:
    """Put a column where its values fit; one that fits nowhere stays metadata."""
    kind = kind_of_column(values, untyped)
    if kind is not None:
        name = _attribute_name(column)
        if name not in attributes and len(attributes) < ATTRIBUTES_MAX:
            attributes[name] = AttributeColumn(column=column, kind=kind)
    elif _holds_texts(values) and column not in texts and len(texts) < TEXT_FIELDS_MAX:
        texts[column] = column


def _pick(columns: Sequence[str], names: Sequence[str], field: str, file: str) -> str:
    by_name = {_attribute_name(column): column for column in reversed(columns)}
    for name in names:
        if name in by_name:
            return by_name[name]
    raise CommandError(
        f"{file}: no column is named like {field} ({', '.join(names)}); it has "
        f"{', '.join(columns[:20]) or 'none'}: name one with --map {field}=COLUMN"
    )


def _asked_kind(
    field: MappedField, sample: Sequence[Fields], untyped: bool, file: str
) -> AttributeKind:
    kind = kind_of_column([row.get(field.column) for row in sample], untyped)
    if kind is None:
        raise CommandError(
            f"{file}: column {field.column} has no values of one kind in the first "
            f"{SAMPLE_RECORDS} records; say which with --map {field.name}:KIND={field.column}"
        )
    return kind


def _attribute_name(column: str) -> str:
    """Return a column's name as filters can say it.

    >>> _attribute_name("Product Color"), _attribute_name("2nd name")
    ('product_color', '_2nd_name')
    """
    name = re.sub(r"[^a-z0-9_.]+", "_", column.strip().lower())
    return (f"_{name}" if name[:1].isdigit() or not name else name)[:ATTRIBUTE_NAME_CHARS_MAX]


def _holds_texts(values: Sequence[object]) -> bool:
    present = [value for value in values if not is_absent(value)]
    return bool(present) and all(
        isinstance(value, str) and not _URL.fullmatch(value.strip()) for value in present
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _is_money(value: object) -> bool:
    return (
        isinstance(value, str)
        and bool(_MONEY.fullmatch(value.strip()))
        and (parse_amount(value) is not None)
    )


def _is_time(value: object) -> bool:
    if isinstance(value, str) and not _DATE.match(value.strip()):
        return False
    return parse_time(value) is not None


def _is_keyword(value: object) -> bool:
    return isinstance(value, str) and len(value) <= KEYWORD_CHARS_MAX and not _URL.match(value)


def _is_keyword_list(value: object) -> bool:
    return isinstance(value, list) and len(value) <= KEYWORDS_MAX and all(map(_is_keyword, value))


_TESTS: tuple[tuple[AttributeKind, Callable[[object], bool]], ...] = (
    ("bool", lambda value: isinstance(value, bool)),
    ("number", lambda value: _is_number(value) or _is_money(value)),
    ("time", _is_time),
    ("keyword", _is_keyword),
    ("keyword_list", _is_keyword_list),
)
_TESTS_UNTYPED: tuple[tuple[AttributeKind, Callable[[object], bool]], ...] = (
    ("bool", lambda value: str(value).strip().lower() in ("true", "false")),
    ("number", lambda value: bool(_NUMBER.fullmatch(str(value).strip())) or _is_money(value)),
)
