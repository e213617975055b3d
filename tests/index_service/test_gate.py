"""How the gate finds the least effort that finds enough."""

import pytest

from index_service.build.gate import EF_SEARCH_GRID, RESCORED_GRID, choose
from index_service.recall import Measurement


class Oracle:
    """Knows from which ef_search and how many rescored candidates on 0.995 is found."""

    def __init__(self, ef_search, rescored):
        self.enough = ef_search, rescored
        self.measured = []

    def __call__(self, efforts):
        self.measured += [(each.ef_search, each.rescored) for each in efforts]
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
    oracle = Oracle(100, 20)
    gate = choose(oracle, 0.99)
    assert (gate.ef_search, gate.rescored, gate.ann_recall_at_10) == (100, 20, 0.995)
    assert oracle.measured[-1] == (100, RESCORED_GRID[-1])


def test_fewer_are_not_rescored_where_that_costs_recall_above_the_required_one():
    assert choose(Oracle(16, 48), 0.5).rescored == 48


def test_where_nothing_is_enough_the_most_is_tried_and_the_gate_fails():
    gate = choose(Oracle(10_000, 0), 0.99)
    assert gate.ef_search == EF_SEARCH_GRID[-1]
    assert not gate.passed
