import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.terminal import CommandError
from training import ranking
from training.beir import Collection
from training.ranking import evaluate, evaluate_vectors, exact_top_k, run_of

# Small integers: inner products are exact, so that ties are ties however they are summed.
small = st.integers(-2, 2)


def vectors(draw, count, dim):
    values = draw(st.lists(st.lists(small, min_size=dim, max_size=dim), min_size=1, max_size=count))
    return np.array(values, dtype=np.float32)


@st.composite
def searches(draw):
    dim = draw(st.integers(1, 3))
    return vectors(draw, 5, dim), vectors(draw, 40, dim)


def test_documentation_is_true():
    assert doctest.testmod(ranking).failed == 0


@given(searches(), st.integers(1, 12), st.integers(1, 50))
def test_exact_search_is_a_sort_by_score_then_row(search, k, block):
    queries, items = search
    rows, scores = exact_top_k(queries, items, k, block)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    for query, found, of_query in zip(queries, rows, scores, strict=True):
        all_scores = [float(np.dot(query, item)) for item in items]
        expected = sorted(range(len(items)), key=lambda row: (-all_scores[row], row))[:k]
        assert found.tolist() == expected
        assert of_query.tolist() == [all_scores[row] for row in expected]


def test_queries_beyond_one_block_find_their_own_items():
    rng = np.random.default_rng(3)
    items = rng.standard_normal((1_300, 8)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    rows, scores = exact_top_k(items, items, 1, block=500)
    assert rows[:, 0].tolist() == list(range(1_300))
    assert np.allclose(scores, 1)


def test_a_score_that_is_no_number_ranks_last():
    items = np.array([[np.nan], [-3.0], [2.0]], dtype=np.float32)
    rows, scores = exact_top_k(np.ones((1, 1), np.float32), items, 3)
    assert rows.tolist() == [[2, 1, 0]]
    assert scores.tolist() == [[2.0, -3.0, -math.inf]]


def test_measures_are_what_a_hand_computes():
    qrels = {"q1": {"a": 3, "b": 1, "c": 2, "d": 0}, "q2": {"a": 1}, "q3": {"b": 1}}
    run = {
        # Ranks 1..3 hold d (grade 0), c (2) and a (3); b is not found.
        "q1": {"d": 9.0, "c": 8.0, "a": 7.0},
        "q2": {"z": 2.0, "a": 1.0},
    }  # q3 is not answered at all
    found = evaluate(qrels, run, ["recall@2", "ndcg@3", "mrr@10", "precision@2"])
    dcg = 0 / math.log2(2) + 2 / math.log2(3) + 3 / math.log2(4)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "recall@2": [1 / 3, 1.0, 0.0],
        "ndcg@3": [dcg / ideal, 1 / math.log2(3), 0.0],
        "mrr@10": [1 / 2, 1 / 2, 0.0],
        "precision@2": [1 / 2, 1 / 2, 0.0],
    }
    assert found.query_ids == ("q1", "q2", "q3")
    for name, values in expected.items():
        assert found.by_query[name] == pytest.approx(values)
        assert found.means[name] == pytest.approx(sum(values) / 3)


def test_a_run_keeps_the_order_of_equal_scores():
    ids = ["a", "b", "c"]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        run = run_of(["q"], ids, np.array([order]))
        found = evaluate({"q": {ids[order[0]]: 1}}, run, ["recall@1"])
        assert found.means == {"recall@1": 1.0}


@pytest.mark.parametrize("name", ["recall", "recall@0", "R@10", "ndcg@ten", ""])
def test_an_unknown_measure_is_refused(name):
    with pytest.raises(CommandError, match="allowed recall, ndcg, mrr, precision"):
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, [name])


def test_vectors_are_worth_what_their_nearest_items_are_worth():
    collection = Collection(
        name="three",
        item_ids=("x", "y", "z"),
        item_texts=("", "", ""),
        query_ids=("q2", "q1"),
        query_texts=("", ""),
        qrels={"q1": {"x": 1}, "q2": {"y": 1, "z": 1}},
    )
    items = np.eye(3, dtype=np.float32)
    queries = np.array([[0, 1, 0], [0.9, 0.1, 0]], dtype=np.float32)
    found = evaluate_vectors(collection, queries, items, ["recall@1"])
    assert dict(zip(found.query_ids, found.by_query["recall@1"], strict=True)) == {
        "q1": 1.0,
        "q2": 0.5,
    }
