"""The limits of the contract, and the stored form of an item."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog.item import CatalogItem, check_item, is_attribute_name, kind_of, to_bytes
from protos.vitrine.v1.types_pb2 import Item
from rpc.errors import InvalidArgument

KEYWORDS = st.text(min_size=1, max_size=20)
VALUES = st.one_of(
    KEYWORDS,
    st.lists(KEYWORDS, min_size=1, max_size=5).map(tuple),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.datetimes(timezones=st.just(UTC)),
)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_.]{0,9}", fullmatch=True), VALUES))
def test_attributes_survive_the_stored_form(attributes: dict[str, Any]):
    item = CatalogItem("a", "Dress", attributes=attributes)
    check_item(item)
    stored = Item.FromString(to_bytes(item)).attributes
    assert stored.keys() == attributes.keys()
    for name, value in attributes.items():
        match kind_of(value):
            case "keyword":
                assert stored[name].keyword == value
            case "keyword_list":
                assert tuple(stored[name].keywords.values) == value
            case "number":
                assert stored[name].number == value
            case "bool":
                assert stored[name].flag is value
            case "time":
                assert stored[name].time.ToDatetime(UTC) == value


def test_the_order_of_fields_does_not_change_the_stored_form():
    one = CatalogItem("a", "Dress", {"x": "1", "y": "2"}, {"p": 1.0, "q": "r"}, {"m": 1, "n": 2})
    two = CatalogItem("a", "Dress", {"y": "2", "x": "1"}, {"q": "r", "p": 1.0}, {"n": 2, "m": 1})
    assert to_bytes(one) == to_bytes(two)


def test_times_of_other_zones_are_stored_in_utc():
    noon = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    stored = Item.FromString(to_bytes(CatalogItem("a", "Dress", attributes={"listed": noon})))
    assert stored.attributes["listed"].time.ToJsonString() == "2024-05-01T10:00:00Z"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_must_be_finite(value: float):
    with pytest.raises(InvalidArgument, match=r"attributes.price is .*allowed a finite number"):
        check_item(CatalogItem("a", "Dress", attributes={"price": value}))


@pytest.mark.parametrize(
    ("item_id", "allowed"),
    [
        *[("x" * 256, True), ("x" * 257, False), ("é" * 128, True), ("é" * 129, False)],
        *[("", False), ("a b", True), ("a\nb", False), ("a\x00b", False), ("a\x85b", False)],
    ],
)
def test_an_id_has_1_to_256_bytes_without_control_characters(item_id: str, allowed: bool):
    item = CatalogItem(item_id, "Dress")
    if allowed:
        check_item(item)
    else:
        with pytest.raises(InvalidArgument, match="item_id is"):
            check_item(item)


def test_limits_count_bytes_and_are_inclusive():
    check_item(CatalogItem("a", "é" * 5_000, {"d": "é" * 50_000}, {"k": "é" * 512}))
    with pytest.raises(InvalidArgument, match="title is '10001 bytes'"):
        check_item(CatalogItem("a", "é" * 5_000 + "x"))
    with pytest.raises(InvalidArgument, match=r"texts is '65 fields'"):
        check_item(CatalogItem("a", "Dress", {f"t{n}": "x" for n in range(65)}))
    with pytest.raises(InvalidArgument, match=r"attributes.k is '257 keywords'"):
        check_item(CatalogItem("a", "Dress", attributes={"k": ("x",) * 257}))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        *[("color", True), ("_x.y2", True), ("x" * 64, True), ("x" * 65, False), ("", False)],
        *[("2x", False), ("a b", False), ("färbe", False), ("a-b", False), ("a\n", False)],
    ],
)
def test_attribute_names(name: str, allowed: bool):
    assert is_attribute_name(name) is allowed
