"""GetItems and CountItems over the wire."""

import pytest

from tests.system.wire import grpcurl

GET = "vitrine.v1.CatalogService/GetItems"
COUNT = "vitrine.v1.CatalogService/CountItems"


def test_items_come_in_the_order_asked_without_the_missing(deployment, sample_items):
    first, second = sample_items[0], sample_items[1]
    wanted = ["nobody", second["item_id"], first["item_id"], "no one"]
    found = grpcurl(deployment.address, GET, {"item_ids": wanted}).message
    assert [item["item_id"] for item in found["items"]] == [second["item_id"], first["item_id"]]
    assert found["missing_item_ids"] == ["nobody", "no one"]


def test_an_item_is_what_was_put_in(deployment, sample_items):
    given = sample_items[5]
    found = grpcurl(deployment.address, GET, {"item_ids": [given["item_id"]]}).message
    (item,) = found["items"]
    assert item["title"] == given["title"]
    assert item["texts"] == given["texts"]
    assert item["metadata"] == given["metadata"]
    attributes, put_in = item["attributes"], given["attributes"]
    assert attributes["brand"] == {"keyword": put_in["brand"]}
    assert attributes["price"] == {"number": put_in["price"]}
    assert attributes["occasions"] == {"keywords": {"values": put_in["occasions"]}}
    assert attributes["listed"] == put_in["listed"]
    assert attributes.keys() == put_in.keys()


def test_items_come_with_the_fields_asked_for(deployment, sample_items):
    request = {"item_ids": [sample_items[5]["item_id"]], "fields": ["attributes.price"]}
    (item,) = grpcurl(deployment.address, GET, request).message["items"]
    assert list(item["attributes"]) == ["price"]
    assert item["title"] == ""


@pytest.mark.parametrize("number", [0, 1001])
def test_items_are_asked_1_to_1000_at_a_time(deployment, number):
    failure = grpcurl(deployment.address, GET, {"item_ids": ["a"] * number}).refusal
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", "item_ids")


def test_an_unknown_field_of_an_item_is_named(deployment):
    request = {"item_ids": ["a"], "fields": ["price"]}
    failure = grpcurl(deployment.address, GET, request).refusal
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", "fields[0]")


def test_the_whole_catalogue_is_counted(deployment):
    counted = grpcurl(deployment.address, COUNT).message
    assert counted == {"items": "1500", "generation": "0"}


def test_items_that_match_are_counted_in_the_generation(deployment, sample_items):
    expected = sum(item["attributes"]["price"] < 50 for item in sample_items)
    cheap = {"range": {"attribute": "price", "lt": {"number": 50}}}
    counted = grpcurl(deployment.address, COUNT, {"filter": cheap}).message
    assert counted == {"items": str(expected), "generation": "1"}
    assert 0 < expected < 1500


def test_a_count_names_an_unknown_attribute(deployment):
    filter_ = {"exists": {"attribute": "brnad"}}
    failure = grpcurl(deployment.address, COUNT, {"filter": filter_}).refusal
    assert failure.code == "INVALID_ARGUMENT"
    assert failure.field.startswith("filter")
    assert "brnad" in failure.message
