"""How recall is counted."""

import numpy as np
import pytest

from index_service.planner import Effort, PlanLimits
from index_service.recall import merge_tables, probe_recall, share_found
from rpc.errors import DeadlineExceeded
from tests.index_service.catalogue import Catalogue, build, never, open_shard, random_units

NONE = -np.inf


def table(*rows):
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize(
    ("exact", "found", "share"),
    [
        (table([0.9, 0.8]), table([0.9, 0.8]), 1.0),
        (table([0.9, 0.8]), table([0.9, 0.7]), 0.5),
        (table([0.9, 0.8]), table([0.7, 0.6]), 0.0),
        (table([0.9, 0.8], [0.5, 0.4]), table([0.9, 0.8], [0.4, 0.3]), 0.75),
        # Three items tie for the second place: any of them is as good.
        (table([0.9, 0.8]), table([0.8, 0.8]), 1.0),
        # Only one item exists.
        (table([0.9, NONE]), table([0.9, NONE]), 1.0),
        (table([0.9, NONE]), table([NONE, NONE]), 0.0),
        # None exists.
        (table([NONE, NONE]), table([NONE, NONE]), 1.0),
        (np.empty((0, 2), np.float32), np.empty((0, 2), np.float32), 1.0),
    ],
)
def test_share_found(exact, found, share):
    assert share_found(exact, found) == share


def test_tables_of_shards_merge_to_the_best_of_all():
    one, two = np.arange(10, 0, -1)[None].astype(np.float32), np.full((1, 10), 7.5, np.float32)
    assert merge_tables([one, two]).tolist() == [[10, 9, 8] + [7.5] * 7]


@pytest.fixture(scope="module")
def hold(tmp_path_factory):
    home = tmp_path_factory.mktemp("recall")
    rng = np.random.default_rng(0)
    build(Catalogue(random_units(rng, 2000), random_units(rng, 40)), home, m=4, ef_construction=8)
    shard = open_shard(home)
    shard.load(1)
    with shard.hold(1) as held:
        yield held


def test_a_wider_search_finds_more_and_one_over_all_items_finds_all(hold):
    def recall(ef_search):
        measured = probe_recall(hold.segment, hold.probes, Effort(ef_search), PlanLimits(), never)
        assert (measured.effort.ef_search, measured.probes) == (ef_search, 40)
        assert measured.search_p50_us > 0
        return measured.ann_recall_at_10

    assert recall(10) < recall(200) <= recall(2000) == 1.0


def test_probing_ends_when_nobody_waits(hold):
    def stop():
        raise DeadlineExceeded("search")

    with pytest.raises(DeadlineExceeded):
        probe_recall(hold.segment, hold.probes, Effort(64), PlanLimits(), stop)
