"""Rows that share a vector."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index_service.copies import Copies, first_rows, nodes_of, renumbered
from index_service.filter import Bound, Range
from index_service.planner import PlanLimits, SearchPath
from index_service.query import Query
from tests.index_service.catalogue import Catalogue, build, never, open_shard, random_units

GROUPS = st.lists(st.integers(0, 6), min_size=1, max_size=40)


def vectors_of(groups):
    return np.array([[group, 1, -group] for group in groups], dtype=np.float16)


@given(GROUPS)
def test_rows_share_a_node_when_they_share_a_vector(groups):
    nodes = nodes_of(vectors_of(groups)).tolist()
    in_order = list(dict.fromkeys(groups))
    assert nodes == [in_order.index(group) for group in groups]
    assert first_rows(np.array(nodes)).tolist() == [groups.index(group) for group in in_order]


@given(GROUPS, st.integers(1, 5), st.data())
def test_rows_of_nodes_are_the_first_allowed_of_each(groups, most, data):
    nodes = nodes_of(vectors_of(groups))
    nodes = renumbered(nodes, np.array(data.draw(st.permutations(range(max(nodes) + 1)))))
    copies = Copies(nodes)
    asked = data.draw(st.permutations(range(copies.num_nodes)))[: data.draw(st.integers(0, 7))]
    allowed = data.draw(
        st.none() | st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))
    )
    if copies.num_nodes == len(groups):
        # Without copies, a node has one row, and the graph has looked at what is allowed.
        allowed = None
    expected = []
    for node in asked:
        rows = [row for row in range(len(groups)) if nodes[row] == node]
        expected += [row for row in rows if allowed is None or allowed[row]][:most]
    mask = None if allowed is None else np.array(allowed)
    assert copies.rows_of(np.array(asked, dtype=np.int64), most, mask).tolist() == expected


@given(GROUPS, st.data())
def test_a_node_is_allowed_when_one_of_its_rows_is(groups, data):
    nodes = nodes_of(vectors_of(groups))
    nodes = renumbered(nodes, np.array(data.draw(st.permutations(range(max(nodes) + 1)))))
    copies = Copies(nodes)
    allowed = data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups)))
    expected = [
        any(good for good, own in zip(allowed, nodes, strict=True) if own == node)
        for node in range(copies.num_nodes)
    ]
    assert copies.mask_of_nodes(np.array(allowed)).tolist() == expected


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """2,000 items of their own, and 6 vectors that 300 items each share."""
    rng = np.random.default_rng(0)
    shared = random_units(rng, 6)
    vectors = np.concatenate([random_units(rng, 2000), np.repeat(shared, 300, axis=0)])
    rng.shuffle(vectors)
    prices = [{"price": float(row)} for row in range(len(vectors))]
    catalogue = Catalogue(vectors, random_units(rng, 64), prices)
    home = tmp_path_factory.mktemp("crowded")
    return home, catalogue, shared, build(catalogue, home, ef_construction=100)


def test_crowds_of_copies_do_not_hide_the_others(crowded):
    built = crowded[3]
    assert built.ann_recall_at_10 >= 0.99
    assert built.ef_search <= 128


@pytest.mark.parametrize("filtered", [False, True])
def test_copies_are_found_in_the_order_of_their_ids(crowded, filtered):
    home, catalogue, shared, _ = crowded
    limits = PlanLimits(rows_a_candidate=0, graph_selectivity_min=0.05)
    shard = open_shard(home, limits=limits)
    shard.load(1)
    tree = Range("price", Bound(1900.0, True), None) if filtered else None
    for query in shared:
        with shard.hold(1) as hold:
            [hits] = shard.search(hold, [Query(query, 40, filter=tree, ef_search=64)], never)
        path = SearchPath.HNSW_FILTERED if filtered else SearchPath.HNSW
        assert hits.profile.path is path
        found = list(zip(hits.item_ids, hits.scores.tolist(), strict=True))
        assert found == catalogue.best(query, 40, lambda row: row >= 1900 or not filtered)


def test_excluded_copies_leave_room_for_the_next(crowded):
    home, catalogue, shared, _ = crowded
    shard = open_shard(home)
    shard.load(1)
    best = [item_id for item_id, _ in catalogue.best(shared[0], 60)]
    query = Query(shared[0], 10, ef_search=64, exclude_item_ids=tuple(best[:50]))
    with shard.hold(1) as hold:
        [hits] = shard.search(hold, [query], never)
    assert hits.item_ids == best[50:60]
