import json

import pytest

from training.beir import load_collection
from training.cases import Case, compare_ranks, read_brands, signature, write_cases
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
    assert "| base | 0 of 2 (0.0%) | 1 of 1 (100.0%) |" in text
    assert "| ours | 0 of 1 (0.0%) | 0 of 1 (0.0%) |" in text
    wins, losses = text.split("## Wins of ours")[1].split("## Losses of ours")
    assert "**q1**, rank 1, baseline rank 2: my Acme boots, so red" in wins
    assert "**q2**, rank 4, baseline rank 1" in losses
    assert "right: red boots of leather\n  - first: kettle" in losses
    assert "q3" not in wins + losses
