"""The scan of rows where they lie never loses one that could be among the best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from index_service import half_scan
from index_service.copies import Copies
from index_service.half_scan import HalfScan
from index_service.scoring import best, score
from index_service.segment import Matches
from rpc.errors import DeadlineExceeded
from tests.index_service.catalogue import never, random_units, tied_units


def ranked(halves, rows, query, k):
    scores = score(query, halves[rows])
    return rows[best(scores, rows, k)].tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 300),
    k=st.integers(1, 50),
    tied=st.booleans(),
    share=st.sampled_from([None, 0.0, 0.1, 0.5]),
    gathered=st.booleans(),
)
def test_rows_hold_the_k_best_with_all_their_ties_or_none_are_returned(
    seed, count, k, tied, share, gathered
):
    rng = np.random.default_rng(seed)
    units = tied_units if tied else random_units
    halves = units(rng, count).astype(np.float16)
    [query] = units(rng, 1)
    matching = np.ones(count, dtype=bool) if share is None else rng.random(count) < share
    bits = None if share is None else np.packbits(matching, bitorder="little")
    rows = np.flatnonzero(matching)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(half_scan, "_BLOCK_ROWS", 64)
        patch.setattr(half_scan, "_GATHERED_ROWS", 50)
        half = HalfScan(halves)
        if gathered:
            found = half.gathered(query, k, rows, never)
        else:
            found = half.rows(query, k, bits, never)
    if found is None:
        assert tied
        return
    assert set(found.tolist()) <= set(rows.tolist())
    assert ranked(halves, np.sort(found), query, k) == ranked(halves, rows, query, k)


def test_more_ties_than_are_kept_are_not_decided():
    halves = np.repeat(random_units(np.random.default_rng(0), 2), 100, axis=0).astype(np.float16)
    query = halves[0].astype(np.float32)
    assert HalfScan(halves).rows(query, 10, None, never) is None


def test_few_rows_are_kept_where_scores_differ():
    rng = np.random.default_rng(2)
    halves = random_units(rng, 5000).astype(np.float16)
    found = HalfScan(halves).rows(random_units(rng, 1)[0], 10, None, never)
    assert len(found) < 15


def test_a_scan_that_nobody_waits_for_ends_between_blocks(monkeypatch):
    monkeypatch.setattr(half_scan, "_BLOCK_ROWS", 64)
    rng = np.random.default_rng(3)
    blocks = iter(range(5))

    def stop():
        if next(blocks) == 3:
            raise DeadlineExceeded("search")

    rows = HalfScan(random_units(rng, 1000).astype(np.float16))
    with pytest.raises(DeadlineExceeded):
        rows.rows(random_units(rng, 1)[0], 10, None, stop)
    assert next(blocks) == 4


def test_a_gathered_scan_ends_between_blocks_too(monkeypatch):
    monkeypatch.setattr(half_scan, "_GATHERED_ROWS", 50)
    halves = random_units(np.random.default_rng(1), 120).astype(np.float16)
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise DeadlineExceeded("too late")

    with pytest.raises(DeadlineExceeded):
        HalfScan(halves).gathered(halves[0].astype(np.float32), 5, np.arange(120), stop)
    assert len(calls) == 2


def test_rows_are_copied_where_few_match_or_those_that_do_lie_apart():
    copies = Copies(np.arange(10_000, dtype=np.uint32))
    every_third = Matches(BitMap(range(0, 10_000, 3)), 10_000, copies)
    first_third = Matches(BitMap(range(3_333)), 10_000, copies)
    few = Matches(BitMap(range(100)), 10_000, copies)
    assert every_third.are_scattered
    assert few.are_scattered
    assert not first_third.are_scattered
    # In place a row costs about half as much, and each row passed a little.
    assert every_third.scan_cost == every_third.count
    assert 0.4 * 3_333 < first_third.scan_cost < 0.6 * 3_333
    assert few.scan_cost == 100
    assert Matches(BitMap(), 10_000, copies).scan_cost == 0
