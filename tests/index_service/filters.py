"""Any filter, what it means for one item, and how it looks on the wire."""

from hypothesis import strategies as st

from index_service.filter import (
    AllOf,
    AnyOf,
    Bound,
    Equals,
    Exists,
    NoneOf,
    OneOf,
    Range,
    Time,
)
from index_service.generation.manifest import AttributeKind
from protos.vitrine.v1 import types_pb2

SCHEMA = {
    "brand": AttributeKind.KEYWORD,
    "colors": AttributeKind.KEYWORD_LIST,
    "price": AttributeKind.NUMBER,
    "sale": AttributeKind.BOOL,
    "added": AttributeKind.TIME,
    "unused": AttributeKind.KEYWORD,
}
VALUES = {
    "brand": st.sampled_from(["Acme", "Böhm", "čapek", "日本", "", "acme", "zzz"]),
    "colors": st.sampled_from(["red", "pink", "blue", "Red"]),
    "price": st.sampled_from([-1.5, -0.0, 0.0, 9.99, 10.0, 25.0, 1e300]),
    "sale": st.booleans(),
    "added": st.builds(Time, st.integers(-4, 4).map(lambda day: day * 1_000_001)),
    "unused": st.just("x"),
}


def matches(tree, item):
    """Tell whether one item matches: what a filter means."""
    match tree:
        case AllOf(filters):
            return all(matches(each, item) for each in filters)
        case AnyOf(filters):
            return any(matches(each, item) for each in filters)
        case NoneOf(filters):
            return not any(matches(each, item) for each in filters)
        case Exists(attribute, present):
            return (attribute in item) == present
        case Equals(attribute, value):
            return value_in(item, attribute, [value])
        case OneOf(attribute, values):
            return value_in(item, attribute, values)
        case Range(attribute, lower, upper):
            return attribute in item and within(plain(item[attribute]), lower, upper)


def value_in(item, attribute, values):
    if attribute not in item:
        return False
    own = item[attribute] if isinstance(item[attribute], list) else [plain(item[attribute])]
    return any(plain(value) in own for value in values)


def plain(value):
    match value:
        case Time(micros) | ("time", micros):
            return micros
    return value


def within(value, lower, upper):
    above = lower is None or plain(lower.value) < value
    above = above or (lower.inclusive and plain(lower.value) == value)
    below = upper is None or value < plain(upper.value)
    below = below or (upper.inclusive and plain(upper.value) == value)
    return above and below


def leaves():
    names = st.sampled_from(sorted(SCHEMA))
    ordered = st.sampled_from(["price", "added"])
    bound = {
        name: st.none() | st.builds(Bound, VALUES[name], st.booleans())
        for name in ("price", "added")
    }
    return st.one_of(
        names.flatmap(lambda name: st.builds(Equals, st.just(name), VALUES[name])),
        names.flatmap(
            lambda name: st.builds(
                OneOf, st.just(name), st.lists(VALUES[name], min_size=1, max_size=12).map(tuple)
            )
        ),
        st.builds(Exists, names, st.booleans()),
        ordered.flatmap(lambda name: st.builds(Range, st.just(name), bound[name], bound[name])),
    ).filter(lambda leaf: not isinstance(leaf, Range) or bool(leaf.lower or leaf.upper))


def trees():
    """Make filters of every kind of node, for items of `catalogue.random_attributes`."""

    def branches(children):
        several = st.lists(children, min_size=1, max_size=4).map(tuple)
        return st.one_of(*(st.builds(kind, several) for kind in (AllOf, AnyOf, NoneOf)))

    return st.recursive(leaves(), branches, max_leaves=12)


def message_of(tree):
    """Return the wire form of a filter."""
    match tree:
        case AllOf(filters):
            return types_pb2.Filter(all_of=list_of(filters))
        case AnyOf(filters):
            return types_pb2.Filter(any_of=list_of(filters))
        case NoneOf(filters):
            return types_pb2.Filter(none_of=list_of(filters))
        case Equals(attribute, value):
            leaf = types_pb2.EqualsFilter(attribute=attribute, value=value_of(value))
            return types_pb2.Filter(equals=leaf)
        case OneOf(attribute, values):
            leaf = types_pb2.OneOfFilter(attribute=attribute, values=map(value_of, values))
            return types_pb2.Filter(one_of=leaf)
        case Exists(attribute, present):
            return types_pb2.Filter(
                exists=types_pb2.ExistsFilter(attribute=attribute, present=present)
            )
        case Range(attribute, lower, upper):
            leaf = types_pb2.RangeFilter(attribute=attribute)
            for bound, names in ((lower, ("gt", "gte")), (upper, ("lt", "lte"))):
                if bound is not None:
                    getattr(leaf, names[bound.inclusive]).CopyFrom(value_of(bound.value))
            return types_pb2.Filter(range=leaf)


def list_of(filters):
    return types_pb2.FilterList(filters=map(message_of, filters))


def value_of(value):
    match value:
        case bool():
            return types_pb2.FilterValue(flag=value)
        case str():
            return types_pb2.FilterValue(keyword=value)
        case float():
            return types_pb2.FilterValue(number=value)
        case Time(micros):
            message = types_pb2.FilterValue()
            message.time.FromMicroseconds(micros)
            return message
