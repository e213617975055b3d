"""Vectors that are read here and there, in memory or not."""

import os
import resource

import numpy as np
import pytest

from index_service import scattered
from index_service.scattered import TURNS_AHEAD, ScatteredRows
from index_service.segment import map_halves

ITEMS, DIM = 20_000, 96


@pytest.fixture
def vectors(tmp_path):
    halves = np.random.default_rng(0).standard_normal((ITEMS, DIM)).astype("<f2")
    path = tmp_path / "vectors.f16"
    path.write_bytes(halves.tobytes())
    return path, halves


def drop_cached(path):
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_rows_are_the_same_asked_for_ahead_or_not(vectors):
    path, halves = vectors
    mapped = ScatteredRows(map_halves(path, ITEMS, DIM, scattered=True))
    rows = np.array([0, 17, ITEMS - 1, 17, 4_096])
    assert np.array_equal(mapped.take(rows), halves[rows])
    mapped._turns_ahead = 1
    assert np.array_equal(mapped.take(rows), halves[rows])
    assert mapped._turns_ahead == 0


def test_no_rows_are_none(vectors):
    path, _ = vectors
    mapped = ScatteredRows(map_halves(path, ITEMS, DIM, scattered=True))
    mapped._turns_ahead = 1
    assert mapped.take(np.empty(0, dtype=np.int64)).shape == (0, DIM)


def test_after_a_read_from_the_disk_pages_are_asked_for_and_not_waited_for_singly(vectors):
    path, halves = vectors
    drop_cached(path)
    mapped = ScatteredRows(map_halves(path, ITEMS, DIM, scattered=True))
    rows = np.arange(0, ITEMS, 400)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    mapped.take(rows)
    waited = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    if not waited:
        pytest.skip("this file system keeps dropped pages in memory")
    assert mapped._turns_ahead == TURNS_AHEAD
    # The same number of pages again, none of them in memory yet.
    rows += 200
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    assert np.array_equal(mapped.take(rows), halves[rows])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before < waited / 2


def test_it_ends_once_everything_is_in_memory(vectors):
    path, _ = vectors
    path.read_bytes()
    mapped = ScatteredRows(map_halves(path, ITEMS, DIM, scattered=True))
    mapped._turns_ahead = 2
    for _ in range(4):
        mapped.take(np.arange(10))
    assert mapped._turns_ahead == 0


def test_reads_are_of_this_thread():
    assert scattered._reads() <= resource.getrusage(resource.RUSAGE_SELF).ru_majflt
