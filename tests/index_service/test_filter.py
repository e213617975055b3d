"""Filters: any tree agrees with asking each item; bad ones are refused by name."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from index_service.attributes import Attributes
from index_service.build.columns import columns
from index_service.filter import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    FilterLimits,
    NoneOf,
    OneOf,
    Range,
    check,
    evaluate,
)
from rpc.errors import InvalidArgument
from tests.index_service.catalogue import never, random_attributes, serialized
from tests.index_service.filters import SCHEMA, matches, trees

ITEMS = random_attributes(np.random.default_rng(0), 300)


def table_of(items):
    pairs = ((str(row), serialized(str(row), item)) for row, item in enumerate(items))
    return pa.Table.from_batches([columns(pairs, SCHEMA)])


@pytest.fixture(scope="module")
def attributes():
    return Attributes.of_table(table_of(ITEMS))


@settings(max_examples=300, deadline=None)
@given(tree=trees())
def test_any_filter_tree_agrees_with_asking_each_item(attributes, tree):
    check(tree, SCHEMA, FilterLimits(depth_max=100), "filter")
    expected = [row for row, item in enumerate(ITEMS) if matches(tree, item)]
    assert list(evaluate(tree, attributes, never)) == expected


def test_a_filter_over_no_items_matches_nothing():
    empty = Attributes.of_table(table_of([]))
    for tree in (Equals("brand", "Acme"), Exists("sale", False), Equals("colors", "red")):
        assert len(evaluate(tree, empty, never)) == 0


@pytest.fixture(scope="module")
def a_million():
    """A million rows, each with a keyword and a number of its own."""
    numbers = np.arange(1_000_000)
    skus = pa.array([f"sku-{number}" for number in numbers.tolist()])
    return Attributes.of_table(pa.table({"sku": skus, "price": numbers.astype(float)}))


@pytest.mark.parametrize("row", [0, 1, 123_456, 999_999])
def test_one_of_a_million_values_is_found(a_million, row):
    assert list(evaluate(Equals("sku", f"sku-{row}"), a_million, never)) == [row]


def test_ten_thousand_of_a_million_values_are_found_and_foreign_ones_match_nothing(a_million):
    rows = list(range(0, 1_000_000, 200))
    known, foreign = [f"sku-{row}" for row in rows], [f"sku-{row}x" for row in rows]
    tree = OneOf("sku", ("", *known[::-1], *foreign, known[0], "\U0010ffff"))
    assert list(evaluate(tree, a_million, never)) == rows
    numbers = OneOf("price", (-1.0, 1e9, *map(float, rows[::-1]), 0.5, 7.25, 0.0))
    assert list(evaluate(numbers, a_million, never)) == rows


class NobodyWaitsError(Exception):
    """The caller has gone."""


def test_a_filter_whose_caller_has_gone_ends_before_its_next_condition(attributes):
    tree = AllOf((Equals("brand", "Acme"), NoneOf((Exists("sale", True),)), Exists("price", True)))
    nodes = 5
    for told_after in range(nodes):
        calls = []

        def stop(told_after=told_after, calls=calls):
            calls.append(None)
            if len(calls) > told_after:
                raise NobodyWaitsError

        with pytest.raises(NobodyWaitsError):
            evaluate(tree, attributes, stop)
        assert len(calls) == told_after + 1


@pytest.mark.parametrize(
    ("tree", "field", "text"),
    [
        (Equals("brnd", "Acme"), "f.equals.attribute", "'brnd'; allowed an attribute known: added"),
        (Equals("brand", 5.0), "f.equals.value", "a keyword"),
        (Equals("sale", 1.0), "f.equals.value", "a bool"),
        (Equals("price", True), "f.equals.value", "a number"),
        (Equals("price", math.nan), "f.equals.value", "a finite number"),
        (OneOf("colors", ("red", 5.0)), "f.one_of.values[1]", "a keyword"),
        (OneOf("colors", ()), "f.one_of.values", "one value or more"),
        (Range("brand", Bound("a", True), None), "f.range.attribute", "this is a keyword"),
        (Range("sale", Bound(True, True), None), "f.range.attribute", "this is a bool"),
        (Range("price", None, None), "f.range", "a lower or an upper bound"),
        (Range("price", Bound(math.inf, True), None), "f.range.lower", "a finite number"),
        (Range("added", None, Bound(3.0, True)), "f.range.upper", "a time"),
        (Exists("nothing", True), "f.exists.attribute", "an attribute known"),
        (AllOf(()), "f.all_of.filters", "one filter or more"),
        (
            AllOf((AnyOf((Exists("sale", True), NoneOf((Equals("x", "y"),)))),)),
            "f.all_of.filters[0].any_of.filters[1].none_of.filters[0].equals.attribute",
            "'x'",
        ),
    ],
)
def test_a_bad_filter_is_refused_by_the_name_of_its_place(tree, field, text):
    with pytest.raises(InvalidArgument) as refused:
        check(tree, SCHEMA, FilterLimits(), "f")
    assert refused.value.field == field
    assert text in str(refused.value)


def test_a_filter_too_deep_is_refused():
    tree = Exists("sale", True)
    for _ in range(7):
        tree = AllOf((tree,))
    check(tree, SCHEMA, FilterLimits(), "f")
    with pytest.raises(InvalidArgument, match="8 levels at most"):
        check(AllOf((tree,)), SCHEMA, FilterLimits(), "f")


def test_a_filter_with_too_many_nodes_is_refused():
    tree = AnyOf(tuple(Exists("sale", True) for _ in range(1023)))
    check(tree, SCHEMA, FilterLimits(), "f")
    with pytest.raises(InvalidArgument, match="1024 nodes at most"):
        check(NoneOf((tree,)), SCHEMA, FilterLimits(), "f")


def test_a_filter_with_too_many_values_is_refused():
    half = OneOf("price", tuple(float(n) for n in range(5_000)))
    check(AnyOf((half, half)), SCHEMA, FilterLimits(), "f")
    with pytest.raises(InvalidArgument, match="10000 values at most"):
        check(AnyOf((half, half, Equals("price", 1.0))), SCHEMA, FilterLimits(), "f")
