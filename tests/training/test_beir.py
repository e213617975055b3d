import doctest
import gzip
import json
from pathlib import Path

import pytest

from rpc.terminal import CommandError
from training import beir
from training.beir import load_collection, narrow

ITEMS = [
    {"_id": "i1", "title": "Rain  boots", "text": "Keep feet\ndry."},
    {"_id": "i2", "title": "Desk lamp", "text": ""},
    {"_id": "i3", "text": "A hose of 20 m"},
]
QUERIES = [
    {"_id": "q1", "text": "wellies"},
    {"_id": "q2", "text": "never judged"},
    {"_id": "q3", "text": "light"},
]
QRELS = "query-id\tcorpus-id\tscore\nq3\ti2\t3\nq1\ti1\t1\nq1\ti2\t0\n"
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "home_depot"


def write(folder, items=ITEMS, queries=QUERIES, qrels=QRELS, compress=False):
    (folder / "qrels").mkdir(parents=True)
    for name, entries in (("corpus", items), ("queries", queries)):
        content = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        if compress:
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(content))
        else:
            (folder / f"{name}.jsonl").write_bytes(content)
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def test_documentation_is_true():
    assert doctest.testmod(beir).failed == 0


@pytest.mark.parametrize("compress", [False, True])
def test_items_are_title_and_text_and_only_judged_queries_stay(tmp_path, compress):
    found = load_collection(write(tmp_path / "shop", compress=compress))
    assert found.name == "shop"
    assert found.item_ids == ("i1", "i2", "i3")
    assert found.item_texts == ("Rain boots Keep feet dry.", "Desk lamp", "A hose of 20 m")
    assert found.query_ids == ("q1", "q3")
    assert found.query_texts == ("wellies", "light")
    assert found.qrels == {"q1": {"i1": 1, "i2": 0}, "q3": {"i2": 3}}
    assert (found.unknown_queries, found.unknown_items) == (0, 0)


def test_judgements_of_unknown_ids_are_left_out_and_counted(tmp_path):
    qrels = QRELS + "q9\ti1\t1\nq1\ti8\t2\nq1\ti9\t2\n"
    found = load_collection(write(tmp_path / "shop", qrels=qrels))
    assert found.qrels == {"q1": {"i1": 1, "i2": 0}, "q3": {"i2": 3}}
    assert (found.unknown_queries, found.unknown_items) == (1, 2)


def test_judgements_may_come_without_a_header(tmp_path):
    found = load_collection(write(tmp_path / "shop", qrels="q1\ti1\t1\n"))
    assert found.qrels == {"q1": {"i1": 1}}


def test_of_two_grades_for_a_pair_the_later_one_holds(tmp_path):
    found = load_collection(write(tmp_path / "shop", qrels=QRELS + "q1\ti1\t2\n"))
    assert found.qrels["q1"] == {"i1": 2, "i2": 0}


def test_another_split_is_read_by_name(tmp_path):
    folder = write(tmp_path / "shop")
    (folder / "qrels" / "dev.tsv").write_text("q2\ti3\t1\n")
    assert load_collection(folder, "dev").query_ids == ("q2",)
    with pytest.raises(CommandError, match=r"train.tsv: no such judgements; .* dev, test"):
        load_collection(folder, "train")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"qrels": "q1\ti1\thigh\n"}, r"test.tsv:1: not a query id"),
        ({"qrels": QRELS + "q1 i1 1\n"}, r"test.tsv:5: not a query id"),
        ({"qrels": "q7\ti7\t1\n"}, r"none of its 1 judgements"),
        ({"items": [*ITEMS, {"_id": "i1", "title": "x"}]}, r"corpus.jsonl:4: _id 'i1' .* twice"),
        ({"items": [{"title": "x"}]}, r"corpus.jsonl:1: _id is None"),
        ({"items": [["i1"]]}, r"corpus.jsonl:1: not a JSON object"),
        ({"queries": [{"_id": "q1"}]}, r"queries.jsonl:1: text is None"),
        ({"queries": [{"_id": 1, "text": "x"}]}, r"queries.jsonl:1: _id is 1"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, change, told):
    with pytest.raises(CommandError, match=told):
        load_collection(write(tmp_path / "shop", **change))


def test_a_missing_file_and_a_broken_one_are_named(tmp_path):
    with pytest.raises(CommandError, match=r"no corpus.jsonl or corpus.jsonl.gz"):
        load_collection(tmp_path)
    folder = write(tmp_path / "shop", compress=True)
    whole = (folder / "corpus.jsonl.gz").read_bytes()
    (folder / "corpus.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(CommandError, match=r"corpus.jsonl.gz: is not a whole gzip file"):
        load_collection(folder)
    (folder / "corpus.jsonl.gz").write_bytes(whole[:10] + b"\xff" + whole[11:])
    with pytest.raises(
        CommandError, match=r"corpus.jsonl.gz: is not a whole .* invalid block type"
    ):
        load_collection(folder)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "i1", "title": "\xff"}\n')
    with pytest.raises(CommandError, match=r"corpus.jsonl:1: not valid JSON"):
        load_collection(folder)


def test_a_narrower_collection_keeps_what_was_judged_and_the_order(tmp_path):
    items = [{"_id": f"i{n}", "title": f"item {n}"} for n in range(50)]
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(10)]
    qrels = "".join(f"q{n}\ti{5 * n}\t1\nq{n}\ti{5 * n + 1}\t2\n" for n in range(10))
    whole = load_collection(write(tmp_path / "shop", items, queries, qrels))
    part = narrow(whole, num_items=20, num_queries=4, seed=1)
    assert part == narrow(whole, num_items=20, num_queries=4, seed=1)
    assert len(part.item_ids) == 20
    assert len(part.query_ids) == len(part.qrels) == 4
    assert {item for judged in part.qrels.values() for item in judged} <= set(part.item_ids)
    assert part.qrels == {query_id: whole.qrels[query_id] for query_id in part.qrels}
    assert list(part.item_ids) == [i for i in whole.item_ids if i in part.item_ids]
    texts = dict(zip(whole.item_ids, whole.item_texts, strict=True))
    assert list(part.item_texts) == [texts[item_id] for item_id in part.item_ids]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the home_depot folder beside the checkout")
def test_a_real_collection_is_read_whole():
    found = load_collection(SHARED)
    assert len(found.item_ids) == 54_667
    assert len(found.query_ids) == 5_813
    # Of 36,338 lines; two pairs are judged twice.
    assert sum(len(judged) for judged in found.qrels.values()) == 36_336
    assert found.unknown_items == found.unknown_queries == 0
