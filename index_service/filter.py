"""Conditions on attributes: a tree of plain values, checked against a schema, then evaluated."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pyroaring import BitMap

from index_service.attributes import Attributes, Value
from index_service.generation.manifest import AttributeKind
from rpc.errors import InvalidArgument

_NODE_BYTES = 256
_ORDERED = (AttributeKind.NUMBER, AttributeKind.TIME)


@dataclass(frozen=True, slots=True)
class Time:
    """A point in time, in microseconds since 1970-01-01 UTC."""

    micros: int


FilterValue = str | float | bool | Time


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every filter in it matches."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one filter in it matches."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """No filter in it matches."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Equals:
    """The attribute equals a value; a list, when any of its keywords does."""

    attribute: str
    value: FilterValue


@dataclass(frozen=True, slots=True)
class OneOf:
    """The attribute equals one of the values."""

    attribute: str
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range."""

    value: FilterValue
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Range:
    """The attribute lies between two bounds; None is unbounded."""

    attribute: str
    lower: Bound | None
    upper: Bound | None


@dataclass(frozen=True, slots=True)
class Exists:
    """The attribute is present, or absent."""

    attribute: str
    present: bool


Branch = AllOf | AnyOf | NoneOf
Leaf = Equals | OneOf | Range | Exists
Filter = Branch | Leaf

_BRANCH_NAMES = {AllOf: "all_of", AnyOf: "any_of", NoneOf: "none_of"}
_LEAF_NAMES = {Equals: "equals", OneOf: "one_of", Range: "range", Exists: "exists"}


@dataclass(frozen=True, slots=True)
class FilterLimits:
    """How large a filter may be."""

    depth_max: int = 8
    nodes_max: int = 1_024
    values_max: int = 10_000


def check(
    tree: Filter, schema: Mapping[str, AttributeKind], limits: FilterLimits, field: str
) -> None:
    """Refuse a filter that is too large or does not fit the attributes.

    Args:
        tree: the filter.
        schema: the kind of every attribute known.
        limits: how large it may be.
        field: the filter's place in the request, for errors.

    Raises:
        InvalidArgument: names the place inside the filter, its value and what is allowed.
    """
    values = 0
    for nodes, (node, place, depth) in enumerate(_walk(tree, field, 1), start=1):
        if depth > limits.depth_max:
            raise InvalidArgument(place, f"at level {depth}", f"{limits.depth_max} levels at most")
        if nodes > limits.nodes_max:
            raise InvalidArgument(field, "larger", f"{limits.nodes_max} nodes at most")
        if isinstance(node, Leaf):
            values += _check_leaf(node, schema, place)
        elif not node.filters:
            raise InvalidArgument(f"{place}.filters", "empty", "one filter or more")
        if values > limits.values_max:
            raise InvalidArgument(field, "larger", f"{limits.values_max} values at most, in all")


def evaluate(tree: Filter, attributes: Attributes, stop: Callable[[], None]) -> BitMap:
    """Return the rows that match a checked filter, exactly.

    Args:
        tree: the filter.
        attributes: the columns that it asks.
        stop: called before each condition; raises when nobody waits for the answer any more.
    """

    def rows_of(node: Filter) -> BitMap:
        stop()
        match node:
            case AllOf(filters):
                return BitMap.intersection(*map(rows_of, filters))
            case AnyOf(filters):
                return BitMap.union(*map(rows_of, filters))
            case NoneOf(filters):
                return attributes.all_rows - BitMap.union(*map(rows_of, filters))
            case Equals(attribute, value):
                return attributes.one_of(attribute, (_plain(value),))
            case OneOf(attribute, values):
                return attributes.one_of(attribute, [_plain(value) for value in values])
            case Range(attribute, lower, upper):
                return attributes.between(attribute, _plain_bound(lower), _plain_bound(upper))
            case Exists(attribute, present):
                having = attributes.present(attribute)
                return having if present else attributes.all_rows - having

    return rows_of(tree)


def size_of(tree: Filter) -> int:
    """Return about how many bytes of memory a filter takes."""
    return sum(_node_bytes(node) for node, _, _ in _walk(tree, "", 1))


def _walk(node: Filter, field: str, depth: int) -> Iterator[tuple[Filter, str, int]]:
    """Yield every node with its place and level, parents first."""
    if isinstance(node, Leaf):
        yield node, f"{field}.{_LEAF_NAMES[type(node)]}", depth
        return
    place = f"{field}.{_BRANCH_NAMES[type(node)]}"
    yield node, place, depth
    for number, child in enumerate(node.filters):
        yield from _walk(child, f"{place}.filters[{number}]", depth + 1)


def _node_bytes(node: Filter) -> int:
    values: Iterable[object] = ()
    match node:
        case OneOf(_, many):
            values = many
        case Equals(_, value):
            values = (value,)
        case Range(_, lower, upper):
            values = (lower, upper)
    # A pointer to each; an attribute's name, or the tuple of children.
    return _NODE_BYTES + sum(sys.getsizeof(value) + 8 for value in values)


def _check_leaf(leaf: Leaf, schema: Mapping[str, AttributeKind], place: str) -> int:
    """Check one leaf; return how many values it holds."""
    kind = schema.get(leaf.attribute)
    if kind is None:
        known = ", ".join(sorted(schema)[:20]) or "none; the generation has no attributes"
        raise InvalidArgument(f"{place}.attribute", leaf.attribute, f"an attribute known: {known}")
    match leaf:
        case Equals(_, value):
            _check_value(value, kind, leaf.attribute, f"{place}.value")
            return 1
        case OneOf(_, values):
            if not values:
                raise InvalidArgument(f"{place}.values", "empty", "one value or more")
            for number, value in enumerate(values):
                _check_value(value, kind, leaf.attribute, f"{place}.values[{number}]")
            return len(values)
        case Range():
            return _check_range(leaf, kind, place)
        case Exists():
            return 0


def _check_range(leaf: Range, kind: AttributeKind, place: str) -> int:
    if kind not in _ORDERED:
        raise InvalidArgument(
            f"{place}.attribute", leaf.attribute, f"a number or time attribute; this is a {kind}"
        )
    if leaf.lower is None and leaf.upper is None:
        raise InvalidArgument(place, "without bounds", "a lower or an upper bound, or both")
    for side, bound in (("lower", leaf.lower), ("upper", leaf.upper)):
        if bound is not None:
            _check_value(bound.value, kind, leaf.attribute, f"{place}.{side}")
    return 2


_FITS: dict[AttributeKind, Callable[[FilterValue], bool]] = {
    AttributeKind.KEYWORD: lambda value: isinstance(value, str),
    AttributeKind.KEYWORD_LIST: lambda value: isinstance(value, str),
    AttributeKind.NUMBER: lambda value: isinstance(value, float),
    AttributeKind.BOOL: lambda value: isinstance(value, bool),
    AttributeKind.TIME: lambda value: isinstance(value, Time),
}


def _check_value(value: FilterValue, kind: AttributeKind, attribute: str, place: str) -> None:
    if not _FITS[kind](value):
        wanted = "keyword" if kind is AttributeKind.KEYWORD_LIST else str(kind)
        raise InvalidArgument(place, value, f"a {wanted}, the kind of attribute {attribute!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgument(place, value, "a finite number")


def _plain(value: FilterValue) -> Value:
    return value.micros if isinstance(value, Time) else value


def _plain_bound(bound: Bound | None) -> tuple[Value, bool] | None:
    return None if bound is None else (_plain(bound.value), bound.inclusive)
