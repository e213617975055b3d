"""Exact search over vectors, and what its results are worth against judgements.

- `exact_top_k(queries, items, k)`: the best rows of every query by inner product, ties by row.
- `evaluate(qrels, run, measures)`: means over queries, and each query's own values.
- `run_of(...)` turns rows into a run; `evaluate_vectors(collection, ...)` does all three.

Measures are written as "recall@10", "ndcg@10", "mrr@10", "precision@10"; any k. They are those of
the library ir_measures, which asks trec_eval: an item is relevant from grade 1 on, and nDCG's gain
is the grade itself, sum of grade / log2(rank + 1). Queries of the judgements that a run does not
answer count as 0. Here `recall@k` is against judgements; against exact search it is `ann_recall@k`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ir_measures
import numpy as np
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.beir import Collection

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]

MEASURES = ("recall@10", "ndcg@10")
ITEMS_A_BLOCK = 8192
QUERIES_A_BLOCK = 512
_NAMES = {"recall": "R", "ndcg": "nDCG", "mrr": "RR", "precision": "P"}
_MEASURE = re.compile(r"(recall|ndcg|mrr|precision)@([1-9]\d*)")
_ROW_BITS = 32
_ROW_MASK = (1 << _ROW_BITS) - 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run is worth.

    Attributes:
        means: each measure's mean over all judged queries.
        query_ids: the judged queries, in the order of the judgements.
        by_query: each measure's values, float64 of shape (queries,), parallel to query_ids.
    """

    means: Mapping[str, float]
    query_ids: tuple[str, ...]
    by_query: Mapping[str, NDArray[np.float64]]


def exact_top_k(
    queries: Floats, items: Floats, k: int, block: int = ITEMS_A_BLOCK
) -> tuple[Rows, Floats]:
    """Return the k items of the largest inner product with each query, best first.

    Equal scores are ordered by row, ascending. A score that is not a number ranks last.

    Args:
        queries: float32 of shape (q, dim).
        items: float32 of shape (n, dim), n < 2^32; may be a memory map.
        k: hits a query; all n items when there are fewer.
        block: items scored at once; 512 queries by this many scores are held.

    Returns:
        Rows of `items`, int64 of shape (q, min(k, n)), and their scores, float32 alike.

    >>> rows, scores = exact_top_k(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), k=1)
    >>> rows.tolist(), scores.tolist()
    ([[0], [1]], [[1.0], [1.0]])
    """
    kept = min(k, len(items))
    keys = np.empty((len(queries), kept), dtype=np.int64)
    for start in range(0, len(queries), QUERIES_A_BLOCK):
        some = slice(start, start + QUERIES_A_BLOCK)
        keys[some] = _best_keys(queries[some], items, kept, block)
    return _ROW_MASK - (keys & _ROW_MASK), _scores_of(keys)


def run_of(query_ids: Sequence[str], item_ids: Sequence[str], rows: Rows) -> Run:
    """Return a run in which items keep the order they were ranked in.

    The scores in it count down from the number of hits, so that trec_eval, which orders equal
    scores by id, cannot reorder them. A row of -1 is no hit.

    >>> run_of(["q"], ["a", "b"], np.array([[1, 0]]))
    {'q': {'b': 2.0, 'a': 1.0}}
    """
    return {
        query_id: {
            item_ids[row]: float(len(ranked) - rank) for rank, row in enumerate(ranked) if row >= 0
        }
        for query_id, ranked in zip(query_ids, rows.tolist(), strict=True)
    }


def evaluate(
    qrels: Qrels, run: Run, measures: Sequence[str] = MEASURES, *, as_one: bool = False
) -> Evaluation:
    """Return each measure's mean over the judged queries, and its value for each.

    Args:
        qrels: query id -> item id -> grade.
        run: query id -> item id -> score, larger is better.
        measures: as "recall@10".
        as_one: the relevant items of a query count as one; see `fold`.

    Raises:
        CommandError: there is no such measure.

    >>> found = evaluate({"q": {"a": 1, "b": 1}}, {"q": {"a": 0.9, "c": 0.8}}, ["recall@2"])
    >>> found.means
    {'recall@2': 0.5}
    """
    if as_one:
        qrels, run = fold(qrels, run)
    by_name = {_measure(name): name for name in measures}
    places = {query_id: place for place, query_id in enumerate(qrels)}
    values = {name: np.zeros(len(qrels)) for name in measures}
    for found in ir_measures.iter_calc(list(by_name), qrels, run):
        values[by_name[found.measure]][places[found.query_id]] = found.value
    means = {name: float(of_name.mean()) for name, of_name in values.items()}
    return Evaluation(means, tuple(qrels), values)


def fold(qrels: Qrels, run: Run) -> tuple[Qrels, Run]:
    """Return judgements and run in which the relevant items of a query are one.

    It has the place of the first of them in the run; the others are left out.

    >>> fold({"q": {"a": 1, "b": 1}}, {"q": {"x": 3.0, "b": 2.0, "a": 1.0}})
    ({'q': {'relevant': 1}}, {'q': {'x': 3.0, 'relevant': 2.0}})
    """
    folded: dict[str, dict[str, float]] = {}
    for query_id, scores in run.items():
        relevant = qrels.get(query_id, {})
        hits = [score for item_id, score in scores.items() if relevant.get(item_id, 0) > 0]
        others = {item_id: s for item_id, s in scores.items() if relevant.get(item_id, 0) <= 0}
        folded[query_id] = others | ({"relevant": max(hits)} if hits else {})
    return {query_id: {"relevant": 1} for query_id in qrels}, folded


def evaluate_vectors(
    collection: Collection,
    queries: Floats,
    items: Floats,
    measures: Sequence[str] = MEASURES,
    *,
    as_one: bool = False,
) -> Evaluation:
    """Return what exact search with these vectors finds of what was judged relevant.

    Args:
        collection: items, queries and judgements.
        queries: float32 of shape (q, dim), parallel to collection.query_ids.
        items: float32 of shape (n, dim), parallel to collection.item_ids.
        measures: as "recall@10"; the deepest says how many hits are asked for.
        as_one: the relevant items of a query count as one; see `fold`.

    Raises:
        CommandError: there is no such measure.
    """
    depth = max(_measure(name).params["cutoff"] for name in measures)
    rows, _ = exact_top_k(queries, items, depth)
    run = run_of(collection.query_ids, collection.item_ids, rows)
    return evaluate(collection.qrels, run, measures, as_one=as_one)


def _measure(name: str) -> ir_measures.measures.Measure:
    if (match := _MEASURE.fullmatch(name)) is None:
        raise CommandError(
            f"measure is {name!r}; allowed {', '.join(_NAMES)}, each as in recall@10"
        )
    return ir_measures.parse_measure(f"{_NAMES[match[1]]}@{match[2]}")


def _best_keys(queries: Floats, items: Floats, kept: int, block: int) -> NDArray[np.int64]:
    """Return the largest keys of each query, descending, int64 of shape (q, kept)."""
    best = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(items), block):
        scores = queries @ items[start : start + block].T
        seen = np.concatenate([best, _keys_of(scores, start)], axis=1)
        if seen.shape[1] > kept:
            seen = np.partition(seen, seen.shape[1] - kept, axis=1)[:, -kept:]
        best = seen
    return -np.sort(-best, axis=1)


def _keys_of(scores: Floats, first_row: int) -> NDArray[np.int64]:
    """Return integers that order as (score, then smaller row first) do.

    The upper 32 bits are the score's own bits, turned so that they order as the floats do; the
    lower 32 count down from row 0.
    """
    tidy = np.where(np.isnan(scores), np.float32(-np.inf), scores) + np.float32(0)  # -0.0 is 0.0
    bits = tidy.view(np.int32)
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    rows = _ROW_MASK - np.arange(first_row, first_row + scores.shape[1], dtype=np.int64)
    keys: NDArray[np.int64] = (ordered << _ROW_BITS) | rows
    return keys


def _scores_of(keys: NDArray[np.int64]) -> Floats:
    """Return the scores that keys were made of."""
    ordered = (keys >> _ROW_BITS).astype(np.int32)
    return np.where(ordered < 0, ordered ^ np.int32(0x7FFFFFFF), ordered).view(np.float32)
