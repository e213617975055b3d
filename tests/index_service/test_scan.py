"""The exact scan never loses a row that could be among the best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_service import scan as scan_module
from index_service.scan import scan
from index_service.scoring import best, score
from rpc.errors import DeadlineExceeded
from tests.index_service.catalogue import never, random_units, tied_units


def exact_best(halves, rows, query, k):
    scores = score(query, halves[rows])
    return rows[best(scores, rows, k)].tolist()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 300),
    k=st.integers(1, 50),
    tied=st.booleans(),
    subset=st.booleans(),
)
def test_kept_rows_hold_the_k_best_with_all_their_ties(seed, count, k, tied, subset):
    rng = np.random.default_rng(seed)
    units = tied_units if tied else random_units
    halves = units(rng, count).astype(np.float16)
    queries = units(rng, 3)
    rows = np.flatnonzero(rng.random(count) < 0.5) if subset else np.arange(count)
    kept = scan(halves, rows if subset else None, queries, [k, k + 1, k + 2], never)
    for place, (query, found) in enumerate(zip(queries, kept, strict=True)):
        scores = score(query, halves[found])
        ranked = found[best(scores, found, k + place)].tolist()
        assert ranked == exact_best(halves, rows, query, k + place)


def test_blocks_of_any_size_keep_the_same_best(monkeypatch):
    rng = np.random.default_rng(1)
    halves = tied_units(rng, 1000).astype(np.float16)
    queries = tied_units(rng, 2)
    for block_rows in (1, 7, 999, 1000, 5000):
        monkeypatch.setattr(scan_module, "_BLOCK_BYTES", block_rows * 4 * halves.shape[1])
        for query, found in zip(queries, scan(halves, None, queries, [10, 10], never), strict=True):
            scores = score(query, halves[found])
            ranked = found[best(scores, found, 10)].tolist()
            assert ranked == exact_best(halves, np.arange(1000), query, 10)


def test_few_rows_are_kept_where_scores_differ():
    rng = np.random.default_rng(2)
    halves = random_units(rng, 5000).astype(np.float16)
    [found] = scan(halves, None, random_units(rng, 1), [10], never)
    assert len(found) < 15


def test_a_scan_that_nobody_waits_for_ends_between_blocks(monkeypatch):
    monkeypatch.setattr(scan_module, "_BLOCK_BYTES", 10 * 4 * 32)
    rng = np.random.default_rng(3)
    halves = random_units(rng, 1000).astype(np.float16)
    blocks = iter(range(5))

    def stop():
        if next(blocks) == 3:
            raise DeadlineExceeded("search")

    with pytest.raises(DeadlineExceeded):
        scan(halves, None, random_units(rng, 1), [10], stop)
    assert next(blocks) == 4
