"""Scores are one number on every path; half floats convert exactly."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_service.halffloat import to_float32
from index_service.scoring import best, score
from tests.index_service.catalogue import random_units


def test_every_finite_half_converts_exactly():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(-1, 32)
    assert np.array_equal(
        to_float32(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32)
    )


@pytest.mark.parametrize("dim", [1, 3, 32, 127, 384, 768])
def test_a_score_does_not_depend_on_the_rows_beside_it(dim):
    rng = np.random.default_rng(dim)
    halves = random_units(rng, 2500, dim).astype(np.float16)
    [query] = random_units(rng, 1, dim)
    alone = [score(query, halves[row : row + 1])[0] for row in range(len(halves))]
    for chosen in (slice(None), slice(7, 1500), slice(None, None, 3), slice(1, 3)):
        together = score(query, np.ascontiguousarray(halves[chosen]))
        assert together.tolist() == alone[chosen]


def test_a_score_is_the_exact_inner_product_rounded_once():
    rng = np.random.default_rng(0)
    halves = random_units(rng, 200, 384).astype(np.float16)
    [query] = random_units(rng, 1, 384)
    scores = score(query, halves)
    for row, got in zip(halves, scores, strict=True):
        exact = math.fsum(float(a) * float(b) for a, b in zip(query, row, strict=True))
        assert got == np.float32(exact)


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0]), max_size=40), st.integers(0, 12))
def test_best_is_by_score_then_row(scores, k):
    rows = np.arange(len(scores))[::-1].copy()
    order = best(np.array(scores, dtype=np.float32), rows, k)
    expected = sorted(zip(scores, rows, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    assert [(scores[place], rows[place]) for place in order] == expected
