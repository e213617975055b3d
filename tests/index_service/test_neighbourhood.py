"""The order of a graph's nodes."""

import faiss
import numpy as np

from index_service.build.neighbourhood import neighbourhood
from index_service.build.shard_files import build_graph
from index_service.generation.manifest import INDEX_KIND, IndexParameters
from tests.index_service.catalogue import random_units

PARAMETERS = IndexParameters(INDEX_KIND, m=8, ef_construction=40, seed=1)


def graph_of(count):
    halves = random_units(np.random.default_rng(0), count).astype(np.float16)
    return halves, *build_graph(halves, np.arange(count), PARAMETERS, None, lambda _: None)


def links_of(hnsw, node):
    start = int(faiss.vector_to_array(hnsw.offsets)[node])
    links = faiss.vector_to_array(hnsw.neighbors)[start : start + hnsw.nb_neighbors(0)]
    return {link for link in links.tolist() if link >= 0}


def breadth_first(hnsw):
    """The layers of a breadth-first walk, in plain sets."""
    layers, seen = [{hnsw.entry_point}], {hnsw.entry_point}
    while layers[-1]:
        layers.append({link for node in layers[-1] for link in links_of(hnsw, node)} - seen)
        seen |= layers[-1]
    return layers[:-1]


def test_nodes_come_layer_by_layer_from_the_entry_point():
    _, graph, _ = graph_of(400)
    order = neighbourhood(graph.hnsw, 400).tolist()
    assert sorted(order) == list(range(400))
    for layer in breadth_first(graph.hnsw):
        own, order = order[: len(layer)], order[len(layer) :]
        assert set(own) == layer
    assert order == sorted(order)


def test_a_built_graph_is_in_that_order_already():
    _, graph, _ = graph_of(400)
    assert graph.hnsw.entry_point == 0
    assert neighbourhood(graph.hnsw, 400)[:20].tolist() == list(range(20))


def test_each_node_holds_the_code_of_its_row():
    halves, graph, order = graph_of(300)
    _, found = graph.search(
        halves.astype(np.float32), 1, params=faiss.SearchParametersHNSW(efSearch=64)
    )
    assert np.mean(order[found[:, 0]] == np.arange(300)) >= 0.98


def test_no_nodes_have_an_order():
    assert neighbourhood(faiss.HNSW(4), 0).tolist() == []
