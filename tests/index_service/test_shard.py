"""Searching one shard and several, against the simplest possible search."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_service.filter import AllOf, Bound, Equals, NoneOf, Range
from index_service.holdings import State
from index_service.planner import Effort, FirstTry, PlanLimits, SearchPath
from index_service.query import Query
from index_service.shard import search_segment
from rpc.buckets import bucket_of, shard_of
from rpc.errors import FailedPrecondition, NotFound, ResourceExhausted
from tests.index_service.catalogue import (
    ENCODER_ID,
    Catalogue,
    build,
    never,
    open_shard,
    random_attributes,
    random_units,
    tied_units,
)

ALWAYS_GRAPH = PlanLimits(rows_a_candidate=0, graph_selectivity_min=0.05)


def search(shard, *queries, generation=1):
    with shard.hold(generation, ENCODER_ID) as hold:
        return shard.search(hold, queries, never)


def pairs(hits):
    return list(zip(hits.item_ids, hits.scores.tolist(), strict=True))


@pytest.fixture(scope="module")
def random_home(tmp_path_factory):
    """2,000 random items with attributes, one shard."""
    home = tmp_path_factory.mktemp("random")
    rng = np.random.default_rng(0)
    catalogue = Catalogue(
        random_units(rng, 2000), random_units(rng, 64), random_attributes(rng, 2000)
    )
    build(catalogue, home)
    return home, catalogue


@pytest.fixture
def shard(random_home):
    opened = open_shard(random_home[0])
    opened.load(1)
    return opened


@pytest.fixture(scope="module")
def tied_shards(tmp_path_factory):
    """1,200 items whose scores nearly all tie, cut into 1, 2, 4 and 7 shards."""
    rng = np.random.default_rng(1)
    vectors = tied_units(rng, 1200)
    vectors[600:900] = vectors[:300]
    attributes = [{"price": float(row % 10)} for row in range(1200)]
    catalogue = Catalogue(vectors, tied_units(rng, 8), attributes)
    by_count = {}
    for count in (1, 2, 4, 7):
        home = tmp_path_factory.mktemp(f"tied-{count}")
        build(catalogue, home, num_shards=count, m=8, ef_construction=16)
        shards = [open_shard(home, number) for number in range(count)]
        for each in shards:
            each.load(1)
        by_count[count] = shards
    return catalogue, by_count


def merged(shards, query):
    found = [pair for shard in shards for pair in pairs(search(shard, query)[0])]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[: query.fetch_k]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 60), filtered=st.booleans())
def test_exact_search_is_the_same_over_1_2_4_and_7_shards_ties_included(
    tied_shards, seed, k, filtered
):
    catalogue, by_count = tied_shards
    [embedding] = tied_units(np.random.default_rng(seed), 1)
    tree = Range("price", Bound(3.0, True), Bound(6.0, False)) if filtered else None
    query = Query(embedding=embedding, fetch_k=k, filter=tree, exact=True)
    expected = catalogue.best(
        embedding, k, lambda row: not filtered or 3.0 <= catalogue.attributes[row]["price"] < 6.0
    )
    for shards in by_count.values():
        assert merged(shards, query) == expected


def test_every_item_is_on_the_shard_that_its_bucket_says(tied_shards):
    catalogue, by_count = tied_shards
    for count, shards in by_count.items():
        for number, shard in enumerate(shards):
            with shard.hold(1) as hold:
                held = hold.segment.item_ids(np.arange(hold.segment.items))
            expected = [
                item_id
                for item_id in catalogue.item_ids
                if shard_of(bucket_of(item_id), count) == number
            ]
            assert held == expected


def test_hnsw_finds_what_exact_search_finds(random_home, shard):
    _, catalogue = random_home
    queries = [Query(embedding=probe, fetch_k=10) for probe in catalogue.probes]
    found = 0
    for query, hits in zip(queries, search(shard, *queries), strict=True):
        assert hits.profile.path is SearchPath.HNSW
        expected = dict(catalogue.best(query.embedding, 10))
        found += len(expected.keys() & set(hits.item_ids))
        scores = hits.scores.tolist()
        assert scores == sorted(scores, reverse=True)
        shared = {item_id: score for item_id, score in pairs(hits) if item_id in expected}
        assert shared == {item_id: expected[item_id] for item_id in shared}
    assert found / (10 * len(queries)) >= 0.97


def test_a_query_finds_the_same_alone_and_in_a_batch(random_home, shard):
    _, catalogue = random_home
    queries = [
        Query(embedding=probe, fetch_k=5 + place, exact=place % 3 == 0)
        for place, probe in enumerate(catalogue.probes[:20])
    ]
    together = search(shard, *queries)
    for query, hits in zip(queries, together, strict=True):
        assert pairs(search(shard, query)[0]) == pairs(hits)


@pytest.mark.parametrize("tree", [Equals("brand", "Acme"), NoneOf((Equals("sale", True),))])
def test_a_filter_along_the_graph_finds_only_matches_and_nearly_all_of_the_best(random_home, tree):
    home, catalogue = random_home
    shard = open_shard(home, limits=ALWAYS_GRAPH)
    shard.load(1)

    def keep(row):
        item = catalogue.attributes[row]
        if isinstance(tree, Equals):
            return item.get("brand") == "Acme"
        return not item.get("sale", False)

    allowed = {catalogue.item_ids[row] for row in range(2000) if keep(row)}
    found = 0
    for probe in catalogue.probes:
        query = Query(embedding=probe, fetch_k=10, filter=tree, ef_search=200)
        [hits] = search(shard, query)
        assert hits.profile.path is SearchPath.HNSW_FILTERED
        assert hits.items_matched == len(allowed)
        assert hits.profile.selectivity == len(allowed) / 2000
        assert set(hits.item_ids) <= allowed
        expected = {item_id for item_id, _ in catalogue.best(probe, 10, keep)}
        found += len(expected & set(hits.item_ids))
    assert found / (10 * len(catalogue.probes)) >= 0.95


def test_few_matches_are_searched_exactly(random_home, shard):
    _, catalogue = random_home
    for probe in catalogue.probes[:10]:
        query = Query(embedding=probe, fetch_k=10, filter=Equals("brand", "日本"))
        [hits] = search(shard, query)
        assert hits.profile.path is SearchPath.EXACT_FILTERED
        expected = catalogue.best(
            probe, 10, lambda row: catalogue.attributes[row].get("brand") == "日本"
        )
        assert pairs(hits) == expected


def test_a_filter_that_nothing_matches_gives_no_hits(shard, random_home):
    query = Query(random_home[1].probes[0], 10, filter=Equals("brand", "nobody"))
    [hits] = search(shard, query)
    assert (hits.item_ids, hits.items_matched, hits.profile.path) == ([], 0, SearchPath.EMPTY)


@pytest.mark.parametrize("exact", [True, False])
def test_excluded_items_leave_room_for_as_many_hits_as_asked(random_home, shard, exact):
    _, catalogue = random_home
    probe = catalogue.probes[0]
    best = [item_id for item_id, _ in catalogue.best(probe, 60)]
    excluded = (*best[:30], "unknown item", best[0])
    [hits] = search(shard, Query(probe, 10, exclude_item_ids=excluded, exact=exact, ef_search=400))
    assert hits.item_ids == best[30:40]


def test_all_items_but_the_excluded_are_found_when_more_are_asked_for(random_home, shard):
    _, catalogue = random_home
    excluded = tuple(catalogue.item_ids[:5])
    [hits] = search(shard, Query(catalogue.probes[0], 2000, exclude_item_ids=excluded))
    assert sorted(hits.item_ids) == catalogue.item_ids[5:]


def test_a_graph_that_reaches_too_little_is_followed_by_an_exact_search(random_home):
    home, catalogue = random_home
    limits = PlanLimits(rows_a_candidate=0, graph_selectivity_min=0.0, ef_filtered_max=16)
    shard = open_shard(home, limits=limits)
    shard.load(1)
    tree = AllOf((Equals("brand", "Acme"), Equals("sale", True), Equals("price", 25.0)))

    def keep(row):
        item = catalogue.attributes[row]
        return (item.get("brand"), item.get("sale"), item.get("price")) == ("Acme", True, 25.0)

    matching = sum(map(keep, range(2000)))
    assert 10 <= matching <= 60
    [hits] = search(shard, Query(catalogue.probes[0], 10, filter=tree, ef_search=16))
    assert pairs(hits) == catalogue.best(catalogue.probes[0], 10, keep)
    assert hits.profile.path is SearchPath.EXACT_FILTERED
    assert hits.profile.rescored > 10


def test_a_filter_on_what_lies_elsewhere_is_searched_exactly(tmp_path):
    # Half of the items match, and none of them are near the queries.
    rng = np.random.default_rng(3)
    vectors = random_units(rng, 2_000)
    vectors[:, 0] = np.where(np.arange(2_000) < 1_000, 1.0, -1.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    probes = vectors[:20]
    attributes = [{"far": row >= 1_000} for row in range(2_000)]
    catalogue = Catalogue(vectors, probes, attributes)
    build(catalogue, tmp_path)
    # Scanning a thousand rows that lie together costs 512 here, in rows that lie scattered.
    shard = open_shard(tmp_path, limits=PlanLimits(rows_a_candidate=1))
    shard.load(1)
    for probe in probes:
        # Of its 64 neighbours none match, of all items half do: 200 is raised to 1,600, not to 282.
        [hits] = search(shard, Query(probe, 10, filter=Equals("far", True), ef_search=200))
        assert hits.profile.path is SearchPath.EXACT_FILTERED
        assert pairs(hits) == catalogue.best(probe, 10, lambda row: row >= 1_000)


@pytest.mark.parametrize(("score_enough", "as_with"), [(-1.0, 16), (1.1, 400)])
def test_a_first_try_answers_unless_its_scores_are_too_low(
    random_home, shard, score_enough, as_with
):
    queries = [Query(embedding=probe, fetch_k=5) for probe in random_home[1].probes]
    first_try = Effort(100, 24, FirstTry(16, score_enough, 400))
    with shard.hold(1) as hold:
        tried, plain = (
            search_segment(hold.segment, queries, effort, PlanLimits(), never)
            for effort in (first_try, Effort(as_with, 24))
        )
    assert [pairs(hits) for hits in tried] == [pairs(hits) for hits in plain]
    assert {hits.profile.ef_search for hits in tried} == {as_with}


def test_each_query_of_a_batch_is_doubted_for_its_own_tenth_score(random_home, shard):
    _, catalogue = random_home
    queries = [Query(embedding=probe, fetch_k=3) for probe in catalogue.probes]
    tenths = np.array([catalogue.best(probe, 10)[-1][1] for probe in catalogue.probes])
    middle = float(np.median(tenths))
    # So many candidates that all ten best are found at once.
    effort = Effort(300, 64, FirstTry(250, middle, 400))
    with shard.hold(1) as hold:
        found = search_segment(hold.segment, queries, effort, PlanLimits(), never)
    efs = [hits.profile.ef_search for hits in found]
    assert efs == [400 if tenth < middle else 250 for tenth in tenths]


def test_a_remembered_filter_gives_the_same_matches(random_home, shard):
    tree = Range("price", Bound(5.0, True), None)
    with shard.hold(1) as hold:
        assert hold.segment.matches(tree, never) is hold.segment.matches(tree, never)
        assert hold.segment.matches(tree, never).count == sum(
            item.get("price", 0.0) >= 5.0 for item in random_home[1].attributes
        )


def test_row_of_finds_items_that_are_here_and_no_others(random_home, shard):
    with shard.hold(1) as hold:
        for row in (0, 1, 999, 1999):
            assert hold.segment.row_of(random_home[1].item_ids[row]) == row
        for missing in ("", "item-", "item-0000005", "item-002000", "zzz", "日本"):
            assert hold.segment.row_of(missing) is None


# Generations come and go.


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_generation_never_loaded_is_not_found(random_home):
    with pytest.raises(NotFound, match="no such generation: 1"):
        open_shard(random_home[0]).hold(1)


def test_loading_twice_is_loading_once(shard):
    assert shard.load(1).load_us == 0


def test_a_released_generation_is_retired_until_loaded_again(shard):
    assert shard.release(1) is True
    assert shard.release(1) is False
    with pytest.raises(FailedPrecondition) as refused:
        shard.hold(1)
    assert refused.value.reason == "GENERATION_RETIRED"
    shard.load(1)
    with shard.hold(1):
        pass


def test_release_waits_for_the_searches_that_hold_the_generation(shard, random_home):
    hold = shard.hold(1)
    releasing = threading.Thread(target=shard.release, args=(1,))
    releasing.start()
    wait_until(lambda: shard.holdings()[0].state is State.RELEASING)
    with pytest.raises(FailedPrecondition):
        shard.hold(1)
    # What is held can still be searched.
    [hits] = shard.search(hold, [Query(random_home[1].probes[0], 3)], never)
    assert len(hits.item_ids) == 3
    assert releasing.is_alive()
    hold.close()
    hold.close()
    releasing.join(timeout=10)
    assert shard.holdings() == []


def test_searches_go_on_while_generations_come_and_go(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 600), random_units(rng, 8))
    build(catalogue, tmp_path)
    build(catalogue, tmp_path)
    shard = open_shard(tmp_path)
    shard.load(1)
    expected = [pairs(search(shard, Query(probe, 5, exact=True))[0]) for probe in catalogue.probes]
    stop, failures, answered = threading.Event(), [], []

    def search_on():
        number = 0
        while not stop.is_set():
            number = (number + 1) % 8
            generation = max(
                held.generation for held in shard.holdings() if held.state is State.READY
            )
            try:
                hits = search(
                    shard, Query(catalogue.probes[number], 5, exact=True), generation=generation
                )
            except FailedPrecondition:
                continue  # released between choosing and holding
            answered.append(generation)
            if pairs(hits[0]) != expected[number]:
                failures.append((generation, pairs(hits[0])))

    threads = [threading.Thread(target=search_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        shard.load(2)
        seen = len(answered)
        wait_until(lambda: len(answered) >= seen + 3)  # noqa: B023
        shard.release(2)
    stop.set()
    for thread in threads:
        thread.join(timeout=10)
    assert failures == []
    assert {1, 2} == set(answered)


def test_queries_of_another_encoder_are_refused_and_compatible_ones_are_not(shard):
    with pytest.raises(FailedPrecondition) as refused:
        shard.hold(1, "encoder-z")
    assert refused.value.reason == "ENCODER_MISMATCH"
    assert (refused.value.expected, refused.value.got) == (ENCODER_ID, "encoder-z")
    with shard.hold(1, "encoder-b"):
        pass
    assert shard.release(1)


def test_a_shard_that_the_generation_does_not_have_is_refused(random_home):
    with pytest.raises(FailedPrecondition, match=r"into 1 shards, 0\.\.0; this is shard 3"):
        open_shard(random_home[0], number=3).load(1)


def test_more_generations_than_allowed_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(2):
        build(Catalogue(random_units(rng, 20), random_units(rng, 4)), tmp_path)
    shard = open_shard(tmp_path, generations_max=1)
    shard.load(1)
    with pytest.raises(ResourceExhausted, match="release one first"):
        shard.load(2)
    shard.release(1)
    shard.load(2)
