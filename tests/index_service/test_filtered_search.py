"""Searches with any filter agree with asking every item, on every way and over any shards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_service.filter import AllOf, AnyOf, Exists, NoneOf, OneOf
from index_service.planner import Effort, PlanLimits, SearchPath
from index_service.query import Query
from index_service.shard import search_segment
from tests.index_service.catalogue import (
    Catalogue,
    build,
    never,
    open_shard,
    random_attributes,
    random_units,
    tied_units,
)
from tests.index_service.filters import matches, trees

ITEMS = 900
COUNTS = (1, 3, 7)
ALWAYS_GRAPH = PlanLimits(rows_a_candidate=0)
LIMITS = {
    "usual": PlanLimits(),
    "few rows exactly": PlanLimits(rows_a_candidate=0.5),
    "always the graph": ALWAYS_GRAPH,
}


@pytest.fixture(scope="module")
def catalogue_and_segments(tmp_path_factory):
    """Items with every kind of attribute, whose scores often tie, cut into 1, 3 and 7 shards."""
    rng = np.random.default_rng(2)
    vectors = tied_units(rng, ITEMS)
    vectors[600:750] = vectors[:150]
    attributes = [{**each, "unused": "x"} for each in random_attributes(rng, ITEMS)]
    for each in attributes[::2]:
        del each["unused"]
    catalogue = Catalogue(vectors, tied_units(rng, 8), attributes)
    return catalogue, {count: segments(tmp_path_factory, catalogue, count) for count in COUNTS}


def segments(tmp_path_factory, catalogue, count, **settings):
    home = tmp_path_factory.mktemp(f"shards-{count}")
    build(catalogue, home, num_shards=count, m=8, ef_construction=16, **settings)
    opened = [open_shard(home, number) for number in range(count)]
    return [each.load(1).loaded.segment for each in opened]


def pairs(hits):
    return list(zip(hits.item_ids, hits.scores.tolist(), strict=True))


def best_of(found, k):
    """Merge what shards found."""
    everything = [pair for hits in found for pair in pairs(hits)]
    return sorted(everything, key=lambda pair: (-pair[1], pair[0]))[:k]


@settings(max_examples=60, deadline=None)
@given(
    tree=trees(),
    seed=st.integers(0, 10_000),
    k=st.integers(1, 60),
    ef_search=st.integers(1, 80),
    exact=st.booleans(),
    limits=st.sampled_from(sorted(LIMITS)),
)
def test_any_filtered_search_agrees_with_asking_every_item(
    catalogue_and_segments, tree, seed, k, ef_search, exact, limits
):
    catalogue, by_count = catalogue_and_segments
    [embedding] = tied_units(np.random.default_rng(seed), 1)
    query = Query(embedding, k, filter=tree, exact=exact)
    keep = [matches(tree, item) for item in catalogue.attributes]
    matching = dict(catalogue.best(embedding, ITEMS, keep.__getitem__))
    for opened in by_count.values():
        found = [
            search_segment(each, [query], Effort(ef_search), LIMITS[limits], never)[0]
            for each in opened
        ]
        assert sum(hits.items_matched for hits in found) == len(matching)
        for segment, hits in zip(opened, found, strict=True):
            own = set(segment.item_ids(np.arange(segment.items)))
            expected = best_of_shard(matching, own, k)
            assert_right(hits, expected, {each for each in matching if each in own}, matching)
        if all(hits.profile.path.exact for hits in found):
            assert best_of(found, k) == catalogue.best(embedding, k, keep.__getitem__)
        if exact:
            assert all(hits.profile.path.exact for hits in found)


def best_of_shard(scores, own, k):
    ranked = [(item_id, score) for item_id, score in scores.items() if item_id in own]
    return ranked[:k]


def assert_right(hits, expected, matching, scores):
    """Exactly the best on exact paths; on the others as many, all matching, in order."""
    found = pairs(hits)
    assert hits.items_matched == len(matching)
    if hits.profile.path.exact:
        assert found == expected
        return
    assert len(found) == len(expected)
    assert {item_id for item_id, _ in found} <= matching
    assert all(scores[item_id] == score for item_id, score in found)
    assert found == sorted(set(found), key=lambda pair: (-pair[1], pair[0]))


@settings(max_examples=40, deadline=None)
@given(
    tree=trees(),
    seed=st.integers(0, 10_000),
    k=st.integers(1, 60),
    limits=st.sampled_from(sorted(LIMITS)),
)
def test_a_filter_that_everything_matches_changes_no_hit(
    catalogue_and_segments, tree, seed, k, limits
):
    _, by_count = catalogue_and_segments
    [embedding] = tied_units(np.random.default_rng(seed), 1)
    everything = AnyOf((tree, NoneOf((tree,))))
    for opened in by_count.values():
        for segment in opened:
            filtered, unfiltered = (
                search_segment(segment, [query], Effort(32), LIMITS[limits], never)[0]
                for query in (Query(embedding, k, filter=everything), Query(embedding, k))
            )
            assert pairs(filtered) == pairs(unfiltered)
            assert filtered.items_matched == unfiltered.items_matched == segment.items
            assert filtered.profile.path == unfiltered.profile.path


class NobodyWaitsError(Exception):
    """The caller has gone."""


def test_a_search_ends_between_the_conditions_of_its_filter_and_leaves_nothing_behind(
    catalogue_and_segments,
):
    catalogue, by_count = catalogue_and_segments
    [segment] = by_count[1]
    tree = AllOf((Exists("brand", True), Exists("price", True), Exists("sale", False)))
    query = Query(catalogue.probes[0], 10, filter=tree)
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 3:
            raise NobodyWaitsError

    with pytest.raises(NobodyWaitsError):
        search_segment(segment, [query], Effort(32), PlanLimits(), stop)
    [hits] = search_segment(segment, [query], Effort(32), PlanLimits(), never)
    expected = catalogue.best(
        catalogue.probes[0], 10, lambda row: matches(tree, catalogue.attributes[row])
    )
    assert pairs(hits) == expected


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """12,000 items, each with a keyword of its own."""
    rng = np.random.default_rng(3)
    skus = [{"sku": f"sku-{row}"} for row in range(12_000)]
    catalogue = Catalogue(random_units(rng, 12_000), random_units(rng, 8), skus)
    return catalogue, segments(tmp_path_factory, catalogue, 1)[0]


@pytest.mark.parametrize("limits", [PlanLimits(), ALWAYS_GRAPH])
def test_ten_thousand_rows_are_matched_by_ten_thousand_values(crowd, limits):
    catalogue, segment = crowd
    rows = np.random.default_rng(4).permutation(12_000)[:10_000].tolist()
    tree, wanted = OneOf("sku", tuple(f"sku-{row}" for row in rows)), set(rows)
    found = 0
    for probe in catalogue.probes:
        query = Query(probe, 10, filter=tree, ef_search=400)
        [hits] = search_segment(segment, [query], Effort(400), limits, never)
        assert hits.items_matched == 10_000
        best = catalogue.best(probe, 10, wanted.__contains__)
        if limits is ALWAYS_GRAPH:
            assert hits.profile.path is SearchPath.HNSW_FILTERED
            assert {int(each.removeprefix("item-")) for each in hits.item_ids} <= wanted
        else:
            assert hits.profile.path is SearchPath.EXACT_FILTERED
            assert pairs(hits) == best
        found += len(set(pairs(hits)) & set(best))
    assert found >= 72
