"""How the gate finds the least effort that finds enough."""

import numpy as np
import pytest

from index_service.build.gate import EF_SEARCH_GRID, choose
from index_service.recall import Measurement


class Oracle:
    """Knows from which ef_search and how many rescored candidates on 0.995 is found."""

    def __init__(self, ef_search, rescored):
        self.enough = ef_search, rescored

    def __call__(self, efforts):
        return [Measurement(self.recall(each), each, 100, 1.0) for each in efforts]

    def recall(self, effort):
        found = effort.ef_search >= self.enough[0], effort.rescored >= self.enough[1]
        return 0.995 if all(found) else 0.9


@pytest.mark.parametrize(("needed", "chosen"), [(16, 16), (200, 200), (230, 232), (1000, 1024)])
def test_ef_search_is_found_between_the_places_of_the_grid(needed, chosen):
    gate = choose(Oracle(needed, 0), 0.99)
    assert gate.ef_search == chosen
    assert gate.passed


def test_as_few_candidates_are_rescored_as_cost_no_recall():
    gate = choose(Oracle(100, 20), 0.99)
    assert (gate.ef_search, gate.rescored, gate.ann_recall_at_10) == (100, 20, 0.995)


def test_a_search_is_a_little_wider_where_that_spares_more_candidates_than_it_costs():
    class Either(Oracle):
        def recall(self, effort):
            needed = {64: 224, 48: 228, 32: 229, 24: 230, 20: 230}.get(effort.rescored, 999)
            return 0.995 if effort.ef_search >= needed else 0.9

    gate = choose(Either(0, 0), 0.99)
    assert (gate.ef_search, gate.rescored) == (round(1.04 * 224), 20)


def test_fewer_are_not_rescored_where_that_costs_recall_above_the_required_one():
    assert choose(Oracle(16, 48), 0.5).rescored == 48


def test_where_nothing_is_enough_the_most_is_tried_and_the_gate_fails():
    gate = choose(Oracle(10_000, 0), 0.99)
    assert gate.ef_search == EF_SEARCH_GRID[-1]
    assert not gate.passed


class TwoKindsOfQueries:
    """Nine of ten queries score 0.9 and need an ef_search, one in ten scores 0.3 and needs more."""

    tenths = np.array([0.9] * 90 + [0.3] * 10, dtype=np.float32)

    def __init__(self, easy, hard):
        self.needed = np.where(self.tenths > 0.5, easy, hard)

    def __call__(self, efforts):
        return [
            Measurement(self.found(each).mean(), each, 100, 1.0, self.tenths) for each in efforts
        ]

    def found(self, effort):
        ef_search = np.full(100, effort.ef_search)
        if first := effort.first_try:
            doubted = self.tenths < first.score_enough
            ef_search = np.where(doubted, first.ef_search_wider, first.ef_search)
        return ef_search >= self.needed


def test_a_first_try_is_taken_where_a_wider_search_of_low_scores_finds_as_much():
    gate = choose(TwoKindsOfQueries(easy=60, hard=200), 1.0)
    assert (gate.ef_search, gate.ann_recall_at_10) == (200, 1.0)
    assert (gate.first_try.ef_search, gate.first_try.ef_search_wider) == (67, 300)
    assert 0.3 < gate.first_try.score_enough <= 0.9


def test_no_first_try_is_taken_where_its_ef_search_would_be_too_little_for_most():
    gate = choose(TwoKindsOfQueries(easy=180, hard=200), 1.0)
    assert (gate.ef_search, gate.first_try) == (200, None)


def test_no_first_try_is_taken_where_a_search_is_short_anyway():
    gate = choose(TwoKindsOfQueries(easy=10, hard=48), 1.0)
    assert (gate.ef_search, gate.first_try) == (48, None)


def test_no_first_try_is_taken_where_shards_have_fewer_than_ten_items():
    class Few(TwoKindsOfQueries):
        tenths = np.full(100, -np.inf, dtype=np.float32)

    assert choose(Few(easy=60, hard=200), 1.0).first_try is None


def test_no_first_try_is_taken_for_several_shards():
    assert choose(TwoKindsOfQueries(easy=60, hard=200), 1.0, num_shards=2).first_try is None
