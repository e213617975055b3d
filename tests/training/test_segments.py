import numpy as np
import pytest

from training.segments import Topic, read_queries

QRELS = {f"q{n}": {f"i{n}": 1, "other": 0} for n in range(70)}
TOPICS = {
    f"q{n}": Topic(f"p{n}", None, {"category": "a" if n < 30 else f"b{n}"}) for n in range(60)
}


@pytest.fixture
def trained(tmp_path):
    """A data set whose train split has the items of the first 40 queries, and a wrong one."""
    (tmp_path / "qrels").mkdir()
    rows = [f"t{n}\ti{n}\t1\n" for n in range(40)] + ["t50\ti50\t0\n"]
    (tmp_path / "qrels" / "train.tsv").write_text("".join(rows))
    return tmp_path


def test_queries_whose_items_no_pair_of_train_has_are_a_segment(trained):
    values = np.array([1.0] * 40 + [0.0] * 30)
    found = read_queries(trained, QRELS, {}).means(values)
    assert found == {"training": {"seen items": (40, 1.0), "unseen items": (30, 0.0)}}


def test_a_data_set_without_a_train_split_has_no_such_segment(tmp_path):
    assert read_queries(tmp_path, QRELS, {}).segments == {}


def test_segments_of_few_queries_are_counted_and_left_out(tmp_path):
    queries = read_queries(tmp_path, QRELS, TOPICS)
    assert queries.means(np.ones(70)) == {"category": {"a": (30, 1.0)}}
    assert queries.too_small() == {"category": {"segments": 30, "queries": 30}}
    assert queries.products[:2] == ("p0", "p1")
    assert queries.products[-1] == "q69"  # nothing is known of it: it stands for itself


def test_a_segment_of_all_queries_is_kept_however_few_they_are(trained):
    few = {query_id: QRELS[query_id] for query_id in ("q50", "q51")}
    queries = read_queries(trained, few, {})
    assert queries.means(np.zeros(2)) == {"training": {"unseen items": (2, 0.0)}}
    assert queries.too_small() == {}
