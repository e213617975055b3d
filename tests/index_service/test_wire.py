"""Filters on the wire: what arrives is what was meant."""

import operator

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from index_service.filter import Bound, Equals, FilterLimits, Range, Time
from index_service.wire import filter_of
from protos.vitrine.v1 import types_pb2
from rpc.errors import InvalidArgument
from tests.index_service.filters import SCHEMA, matches, message_of, trees

MEANINGS = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def levels(tree):
    return 1 + max(map(levels, getattr(tree, "filters", ())), default=0)


@settings(max_examples=200, deadline=None)
@given(tree=trees())
def test_any_filter_arrives_as_it_was_sent(tree):
    assume(levels(tree) <= FilterLimits().depth_max)
    sent = message_of(tree).SerializeToString()
    assert filter_of(types_pb2.Filter.FromString(sent), SCHEMA, "filter") == tree


def at_nanos(nanos):
    """Return a time on the wire, in nanoseconds since 1970."""
    value = types_pb2.FilterValue()
    value.time.FromNanoseconds(nanos)
    return value


@settings(max_examples=300, deadline=None)
@given(
    side=st.sampled_from(sorted(MEANINGS)),
    nanos=st.integers(-5_000, 5_000),
    micros=st.integers(-6, 6),
)
def test_a_bound_between_two_microseconds_drops_no_row_and_adds_none(side, nanos, micros):
    leaf = types_pb2.RangeFilter(attribute="added", **{side: at_nanos(nanos)})
    tree = filter_of(types_pb2.Filter(range=leaf), SCHEMA, "filter")
    assert matches(tree, {"added": ("time", micros)}) == MEANINGS[side](micros * 1_000, nanos)


def test_a_range_may_end_with_time_itself():
    last = 253_402_300_799 * 10**9 + 999_999_999
    leaf = types_pb2.RangeFilter(attribute="added", lt=at_nanos(last), gte=at_nanos(-1))
    tree = filter_of(types_pb2.Filter(range=leaf), SCHEMA, "filter")
    after = (last + 1) // 1_000
    assert tree == Range("added", Bound(Time(0), True), Bound(Time(after), False))


def test_a_time_to_be_equalled_is_cut_to_microseconds_as_those_of_items_are():
    leaf = types_pb2.EqualsFilter(attribute="added", value=at_nanos(5_999))
    tree = filter_of(types_pb2.Filter(equals=leaf), SCHEMA, "filter")
    assert tree == Equals("added", Time(5))


@pytest.mark.parametrize(("seconds", "nanos"), [(0, -1), (0, 10**9), (253_402_300_800, 0)])
def test_a_time_that_is_none_is_refused(seconds, nanos):
    value = types_pb2.FilterValue()
    value.time.seconds, value.time.nanos = seconds, nanos
    leaf = types_pb2.RangeFilter(attribute="added", lt=value)
    with pytest.raises(InvalidArgument, match="a time from the year 1"):
        filter_of(types_pb2.Filter(range=leaf), SCHEMA, "filter")
