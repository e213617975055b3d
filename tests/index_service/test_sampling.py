"""Live searches checked against exact search."""

import threading
from concurrent.futures import wait

import numpy as np
import pytest

from index_service.filter import Bound, Range
from index_service.planner import PlanLimits, SearchPath
from index_service.query import Hits, Query
from index_service.sampling import RecallSampler, Sampled, band_of, compare
from tests.index_service.catalogue import Catalogue, build, never, open_shard, random_units

ALWAYS_GRAPH = PlanLimits(rows_a_candidate=0)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    home = tmp_path_factory.mktemp("sampling")
    rng = np.random.default_rng(0)
    prices = [{"price": float(row)} for row in range(1000)]
    build(Catalogue(random_units(rng, 1000), random_units(rng, 8), prices), home)
    shard = open_shard(home, limits=ALWAYS_GRAPH)
    shard.load(1)
    return shard


def answered(shard, **fields):
    """A query and its answer."""
    with shard.hold(1) as hold:
        query = Query(hold.probes[0], **{"fetch_k": 20, **fields})
        [hits] = shard.search(hold, [query], never)
    return query, hits


class Checks:
    """What a sampler shows, and how to wait for it."""

    def __init__(self, share=1.0, waiting=lambda: 0):
        self.shown = []
        self.sampler = RecallSampler(share, ALWAYS_GRAPH, waiting, self.shown.append)

    def offer(self, shard, query, hits):
        self.sampler.offer(lambda: shard.hold(1), [query], [hits])
        # Whatever was begun has ended once this has.
        wait([self.sampler._pool.submit(never)])


def test_what_was_found_of_the_best_ten_is_counted(shard):
    query, hits = answered(shard, exact=True)
    with shard.hold(1) as hold:
        whole = compare(hold, query, hits, ALWAYS_GRAPH, never)
        # Without the third and the seventh, as a graph might miss them.
        missing = Hits(hits.item_ids, np.delete(hits.scores, [2, 6]), 1000, hits.profile)
        part = compare(hold, query, missing, ALWAYS_GRAPH, never)
    assert (whole.found, whole.possible) == (10, 10)
    assert (part.found, part.possible) == (8, 10)


@pytest.mark.parametrize(("fetch_k", "matching", "possible"), [(3, 1000, 3), (20, 4, 4), (5, 0, 0)])
def test_fewer_than_ten_are_possible_where_fewer_are_wanted_or_match(
    shard, fetch_k, matching, possible
):
    tree = Range("price", None, Bound(float(matching), inclusive=False))
    query, hits = answered(shard, fetch_k=fetch_k, filter=tree, exact=True)
    with shard.hold(1) as hold:
        sampled = compare(hold, query, hits, ALWAYS_GRAPH, never)
    assert (sampled.found, sampled.possible) == (possible, possible)


def test_a_sampled_search_is_shown_with_its_band(shard):
    checks = Checks()
    tree = Range("price", None, Bound(300.0, inclusive=False))
    query, hits = answered(shard, filter=tree)
    assert hits.profile.path is SearchPath.HNSW_FILTERED
    checks.offer(shard, query, hits)
    [sampled] = checks.shown
    assert isinstance(sampled, Sampled)
    assert (sampled.band, sampled.possible) == ("0.8", 10)
    assert sampled.found >= 9


def test_exact_searches_are_not_checked(shard):
    checks = Checks()
    checks.offer(shard, *answered(shard, exact=True))
    assert checks.shown == []


def test_a_search_without_a_filter_has_a_band_of_its_own(shard):
    checks = Checks()
    checks.offer(shard, *answered(shard))
    everything = Range("price", Bound(0.0, inclusive=True), None)
    checks.offer(shard, *answered(shard, filter=everything))
    assert [sampled.band for sampled in checks.shown] == ["none", "1"]


def test_searches_with_an_ef_search_of_their_own_are_not_checked(shard):
    checks = Checks()
    for ef_search in (1, 400):
        query, hits = answered(shard, ef_search=ef_search)
        assert hits.profile.path is SearchPath.HNSW
        checks.offer(shard, query, hits)
    assert checks.shown == []


def test_none_are_checked_where_the_share_is_zero(shard):
    checks = Checks(share=0.0)
    checks.offer(shard, *answered(shard))
    assert checks.shown == []


def test_about_the_share_is_checked(shard):
    checks = Checks(share=0.25)
    search = answered(shard)
    for _ in range(200):
        checks.offer(shard, *search)
    assert 20 <= len(checks.shown) <= 90


def test_a_check_is_dropped_while_a_call_waits(shard):
    checks = Checks(waiting=lambda: 1)
    checks.offer(shard, *answered(shard))
    assert checks.shown == [None]


def test_a_running_check_gives_way_to_a_call_that_comes(shard):
    calls = iter([0])  # Nobody waits when it begins, somebody from then on.
    checks = Checks(waiting=lambda: next(calls, 1))
    checks.offer(shard, *answered(shard))
    assert checks.shown == [None]


def test_nothing_is_checked_where_vectors_had_to_be_read_from_the_disk(shard):
    search = answered(shard)
    with shard.hold(1) as hold:
        # As a search leaves it that has waited.
        hold.segment._scattered._turns_ahead = 1
    checks = Checks()
    checks.offer(shard, *search)
    assert checks.shown == [None]
    answered(shard)
    checks.offer(shard, *search)
    assert isinstance(checks.shown[1], Sampled)


def test_one_check_runs_at_a_time_and_the_others_are_dropped(shard):
    query, hits = answered(shard)
    going_on = threading.Event()
    checks = Checks()
    checks.sampler._pool.submit(going_on.wait)
    for _ in range(3):
        checks.sampler.offer(lambda: shard.hold(1), [query], [hits])
    going_on.set()
    checks.offer(shard, query, hits)
    assert checks.shown.count(None) >= 2
    assert len(checks.shown) == 4


def test_a_check_lets_the_generation_go(shard):
    checks = Checks()
    checks.offer(shard, *answered(shard))
    [holding] = shard.holdings()
    assert holding.users == 0


def test_a_closed_sampler_begins_nothing(shard):
    checks = Checks()
    search = answered(shard)
    checks.sampler.close()
    checks.sampler.offer(lambda: shard.hold(1), [search[0]], [search[1]])
    assert checks.shown == []


def test_every_selectivity_has_a_band():
    shares = (0.0, 0.001, 0.0011, 0.05, 0.39, 0.8, 0.81, 1.0)
    assert [band_of(share) for share in shares] == [
        "0.001",
        "0.001",
        "0.01",
        "0.1",
        "0.8",
        "0.8",
        "1",
        "1",
    ]
