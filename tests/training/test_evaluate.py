import gzip
import json

import numpy as np
import pytest

from rpc.terminal import CommandError
from training import evaluate as evaluate_module
from training.baselines import Bm25, Bm25Parameters, tokenize
from training.embeddings import TextEncoder, embed
from training.evaluate import EvaluateOptions, compare
from training.ranking import evaluate, fold
from training.significance import bootstrap_interval, paired_p_value
from training.topics import Topic, topic_of

ITEMS = {"i1": "red boots", "i2": "red boots", "i3": "blue scarf", "i4": "green kettle"}
REVIEWS = {"r1": ("warm red boots", "i1 i2"), "r2": ("a scarf", "i3"), "r3": ("a vase", "i4")}


@pytest.fixture
def data(tmp_path):
    """A data set of three reviews, of which BM25 can answer two."""
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    items = [{"_id": key, "title": title, "text": ""} for key, title in ITEMS.items()]
    queries = [
        {"_id": key, "text": text, "metadata": {"masked": "nothing", "product": key, "tokens": 3}}
        for key, (text, _) in REVIEWS.items()
    ]
    rows = [f"{key}\t{item}\t1\n" for key, (_, ids) in REVIEWS.items() for item in ids.split()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    with gzip.open(folder / "queries.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(query) + "\n" for query in queries)
    for split in ("dev", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text("".join(rows))
    (folder / "dataset.json").write_text('{"relevance": "same_title"}')
    return folder


def compared(data, out, *systems, **options):
    return compare(EvaluateOptions(data, systems, out, out / "cache", **options))


def test_bm25_answers_what_shares_words_and_keeps_its_run(data, tmp_path):
    results = compared(data, tmp_path / "out", "bm25")
    assert results["systems"]["bm25"]["measures"]["recall@1"]["mean"] == pytest.approx(2 / 3)
    run = (tmp_path / "out" / "runs" / "bm25.trec").read_text().splitlines()
    assert [line.split()[2] for line in run if line.startswith("r1 ")][:2] == ["i1", "i2"]
    assert all(len(line.split()) == 6 for line in run)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| bm25 | 0.667 (" in report
    assert (tmp_path / "out" / "systems.png").read_bytes().startswith(b"\x89PNG")


def test_masked_queries_are_asked_in_place_of_the_reviews(data, tmp_path):
    results = compared(data, tmp_path / "out", "bm25", masked=True)
    assert results["masked"]
    assert (tmp_path / "out" / "runs" / "bm25.trec").read_text() == ""  # nothing matches
    means = {each["mean"] for each in results["systems"]["bm25"]["measures"].values()}
    assert means == {0.0}


def test_queries_that_say_much_and_nothing_of_masking_are_refused_with_masked(data, tmp_path):
    path = data / "queries.jsonl.gz"
    with gzip.open(path, "rt") as file:
        queries = [json.loads(line) for line in file]
    del queries[1]["metadata"]["masked"]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(query) + "\n" for query in queries)
    with pytest.raises(CommandError, match="--masked: this data set has no masked queries"):
        compared(data, tmp_path / "out", "bm25", masked=True)
    assert compared(data, tmp_path / "out", "bm25")["queries"] == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"_id": "q", ', "not valid JSON"),
        (b'["q"]', "not a JSON object"),
        (b'{"metadata": {"tokens": 3}}', "_id is None; a text is needed"),
        (b'{"_id": "q", "metadata": "long"}', "metadata is 'long'; an object is needed"),
        (b'{"_id": "q", "metadata": {"tokens": "3"}}', r"metadata\.tokens is '3'; a whole number"),
        (b'{"_id": "q", "metadata": {"masked": 3}}', r"metadata\.masked is 3; a text is needed"),
    ],
)
def test_a_line_of_the_queries_that_cannot_be_understood_is_named(data, tmp_path, line, said):
    path = data / "queries.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + line + b"\n"))
    with pytest.raises(CommandError, match=rf"queries\.jsonl\.gz:4: {said}"):
        compared(data, tmp_path / "out", "bm25")


def test_queries_that_end_early_are_refused(data, tmp_path):
    path = data / "queries.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(CommandError, match=r"queries\.jsonl\.gz: is not a whole gzip file"):
        compared(data, tmp_path / "out", "bm25")


def test_what_a_query_does_not_say_of_itself_is_no_segment():
    said = {"tokens": None, "num_reviews": None, "category": " ", "product": None, "masked": None}
    said["title_percent"] = None
    assert topic_of({"_id": "q", "metadata": said}, "here") == Topic("q", None, {})


@pytest.mark.parametrize(
    ("written", "said"), [('{"rele', "not valid JSON"), ("[]", "not a JSON ob")]
)
def test_a_torn_description_of_a_data_set_is_named(data, tmp_path, written, said):
    (data / "dataset.json").write_text(written)
    with pytest.raises(
        CommandError, match=rf"dataset\.json: {said}.*; remove it and make it again"
    ):
        compared(data, tmp_path / "out", "bm25")


def test_a_collection_that_is_left_alone_tunes_nothing(data, tmp_path):
    results = compared(data, tmp_path / "out", "bm25", tune=False)
    assert results["systems"]["bm25"]["note"] == "k1 1.2, b 0.75, as given"
    assert results["dev"] is None


def test_running_out_of_memory_is_a_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_module, "load_collection", raises(MemoryError()))
    with pytest.raises(CommandError, match="out of memory: compare fewer systems at once"):
        compared(data, tmp_path / "out", "bm25")


def raises(error):
    """Return a function that raises this error."""

    def function(*arguments):
        raise error

    return function


def test_a_baseline_that_is_no_system_is_refused(data, tmp_path):
    with pytest.raises(CommandError, match="baseline is 'bert'; allowed lexical"):
        compared(data, tmp_path / "out", "lexical=bm25", baseline="bert")


def test_items_of_one_title_count_as_one():
    qrels = {"q": {"a": 1, "b": 1}, "unanswered": {"c": 1}}
    run = {"q": {"x": 3.0, "b": 2.0, "a": 1.0}}
    measures = ("recall@1", "recall@10", "mrr@10")
    found = evaluate(qrels, run, measures, as_one=True).by_query
    assert found["recall@1"].tolist() == [0.0, 0.0]
    assert found["recall@10"].tolist() == [1.0, 0.0]
    assert found["mrr@10"].tolist() == [0.5, 0.0]
    assert fold(qrels, run)[0] == {"q": {"relevant": 1}, "unanswered": {"relevant": 1}}


def test_equal_bm25_scores_are_ordered_by_row():
    index = Bm25(tokenize(["blue scarf", "red boots", "red boots"]), Bm25Parameters())
    rows, scores = index.search(["red boots"], 3)
    assert rows.tolist() == [[1, 2, -1]]
    assert scores[0, 0] == scores[0, 1] > scores[0, 2] == 0


def test_of_equal_bm25_scores_the_first_rows_are_kept_whatever_the_cut():
    index = Bm25(tokenize(["blue scarf"] * 50 + ["red boots"] * 500))
    for kept in (1, 10, 100):
        rows, scores = index.search(["red", "", "nowhere"], kept)
        assert rows.tolist() == [list(range(50, 50 + kept)), *2 * [[-1] * kept]]
        assert not scores[1:].any()


def test_only_new_texts_are_encoded_and_a_torn_write_is_cut_off(tmp_path):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    encoder = TextEncoder("lengths", "f1", 2, {"query": "", "item": ""}, encode)
    first = embed(encoder, ["aaa", "b", "aaa"], tmp_path, "texts")
    assert first[:, 0].tolist() == [3, 1, 3]
    with (tmp_path / "f1" / "vectors.f32").open("ab") as file:
        file.write(b"torn")
    second = embed(encoder, ["b", "cc", "aaa"], tmp_path, "texts")
    assert second[:, 0].tolist() == [1, 2, 3]
    assert sorted(asked) == ["aaa", "b", "cc"]


def test_an_interval_over_independent_queries_is_that_of_the_normal_distribution():
    values = np.random.default_rng(1).random(400)
    found = bootstrap_interval(values, [str(place) for place in range(400)])
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.003)
    assert found.high == pytest.approx(values.mean() + half, abs=0.003)


def test_queries_of_one_product_make_an_interval_wider():
    values = np.repeat(np.random.default_rng(2).random(50), 8)
    alone = bootstrap_interval(values, [str(place) for place in range(400)])
    together = bootstrap_interval(values, [str(place // 8) for place in range(400)])
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_the_p_value_is_that_of_all_signs_tried():
    differences = np.array([0.5, 0.5, 0.5, -0.1, 0.5])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    found = paired_p_value(differences, np.zeros(5), list("abcde"))
    assert found == pytest.approx(exact, abs=0.02)
    assert paired_p_value(differences, differences, list("abcde")) == 1.0
