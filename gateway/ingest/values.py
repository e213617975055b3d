"""Turns values as people write them into values of one kind."""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from gateway.catalog.item import METADATA_NESTING_MAX, AttributeKind, AttributeValue
from gateway.ingest.records import Reason, Refused

_ABSENT = frozenset({"", "none", "null", "nan", "n/a", "-", "—"})
_AMOUNT = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_EXACT_INTEGER_MAX = 2**53


def is_absent(value: object) -> bool:
    """Tell whether a value stands for none.

    >>> [is_absent(value) for value in (None, "—", " None ", [], float("nan"), 0, False)]
    [True, True, True, True, True, False, False]
    """
    if isinstance(value, str):
        word = value.strip()
        return len(word) <= 8 and word.lower() in _ABSENT
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, (list, dict)) and not value)


def parse_amount(value: object) -> float | None:
    """Return the one amount that a price names; None when it names none or several.

    >>> [parse_amount(value) for value in (9, "$12.99", "from 1,299.00", "$5 - $9", "—")]
    [9.0, 12.99, 1299.0, None, None]
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float, Decimal)):
        return float(value) if math.isfinite(value) and value >= 0 else None
    if not isinstance(value, str):
        return None
    amounts = _AMOUNT.findall(value)
    return float(amounts[0].replace(",", "")) if len(amounts) == 1 else None


def parse_time(value: object) -> datetime | None:
    """Return a point in time written in ISO 8601; without a zone it is UTC.

    >>> parse_time("2024-05-01T12:00:00+02:00").isoformat()
    '2024-05-01T10:00:00+00:00'
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        return None
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        return None


def convert(name: str, value: object, kind: AttributeKind) -> AttributeValue:
    """Return a present value as an attribute of a kind.

    Raises:
        Refused: it cannot be one.
    """
    converted = _CONVERTERS[kind](value)
    if converted is None:
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise Refused(Reason.ATTRIBUTE_KIND, f"attribute {name} is {shown}; its kind is {kind}")
    return converted


def join_texts(value: object) -> str:
    """Return a text, or a list of texts, as one text.

    >>> join_texts(["Soft.", None, "Warm."])
    'Soft. Warm.'
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return " ".join(text for part in value if (text := join_texts(part)))
    return "" if value is None else str(value)


def plain(value: object, depth: int = 0) -> Any:
    """Return a value as JSON can say it: the form of free metadata.

    Args:
        value: the metadata.
        depth: how many objects and lists the value is in.

    Raises:
        Refused: objects or lists are nested deeper than the contract allows.
    """
    if depth > METADATA_NESTING_MAX and isinstance(value, (Mapping, list, tuple)):
        allowed = f"at most {METADATA_NESTING_MAX} objects or lists in one another"
        raise Refused(Reason.INVALID_FIELD, f"metadata is nested too deeply; allowed {allowed}")
    match value:
        case None | str() | bool():
            return value
        case int():
            return value if abs(value) <= _EXACT_INTEGER_MAX else str(value)
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner, depth + 1) for inner in value]
        case date():
            return value.isoformat()
        case _:
            return str(value)


def keywords_of(value: object) -> tuple[str, ...]:
    """Return the texts in a list, without empty ones and repetitions."""
    if not isinstance(value, list):
        return ()
    return tuple(dict.fromkeys(text.strip() for text in value if _is_text(text)))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not is_absent(value)


def _to_keyword(value: object) -> str | None:
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, (bool, int, float, Decimal)) else None


def _to_keyword_list(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value.strip(),)
    return keywords_of(value) or None


def _to_number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float, Decimal)):
        return float(value) if math.isfinite(value) else None
    try:
        text = value if isinstance(value, str) and "_" not in value else "nan"
        number = float(_ungrouped(text))
    except ValueError:
        return parse_amount(value)
    return number if math.isfinite(number) else None


def _ungrouped(value: str) -> str:
    """Return a number's text without the commas between thousands, as Python reads it.

    >>> _ungrouped("-1,199.00"), _ungrouped("1,2")
    ('-1199.00', '1,2')
    """
    return value.replace(",", "") if _GROUPED.fullmatch(value.strip()) else value


def _to_flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return _TRUTH.get(str(value).strip().lower())


_CONVERTERS: dict[AttributeKind, Callable[[object], AttributeValue | None]] = {
    "keyword": _to_keyword,
    "keyword_list": _to_keyword_list,
    "number": _to_number,
    "bool": _to_flag,
    "time": parse_time,
}
