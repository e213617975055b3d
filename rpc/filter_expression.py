r"""Filters as people type them, turned into the typed tree.

    brand = "Acme" AND price < 50 AND color IN ("red", "pink")

| written                                           | matches items whose                        |
|---------------------------------------------------|--------------------------------------------|
| `brand = "Acme"`, `in_stock = true`, `size = 42`  | attribute equals the value (`==` too)      |
| `brand != "Acme"` (`<>` too)                      | attribute differs, or is absent            |
| `price < 50`, `<=`, `>`, `>=`                     | number or time lies on that side           |
| `10 <= price < 50`, `price BETWEEN 10 AND 50`     | number or time lies in the range           |
| `color IN ("red", "pink")`, `color NOT IN (...)`  | attribute is, or is not, one of the values |
| `EXISTS(color)`, `color EXISTS`                   | attribute is present                       |
| `color NOT EXISTS`                                | attribute is absent                        |
| `a AND b`, `a OR b`, `NOT a`, `(a)`               | both, either, not; NOT binds tightest      |

Texts stand in double or single quotes, with `\"`, `\'`, `\\`, `\n`, `\t`, `\r` and `\uXXXX` inside;
times are ISO 8601 inside `time("2024-01-01T12:30:00Z")`, UTC where no offset is given. Keywords may
be written in any case; an attribute that is called like one stands in backquotes: `` `in` = 1 ``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from math import isfinite
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, v_args

from protos.vitrine.v1.types_pb2 import Filter, FilterList, FilterValue
from rpc.errors import InvalidArgument, VitrineError

FILTER_CHARS_MAX = 1024 * 1024
DEPTH_MAX = 8
NODES_MAX = 1_024
CHILDREN_MAX = 256
VALUES_MAX = 10_000
NAME_CHARS_MAX = 64

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\"}
_EXCERPT_CHARS = 60

_A_VALUE = 'a value ("red", 50, true or time("2024-01-01"))'
_EXPECTED = {
    "NAME": "an attribute name",
    "QUOTED_NAME": "an attribute name",
    "STRING": _A_VALUE,
    "NUMBER": _A_VALUE,
    "TRUE": _A_VALUE,
    "FALSE": _A_VALUE,
    "_TIME": _A_VALUE,
    "EQUALS": "=",
    "UNEQUAL": "!=",
    "LESS": "< or <=",
    "GREATER": "> or >=",
    "LPAR": "(",
    "RPAR": ")",
    "COMMA": ",",
    "$END": "the end",
}


class FilterSyntaxError(InvalidArgument):
    """A filter expression that cannot be understood; shows where, and what is allowed there."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        message = f"filter is wrong at character {position + 1}: {problem}"
        VitrineError.__init__(self, f"{message}\n{_pointed_at(text, position)}")
        self.field = "filter"
        self.allowed = problem


def parse_filter(text: str) -> Filter:
    """Return the tree that an expression stands for.

    Raises:
        InvalidArgument: it cannot be understood, or is too large; points at the place.

    >>> parse_filter('price < 50').range.lt.number
    50.0
    """
    _require_parsable(text)
    try:
        tree: Any = _parser().parse(text)
    except UnexpectedInput as exc:
        raise _syntax_error(text, exc) from None
    except _NotAllowed as exc:
        raise FilterSyntaxError(text, exc.position, exc.problem) from None
    assert isinstance(tree, _Tree)
    return tree.filter


def _require_parsable(text: str) -> None:
    if len(text) > FILTER_CHARS_MAX:
        raise InvalidArgument(
            "filter", f"{len(text)} characters", f"at most {FILTER_CHARS_MAX} characters"
        )
    if not text.strip():
        raise InvalidArgument("filter", text, "a condition, as in price < 50")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise FilterSyntaxError(ascii(text), exc.start, "only UTF-8 text is allowed") from None


@dataclass(frozen=True, slots=True)
class _Tree:
    """A filter under construction, measured."""

    filter: Filter
    depth: int = 1
    nodes: int = 1
    values: int = 0


@dataclass(frozen=True, slots=True)
class _Value:
    """A value, and where it stands."""

    value: FilterValue
    position: int


class _NotAllowed(Exception):
    """Well-formed, but not allowed; says where."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position = position
        self.problem = problem


class _TreeBuilder(Transformer[Token, Any]):
    """Builds the tree while the text is parsed, bottom up, so that no depth can overflow."""

    any_of = staticmethod(lambda children: _combined("any_of", children))
    all_of = staticmethod(lambda children: _combined("all_of", children))
    none_of = staticmethod(lambda children: _combined("none_of", children))

    @v_args(inline=True)
    def equals(self, name: str, _: Token, value: _Value) -> _Tree:
        return _leaf(1, equals={"attribute": name, "value": value.value})

    @v_args(inline=True)
    def unequal(self, name: str, _: Token, value: _Value) -> _Tree:
        return _combined("none_of", [self.equals(name, _, value)])

    @v_args(inline=True)
    def bounded(self, name: str, operator: Token, value: _Value) -> _Tree:
        side = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[operator]
        return _range(name, {side: value})

    @v_args(inline=True)
    def within(self, low: _Value, over: Token, name: str, under: Token, high: _Value) -> _Tree:
        lower = "gte" if over == "<=" else "gt"
        upper = "lte" if under == "<=" else "lt"
        return _range(name, {lower: low, upper: high})

    @v_args(inline=True)
    def between(self, name: str, low: _Value, high: _Value) -> _Tree:
        return _range(name, {"gte": low, "lte": high})

    def one_of(self, children: list[Any]) -> _Tree:
        name, *values = children
        if len(values) > VALUES_MAX:
            raise _NotAllowed(values[VALUES_MAX].position, f"at most {VALUES_MAX} values")
        return _leaf(
            len(values), one_of={"attribute": name, "values": [each.value for each in values]}
        )

    def not_one_of(self, children: list[Any]) -> _Tree:
        return _combined("none_of", [self.one_of(children)])

    @v_args(inline=True)
    def exists(self, name: str) -> _Tree:
        return _leaf(0, exists={"attribute": name})

    @v_args(inline=True)
    def absent(self, name: str) -> _Tree:
        return _leaf(0, exists={"attribute": name, "present": False})

    @v_args(inline=True)
    def plain_name(self, token: Token) -> str:
        return _checked_name(token, str(token))

    @v_args(inline=True)
    def quoted_name(self, token: Token) -> str:
        return _checked_name(token, token[1:-1])

    @v_args(inline=True)
    def keyword(self, token: Token) -> _Value:
        return _Value(FilterValue(keyword=_unquoted(token)), _position(token))

    @v_args(inline=True)
    def number(self, token: Token) -> _Value:
        number = float(token)
        if not isfinite(number):
            raise _NotAllowed(_position(token), "the number is too large for a double")
        return _Value(FilterValue(number=number), _position(token))

    @v_args(inline=True)
    def true(self, token: Token) -> _Value:
        return _Value(FilterValue(flag=True), _position(token))

    @v_args(inline=True)
    def false(self, token: Token) -> _Value:
        return _Value(FilterValue(flag=False), _position(token))

    @v_args(inline=True)
    def time(self, token: Token) -> _Value:
        return _Value(FilterValue(time=_instant(token)), _position(token))


@cache
def _parser() -> Lark:
    return Lark.open(
        "filter_expression.lark", rel_to=__file__, parser="lalr", transformer=_TreeBuilder()
    )


def _leaf(values: int, **node: Any) -> _Tree:
    return _Tree(Filter(**node), values=values)


def _range(name: str, bounds: dict[str, _Value]) -> _Tree:
    for bound in bounds.values():
        if bound.value.WhichOneof("kind") not in ("number", "time"):
            raise _NotAllowed(bound.position, 'a range takes a number or time("...")')
    values = {side: bound.value for side, bound in bounds.items()}
    return _leaf(len(bounds), range={"attribute": name, **values})


def _combined(kind: str, children: Sequence[_Tree]) -> _Tree:
    """Return a node over its children, within the limits.

    Raises:
        _NotAllowed: too deep, too many nodes or too many values.
    """
    node: dict[str, Any] = {kind: FilterList(filters=[child.filter for child in children])}
    tree = _Tree(
        Filter(**node),
        depth=1 + max(child.depth for child in children),
        nodes=1 + sum(child.nodes for child in children),
        values=sum(child.values for child in children),
    )
    for what, size, most in (
        ("levels", tree.depth, DEPTH_MAX),
        ("conditions", tree.nodes, NODES_MAX),
        ("conditions joined by one AND or OR", len(children), CHILDREN_MAX),
        ("values", tree.values, VALUES_MAX),
    ):
        if size > most:
            raise _NotAllowed(0, f"it has {size} {what}; at most {most} are allowed")
    return tree


def _checked_name(token: Token, name: str) -> str:
    if len(name) > NAME_CHARS_MAX:
        raise _NotAllowed(
            _position(token), f"an attribute name has at most {NAME_CHARS_MAX} characters"
        )
    return name


def _unquoted(token: Token) -> str:
    """Return the text inside a quoted token, escapes resolved."""

    def resolve(escape: re.Match[str]) -> str:
        code, character = escape.groups()
        if code is not None:
            return chr(int(code, 16))
        if character not in _ESCAPED:
            position = _position(token) + 1 + escape.start()
            raise _NotAllowed(position, r"""after \ only \ " ' n t r or uXXXX is allowed""")
        return _ESCAPED[character]

    text = _ESCAPE.sub(resolve, token[1:-1])
    # Two escapes may form one character outside the basic plane; one alone is no text at all.
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _NotAllowed(_position(token), r"\uD800..\uDFFF only make sense in pairs") from None


def _instant(token: Token) -> Timestamp:
    try:
        instant = datetime.fromisoformat(_unquoted(token))
        aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
        timestamp = Timestamp()
        timestamp.FromDatetime(aware.astimezone(UTC))
    except (ValueError, OverflowError):
        problem = "a time is written as 2024-01-31 or 2024-01-31T12:30:00Z"
        raise _NotAllowed(_position(token), problem) from None
    return timestamp


def _position(token: Token) -> int:
    return token.start_pos or 0


def _syntax_error(text: str, error: UnexpectedInput) -> FilterSyntaxError:
    """Return our error for lark's: where it stopped, and what could have stood there."""
    token = getattr(error, "token", None)
    at_end = isinstance(token, Token) and token.type == "$END"
    position = len(text) if at_end else max(error.pos_in_stream or 0, 0)
    unclosed = isinstance(error, UnexpectedCharacters) and text[position] in "\"'`"
    if unclosed:
        return FilterSyntaxError(text, position, "this quote is never closed, or stands wrongly")
    allowed = getattr(error, "accepts", None) or getattr(error, "allowed", None) or set()
    words = sorted({_EXPECTED.get(name, name.strip("_")) for name in allowed})
    return FilterSyntaxError(text, position, f"expected {' or '.join(words)}")


def _pointed_at(text: str, position: int) -> str:
    """Return two lines: the text around a position, and a caret below it."""
    start = max(0, position - _EXCERPT_CHARS // 2)
    excerpt = re.sub(r"\s", " ", text[start : start + _EXCERPT_CHARS])
    before = "..." if start else ""
    after = "..." if start + _EXCERPT_CHARS < len(text) else ""
    caret = " " * (len(before) + position - start)
    return f"  {before}{excerpt}{after}\n  {caret}^"
