"""Which way a query is searched."""

from index_service.planner import (
    Demand,
    Effort,
    FirstTry,
    PlanLimits,
    SearchPath,
    plan,
    wider,
)

LIMITS = PlanLimits(rows_a_candidate=31.25, graph_selectivity_min=0.4, ef_filtered_max=2_048)
SCANNING_COSTS = PlanLimits(rows_a_candidate=0, graph_selectivity_min=0.4, ef_filtered_max=2_048)
ITEMS = 200_000


def way(
    matched=None,
    wanted=10,
    ef_search=64,
    exact=False,
    items=ITEMS,
    share_nearby=1.0,
    scan_cost=None,
    limits=LIMITS,
):
    demand = Demand(wanted, Effort(ef_search, 40), exact)
    return plan(demand, items, matched, limits, share_nearby, scan_cost)


def test_without_a_filter_the_graph_is_searched():
    chosen = way()
    assert (chosen.path, chosen.ef_search, chosen.candidates) == (SearchPath.HNSW, 64, 40)


def test_a_filter_that_everything_matches_is_no_filter():
    assert way(matched=ITEMS).path is SearchPath.HNSW


def test_matches_are_scanned_where_that_costs_less_than_the_graph():
    # A tenth matches: ef_search would be 202, and each of these costs as much as 31.25 rows.
    assert way(matched=20_000).path is SearchPath.HNSW_FILTERED
    assert way(matched=9_000).path is SearchPath.EXACT_FILTERED
    # A wider search costs more, whatever makes it wide.
    assert way(matched=20_000, ef_search=256).path is SearchPath.EXACT_FILTERED
    assert way(matched=20_000, wanted=256).path is SearchPath.EXACT_FILTERED
    assert way(matched=20_000, share_nearby=1 / 256).path is SearchPath.EXACT_FILTERED
    assert way(matched=150_000, ef_search=4_800).path is SearchPath.EXACT_FILTERED
    assert way(matched=150_100, ef_search=4_800).path is SearchPath.HNSW_FILTERED


def test_rows_that_lie_together_are_scanned_sooner():
    assert way(matched=20_000, scan_cost=6_000).path is SearchPath.EXACT_FILTERED
    assert way(matched=20_000, scan_cost=7_000).path is SearchPath.HNSW_FILTERED


def test_many_matches_go_along_the_graph_as_they_are():
    chosen = way(matched=80_000)
    assert (chosen.path, chosen.ef_search) == (SearchPath.HNSW_FILTERED, 64)


def test_between_ef_search_is_raised_by_the_inverse_root_of_selectivity():
    chosen = way(matched=50_000)  # A quarter, so twice as many.
    assert (chosen.path, chosen.ef_search) == (SearchPath.HNSW_FILTERED, 128)


def test_what_a_filter_leaves_nearby_counts_where_that_is_less():
    assert way(matched=160_000, share_nearby=0.4).ef_search == 64
    assert way(matched=160_000, share_nearby=0.04).ef_search == 320
    assert way(matched=50_000, share_nearby=0.9).ef_search == 128


def test_a_filter_that_would_take_too_wide_a_search_is_exact():
    assert way(matched=12_500, ef_search=511, limits=SCANNING_COSTS).ef_search == 2_044
    chosen = way(matched=12_000, ef_search=511, limits=SCANNING_COSTS)
    assert chosen.path is SearchPath.EXACT_FILTERED
    # Four times what it was, it may be.
    assert way(matched=12_500, ef_search=600, limits=SCANNING_COSTS).ef_search == 2_400
    chosen = way(matched=12_000, ef_search=600, limits=SCANNING_COSTS)
    assert chosen.path is SearchPath.EXACT_FILTERED
    chosen = way(matched=50_000, ef_search=300, share_nearby=1 / 64, limits=SCANNING_COSTS)
    assert chosen.path is SearchPath.EXACT_FILTERED


def test_nothing_to_search_is_an_empty_path():
    assert way(matched=0).path is SearchPath.EMPTY
    assert way(items=0).path is SearchPath.EMPTY
    assert way(items=0, exact=True).path is SearchPath.EMPTY


def test_exact_is_exact_with_and_without_a_filter():
    assert way(exact=True).path is SearchPath.EXACT_SCAN
    assert way(exact=True, matched=150_000).path is SearchPath.EXACT_FILTERED


def test_ef_search_below_what_is_wanted_is_raised():
    assert way(wanted=500, ef_search=16).ef_search == 500


def test_a_shard_no_larger_than_ef_search_is_scanned():
    assert way(items=64).path is SearchPath.EXACT_SCAN
    assert way(items=65).path is SearchPath.HNSW


def test_more_candidates_are_rescored_for_more_hits_but_never_more_than_ef_search():
    assert way(wanted=100, ef_search=1_000).candidates == 400
    assert way(wanted=100, ef_search=200).candidates == 200


def test_too_few_found_means_wider_once_and_then_exact():
    first = way(matched=40_000)
    second = wider(first, LIMITS)
    assert (second.path, second.ef_search) == (SearchPath.HNSW_FILTERED, 572)
    assert wider(second, LIMITS).path is SearchPath.EXACT_FILTERED
    assert wider(wider(way(), LIMITS), LIMITS).path is SearchPath.EXACT_SCAN


FIRST = FirstTry(ef_search=30, score_enough=0.5, ef_search_wider=150)


def way_with_first_try(wanted=10, matched=None, exact=False):
    effort = Effort(ef_search=90, rescored=24, first_try=FIRST)
    return plan(Demand(wanted, effort, exact), ITEMS, matched, LIMITS)


def test_up_to_ten_hits_without_a_filter_begin_with_the_first_try():
    assert (way_with_first_try().ef_search, way_with_first_try().candidates) == (30, 24)
    assert way_with_first_try(wanted=3).ef_search == 30


def test_more_hits_filters_and_exact_searches_have_no_first_try():
    assert (way_with_first_try(wanted=11).ef_search, way_with_first_try(wanted=11).first_try) == (
        90,
        None,
    )
    assert way_with_first_try(matched=150_000).ef_search == 90
    assert way_with_first_try(exact=True).first_try is None


def test_an_ef_search_that_is_asked_for_has_no_first_try():
    assert Effort(90, 24, FIRST).at(40) == Effort(40, 24)


def test_only_low_scores_are_doubted_and_only_once():
    first = way_with_first_try()
    assert first.doubts(0.49)
    assert not first.doubts(0.5)
    second = wider(first, LIMITS)
    assert (second.ef_search, second.last_try) == (150, False)
    assert not second.doubts(0.0)
    assert wider(second, LIMITS).ef_search == 600
