"""Filter expressions: what each form means, where errors point, and that printing is faithful."""

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from protos.vitrine.v1.types_pb2 import Filter, FilterValue
from rpc.errors import InvalidArgument
from rpc.filter_expression import CHILDREN_MAX, DEPTH_MAX, NODES_MAX, parse_filter
from tests.rpc.filter_printing import format_filter


def equals(attribute: str, **value) -> dict:
    return {"equals": {"attribute": attribute, "value": value}}


def bounded(attribute: str, **bounds) -> dict:
    return {"range": {"attribute": attribute, **{k: {"number": v} for k, v in bounds.items()}}}


def all_of(*filters) -> dict:
    return {"all_of": {"filters": filters}}


def any_of(*filters) -> dict:
    return {"any_of": {"filters": filters}}


def none_of(*filters) -> dict:
    return {"none_of": {"filters": filters}}


A, B, C = equals("a", number=1), equals("b", number=2), equals("c", number=3)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('brand = "Acme"', equals("brand", keyword="Acme")),
        ("brand == 'Acme'", equals("brand", keyword="Acme")),
        ("in_stock = TRUE", equals("in_stock", flag=True)),
        ("in_stock = false", equals("in_stock", flag=False)),
        ("a.b_2 = -1.5e3", equals("a.b_2", number=-1500)),
        ("`in` = 1", equals("in", number=1)),
        ("inside = 1", equals("inside", number=1)),
        ("time = 1", equals("time", number=1)),
        ("größe = 42", equals("größe", number=42)),
        ("a != 1", none_of(A)),
        ("a <> 1", none_of(A)),
        ("a < 1", bounded("a", lt=1)),
        ("a <= 1", bounded("a", lte=1)),
        ("a > 1", bounded("a", gt=1)),
        ("a >= 1", bounded("a", gte=1)),
        ("1 <= a < 2", bounded("a", gte=1, lt=2)),
        ("1 < a <= 2", bounded("a", gt=1, lte=2)),
        ("a BETWEEN 1 AND 2 and b=2", all_of(bounded("a", gte=1, lte=2), B)),
        ("a IN (1)", {"one_of": {"attribute": "a", "values": [{"number": 1}]}}),
        (
            "c in ('x', \"y\")",
            {"one_of": {"attribute": "c", "values": [{"keyword": "x"}, {"keyword": "y"}]}},
        ),
        ("a NOT IN (1)", none_of({"one_of": {"attribute": "a", "values": [{"number": 1}]}})),
        ("EXISTS(a)", {"exists": {"attribute": "a"}}),
        ("a exists", {"exists": {"attribute": "a"}}),
        ("a not exists", {"exists": {"attribute": "a", "present": False}}),
        ("NOT EXISTS (a)", none_of({"exists": {"attribute": "a"}})),
        ("a=1 AND b=2 AND c=3", all_of(A, B, C)),
        ("a=1 or b=2 and c=3", any_of(A, all_of(B, C))),
        ("(a=1 OR b=2) AND c=3", all_of(any_of(A, B), C)),
        ("NOT a=1 AND b=2", all_of(none_of(A), B)),
        ("NOT (a=1 AND b=2)", none_of(all_of(A, B))),
        ("((((((((((a=1))))))))))", A),
    ],
)
def test_an_expression_means_its_tree(text, tree):
    assert parse_filter(text) == Filter(**tree)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r'"say \"hi\""', 'say "hi"'),
        (r"'it\'s'", "it's"),
        (r'"it' + "'" + r's"', "it's"),
        (r'"a\\b\n\t\r"', "a\\b\n\t\r"),
        (r'"\u00e9\ud83d\ude00"', "é😀"),
        ('""', ""),
        ('"AND OR ) ("', "AND OR ) ("),
    ],
)
def test_quotes_and_escapes(written, text):
    assert parse_filter(f"a = {written}").equals.value.keyword == text


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2024-01-31", datetime(2024, 1, 31, tzinfo=UTC)),
        ("2024-01-31T12:30:00Z", datetime(2024, 1, 31, 12, 30, tzinfo=UTC)),
        ("2024-01-31T12:30:00+02:00", datetime(2024, 1, 31, 10, 30, tzinfo=UTC)),
        ("2024-01-31T12:30:00.000001", datetime(2024, 1, 31, 12, 30, 0, 1, tzinfo=UTC)),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(written, instant):
    expected = Timestamp()
    expected.FromDatetime(instant)
    assert parse_filter(f'a >= time("{written}")').range.gte.time == expected
    assert parse_filter(f"a >= TIME ( '{written}' )").range.gte.time == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("brand = AND price < 5", 9, "a value"),
        ("brand = Acme", 9, '"red"'),
        ("a", 2, "="),
        ("a = 1 b", 7, "AND"),
        ("(a = 1", 7, ")"),
        ("a = 1)", 6, "the end"),
        ("a = 5x", 5, "a value"),
        ("= 5", 1, "an attribute name"),
        ("a IN ()", 7, "a value"),
        ("a IN (1 2)", 9, ","),
        ('a = "open', 5, "quote"),
        ('a < "red"', 5, "number or time"),
        ("true < a < 3", 1, "number or time"),
        (r'a = "\q"', 6, "after \\"),
        (r'a = "\ud800"', 5, "pairs"),
        ('a = time("yesterday")', 10, "2024-01-31"),
        ('a = time("9999-12-31T23:59:59-14:00")', 10, "2024-01-31"),
        ("a = 1e999", 5, "too large"),
        (f"{'n' * 65} = 1", 1, "64 characters"),
        ("a @ 1", 3, "="),
        ("a = '\udcff'", 6, "UTF-8"),
    ],
)
def test_an_error_points_at_its_place_and_says_what_is_allowed(text, position, words):
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(text)
    message, excerpt, caret = str(caught.value).split("\n")
    assert f"character {position}:" in message
    assert words in message
    assert caught.value.field == "filter"
    assert len(caret) - 2 == position or not text.isprintable(), (excerpt, caret)


def test_the_caret_stands_below_the_error_in_a_long_text():
    text = "a = 1 AND\n" * 50 + "a = ? AND " + "a = 1 AND " * 50
    with pytest.raises(InvalidArgument) as caught:
        parse_filter(text)
    _, excerpt, caret = str(caught.value).split("\n")
    assert excerpt[caret.index("^")] == "?"
    assert len(excerpt) < 80


@pytest.mark.parametrize("text", ["", "  \n", "x" * 2_000_000], ids=["empty", "blank", "huge"])
def test_empty_and_huge_texts_are_refused(text):
    with pytest.raises(InvalidArgument, match="filter is"):
        parse_filter(text)


def test_size_limits_are_met_exactly_and_not_passed():
    fits = "NOT " * (DEPTH_MAX - 1) + "a = 1"
    assert parse_filter(fits).WhichOneof("node") == "none_of"
    with pytest.raises(InvalidArgument, match=f"{DEPTH_MAX + 1} levels"):
        parse_filter(f"NOT {fits}")

    assert len(parse_filter(" OR ".join(["a=1"] * CHILDREN_MAX)).any_of.filters) == CHILDREN_MAX
    with pytest.raises(InvalidArgument, match=f"{CHILDREN_MAX + 1} conditions joined"):
        parse_filter(" OR ".join(["a=1"] * (CHILDREN_MAX + 1)))

    group = "(" + " OR ".join(["a=1"] * 200) + ")"
    with pytest.raises(InvalidArgument, match=f"at most {NODES_MAX}"):
        parse_filter(" AND ".join([group] * 6))

    assert len(parse_filter(f"a IN ({','.join(['1'] * 10_000)})").one_of.values) == 10_000
    with pytest.raises(InvalidArgument, match="at most 10000 values"):
        parse_filter(f"a IN ({','.join(['1'] * 10_001)})")


def test_deep_parentheses_do_not_overflow():
    assert parse_filter("(" * 50_000 + "a = 1" + ")" * 50_000) == Filter(**A)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"all_of": {}},
        {"range": {"attribute": "a"}},
        {"equals": {"attribute": "a"}},
        {"equals": {"attribute": "", "value": {"number": 1}}},
        {"equals": {"attribute": "a", "value": {"number": float("nan")}}},
    ],
)
def test_a_tree_that_cannot_be_written_is_refused(tree):
    with pytest.raises(InvalidArgument, match="filter is"):
        format_filter(Filter(**tree))


NAMES = st.sampled_from(["a", "b.c", "in", "TRUE", "time", "with space", "größe"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
KEYWORDS = st.text(max_size=8) | st.sampled_from(["red", 'quo"te', "back\\slash", "it's", "\n\t\r"])
SECONDS = st.integers(-62_135_596_800, 253_402_300_799)


def times() -> st.SearchStrategy[Timestamp]:
    micros = st.integers(0, 999_999)
    return st.builds(lambda s, us: Timestamp(seconds=s, nanos=us * 1000), SECONDS, micros)


RANGE_VALUES = st.builds(FilterValue, number=NUMBERS) | st.builds(FilterValue, time=times())
VALUES = (
    RANGE_VALUES
    | st.builds(FilterValue, keyword=KEYWORDS)
    | st.builds(FilterValue, flag=st.booleans())
)


@st.composite
def leaves(draw) -> Filter:
    name = draw(NAMES)
    kind = draw(st.sampled_from(["equals", "one_of", "range", "exists"]))
    if kind == "equals":
        return Filter(equals={"attribute": name, "value": draw(VALUES)})
    if kind == "one_of":
        values = draw(st.lists(VALUES, min_size=1, max_size=3))
        return Filter(one_of={"attribute": name, "values": values})
    if kind == "exists":
        present = draw(st.sampled_from([{}, {"present": False}]))
        return Filter(exists={"attribute": name, **present})
    lower = draw(st.sampled_from(["", "gt", "gte"]))
    upper = draw(st.sampled_from(["", "lt", "lte"] if lower else ["lt", "lte"]))
    bounds = {side: draw(RANGE_VALUES) for side in (lower, upper) if side}
    return Filter(range={"attribute": name, **bounds})


def parents(children: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(children, min_size=2, max_size=3)
    return (
        several.map(lambda filters: Filter(all_of={"filters": filters}))
        | several.map(lambda filters: Filter(any_of={"filters": filters}))
        | children.map(lambda child: Filter(none_of={"filters": [child]}))
    )


def depth(tree: Filter) -> int:
    node = getattr(tree, tree.WhichOneof("node"))
    return 1 + max((depth(child) for child in getattr(node, "filters", ())), default=0)


# Trees as the parser makes them: lists of two and more, one condition under a NOT.
TREES = st.recursive(leaves(), parents, max_leaves=8).filter(lambda tree: depth(tree) <= DEPTH_MAX)


@given(TREES)
def test_printing_and_parsing_gives_the_same_tree(tree):
    assert parse_filter(format_filter(tree)) == tree


def matches(tree: Filter, present: frozenset[str]) -> bool:
    """Evaluate a tree whose leaves are EXISTS(name) over a set of names."""
    kind = tree.WhichOneof("node")
    if kind == "exists":
        return tree.exists.attribute in present
    outcomes = [matches(child, present) for child in getattr(tree, kind).filters]
    return {"all_of": all(outcomes), "any_of": any(outcomes), "none_of": not any(outcomes)}[kind]


def any_lists(children: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(children, min_size=1, max_size=3)
    kinds = st.sampled_from(["all_of", "any_of", "none_of"])
    return st.builds(lambda kind, filters: Filter(**{kind: {"filters": filters}}), kinds, several)


LOOSE_TREES = st.recursive(
    st.sampled_from("abc").map(lambda name: Filter(exists={"attribute": name})),
    any_lists,
    max_leaves=6,
).filter(lambda tree: depth(tree) <= DEPTH_MAX - 2)
SUBSETS = [frozenset(s) for s in ("", "a", "b", "c", "ab", "ac", "bc", "abc")]


@given(LOOSE_TREES)
def test_any_tree_printed_and_parsed_matches_the_same_items(tree):
    again = parse_filter(format_filter(tree))
    assert [matches(again, each) for each in SUBSETS] == [matches(tree, each) for each in SUBSETS]
