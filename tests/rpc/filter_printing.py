"""Trees written as expressions: the inverse that parsing is tested against."""

import re
from collections.abc import Sequence
from math import isfinite

from protos.vitrine.v1.types_pb2 import Filter, FilterList, FilterValue
from rpc.errors import InvalidArgument

_KEYWORDS = frozenset({"and", "or", "not", "in", "between", "exists", "true", "false"})
_PLAIN_NAME = re.compile(r"[^\W\d][\w.]*")


def format_filter(tree: Filter) -> str:
    """Return an expression for a tree; parsing it gives a tree that matches the same items.

    Raises:
        InvalidArgument: the tree has an empty node, or a value that cannot be written.
    """
    match tree.WhichOneof("node"):
        case "all_of":
            return _joined(tree.all_of, " AND ")
        case "any_of":
            return _joined(tree.any_of, " OR ")
        case "none_of":
            return _format_none_of(tree.none_of)
        case "equals":
            return f"{_name(tree.equals.attribute)} = {_value(tree.equals.value)}"
        case "one_of":
            return f"{_name(tree.one_of.attribute)} IN ({_values(tree.one_of.values)})"
        case "range":
            return _format_range(tree)
        case "exists":
            return _format_exists(tree)
    raise InvalidArgument("filter", "an empty node", "one condition in every node")


def _joined(children: FilterList, operator: str) -> str:
    """Return the children with an operator between them, nested trees in parentheses."""
    if not children.filters:
        raise InvalidArgument("filter", "an empty list", "at least one condition")
    if len(children.filters) == 1:
        return format_filter(children.filters[0])
    return operator.join(_grouped(child) for child in children.filters)


def _grouped(child: Filter) -> str:
    text = format_filter(child)
    return f"({text})" if _binds_loosely(child) else text


def _binds_loosely(tree: Filter) -> bool:
    """Tell whether a tree is written with AND or OR at its top."""
    kind = tree.WhichOneof("node")
    if kind not in ("all_of", "any_of"):
        return False
    children = getattr(tree, kind).filters
    return len(children) > 1 or _binds_loosely(children[0])


def _format_none_of(children: FilterList) -> str:
    if len(children.filters) == 1:
        only = children.filters[0]
        match only.WhichOneof("node"):
            case "equals":
                return f"{_name(only.equals.attribute)} != {_value(only.equals.value)}"
            case "one_of":
                return f"{_name(only.one_of.attribute)} NOT IN ({_values(only.one_of.values)})"
    return f"NOT ({_joined(children, ' OR ')})"


def _format_range(tree: Filter) -> str:
    bounds, name = tree.range, _name(tree.range.attribute)
    lower, upper = bounds.WhichOneof("lower"), bounds.WhichOneof("upper")
    under = {"lt": "<", "lte": "<="}
    if lower and upper:
        over = {"gt": "<", "gte": "<="}[lower]
        low, high = _value(getattr(bounds, lower)), _value(getattr(bounds, upper))
        return f"{low} {over} {name} {under[upper]} {high}"
    if side := lower or upper:
        operator = {"gt": ">", "gte": ">=", **under}[side]
        return f"{name} {operator} {_value(getattr(bounds, side))}"
    raise InvalidArgument("filter", f"a range of {name} without a bound", "at least one bound")


def _format_exists(tree: Filter) -> str:
    name = _name(tree.exists.attribute)
    wanted = not tree.exists.HasField("present") or tree.exists.present
    return f"EXISTS({name})" if wanted else f"{name} NOT EXISTS"


def _name(attribute: str) -> str:
    plain = _PLAIN_NAME.fullmatch(attribute) and attribute.lower() not in _KEYWORDS
    if plain:
        return attribute
    if not attribute or "`" in attribute:
        raise InvalidArgument("filter", f"an attribute called {attribute!r}", "a name without `")
    return f"`{attribute}`"


def _values(values: Sequence[FilterValue]) -> str:
    return ", ".join(_value(each) for each in values)


def _value(value: FilterValue) -> str:
    match value.WhichOneof("kind"):
        case "keyword":
            return _quoted(value.keyword)
        case "number" if isfinite(value.number):
            return repr(value.number).removesuffix(".0")
        case "flag":
            return "true" if value.flag else "false"
        case "time":
            return f'time("{value.time.ToJsonString()}")'
    raise InvalidArgument("filter", "a value that is missing or not finite", "a finite value")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return '"' + escaped.replace("\n", r"\n").replace("\t", r"\t").replace("\r", r"\r") + '"'
