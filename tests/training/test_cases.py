import json

import pytest

from training.attributes import (
    ATTRIBUTES,
    AUDIENCES,
    COLORS,
    MATERIALS,
    audiences_of,
    colors_of,
    materials_of,
    sizes_of,
)
from training.beir import Collection, load_collection
from training.cases import Case, Signature, compare_ranks, read_brands, signature, write_cases
from training.leakage import words_of

ITEMS = {
    "red-acme": ("red boots", "Acme"),
    "blue-acme": ("blue boots", "Acme"),
    "red-nord": ("red boots of leather", "Nord"),
    "plain": ("kettle", ""),
}
QUERIES = {"q1": "my Acme boots, so red", "q2": "nord boots", "q3": "boils fast"}
RIGHT = {"q1": "red-acme", "q2": "red-nord", "q3": "plain"}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "qrels").mkdir()
    items = [
        {"_id": key, "title": title, "text": "", "metadata": {"brand": brand}}
        for key, (title, brand) in ITEMS.items()
    ]
    queries = [{"_id": key, "text": text} for key, text in QUERIES.items()]
    for name, entries in (("corpus", items), ("queries", queries)):
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (tmp_path / f"{name}.jsonl").write_text(text)
    rows = "".join(f"{query}\t{item}\t1\n" for query, item in RIGHT.items())
    (tmp_path / "qrels" / "test.tsv").write_text(rows)
    return tmp_path


def run_with_first(**first):
    """A run that has one item first and all others behind it, in order."""
    found = {}
    for query, item in first.items():
        order = [item, *(each for each in ITEMS if each != item)]
        found[query] = {each: float(10 - place) for place, each in enumerate(order)}
    return found


def test_brand_drift_counts_queries_that_name_the_brand_and_get_another(data):
    collection, brands = load_collection(data), read_brands(data)
    drifted = run_with_first(q1="red-nord", q2="red-nord", q3="plain")
    found = signature(collection, drifted, brands.get, words_of)
    assert (found.named, found.missed) == (2, 1)
    # Nothing is known of the kettle's brand: that is no drift.
    unknown = run_with_first(q1="plain", q2="red-nord", q3="plain")
    found = signature(collection, unknown, brands.get, words_of)
    assert (found.named, found.missed) == (1, 0)


def test_wins_come_first_and_losses_last(data):
    collection = load_collection(data)
    good = run_with_first(q1="red-acme", q2="plain", q3="plain")
    base = run_with_first(q1="blue-acme", q2="red-nord", q3="plain")
    assert compare_ranks(collection, good, base) == [
        Case("q1", 1, 2),
        Case("q3", 1, 1),
        Case("q2", 4, 1),
    ]


def test_cases_show_query_right_item_and_first_result(data):
    collection = load_collection(data)
    runs = {
        "base": run_with_first(q1="blue-acme", q2="red-nord", q3="plain"),
        "ours": run_with_first(q1="red-acme", q2="plain", q3="plain"),
    }
    write_cases(data, collection, runs, "base", data)
    text = (data / "cases.md").read_text()
    # One query names a color; the baseline's first result is of another.
    none = "0 of 0 (0.0%)"
    assert f"| base | 0 of 2 (0.0%) | 1 of 1 (100.0%) | {none} | {none} | {none} |" in text
    assert f"| ours | 0 of 1 (0.0%) | 0 of 1 (0.0%) | {none} | {none} | {none} |" in text
    wins, losses = text.split("## Wins of ours")[1].split("## Losses of ours")
    assert "**q1**, rank 1, baseline rank 2: my Acme boots, so red" in wins
    assert "**q2**, rank 4, baseline rank 1" in losses
    assert "right: red boots of leather\n  - first: kettle" in losses
    assert "q3" not in wins + losses


@pytest.mark.parametrize(
    ("attribute", "query", "right", "alike", "other"),
    [
        ("color", "so red", "red boots", "boots, RED", "reddish boots"),
        ("size", "holds 500 ml", "Flask 500ml", "500-ml cup", "Flask 1500 ml"),
        ("size", "a 12 inch pan", 'Pan 12"', "Pan, 12 inches", "Pan 8 inch"),
        ("size", "the XL fits", "Shirt X-Large", "shirt extra large", "Shirt Large"),
        ("size", "I am plus size", "Plus-Size Dress", "plus size", "Plus Pack"),
        ("material", "real leather", "Leather Belt", "belts of leather", "Leatherette Belt"),
        ("material", "a wooden spoon", "Wood Spoon", "wooden spoons", "Steel Spoon"),
        ("audience", "for my girls", "Girl's Dress", "girls", "Women's Dress"),
    ],
)
def test_an_attribute_that_is_named_is_ignored_by_a_first_result_without_it(
    attribute, query, right, alike, other
):
    items = {"right": right, "alike": alike, "other": other}
    collection = Collection(
        "c", tuple(items), tuple(items.values()), ("q",), (query,), {"q": {"right": 1}}
    )

    def found(first):
        return signature(collection, {"q": {first: 1.0}}, items.get, ATTRIBUTES[attribute])

    assert found("right") == found("alike") == Signature(named=1, missed=0)
    assert found("other") == Signature(named=1, missed=1)
    for another in ATTRIBUTES.keys() - {attribute}:
        assert not ATTRIBUTES[another](query)


def test_no_word_is_in_two_lists_of_attributes():
    lists = [COLORS, MATERIALS, AUDIENCES]
    words = [word for each in lists for word in each]
    assert len(words) == len(set(words))
    assert all(
        attribute(word) == {word}
        for each, attribute in zip(lists, (colors_of, materials_of, audiences_of), strict=True)
        for word in each
    )
    assert not any(sizes_of(word) for word in words)
