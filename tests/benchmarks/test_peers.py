import argparse
import json
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import peer_worker, peers
from benchmarks.peer_corpus import attributes_of
from benchmarks.peer_engines import OWN, Absent, Corpus, Effort, EngineOptions, open_engine
from benchmarks.peer_recall import Judge, ratios, smallest_enough, tenth_scores, values_between
from benchmarks.peer_worker import Failed, Worker
from protos.vitrine.v1 import types_pb2
from tests.index_service.catalogue import Catalogue, build, random_units


def unit(angle):
    return [np.cos(angle), np.sin(angle)]


def judge_of(angles, query=0.0):
    vectors = np.array([unit(angle) for angle in angles], dtype=np.float32)
    return Judge.over(vectors, np.array([unit(query)], dtype=np.float32))


def test_tenth_score_is_the_tenth_best_over_all_blocks(monkeypatch):
    monkeypatch.setattr("benchmarks.peer_recall._BLOCK_ROWS", 7)
    vectors = np.arange(25, dtype=np.float32)[:, np.newaxis]
    assert tenth_scores(vectors, np.array([[1], [-1]], dtype=np.float32)).tolist() == [15, -9]


def test_equal_vectors_stand_in_for_each_other():
    # The tenth best scores cos(0.5); three items do so, one of them among the exact ten.
    judge = judge_of([0.1] * 9 + [0.5, 0.5, 0.5, 1.0])
    nine = list(range(9))
    assert judge.recall(0, [[*nine, 9]]) == judge.recall(0, [[*nine, 11]]) == 1.0
    assert judge.recall(0, [[*nine, 12]]) == 0.9


def test_an_item_found_twice_counts_once():
    judge = judge_of([0.1] * 10)
    assert judge.recall(0, [[0, 1, 2, 3, 4, 0, 0, 0, 0, 0]]) == 0.5


def test_a_hit_may_score_less_by_the_allowance_alone():
    # Scores are the cosines: 1 ten times, then 0.9995 and 0.995.
    judge = judge_of([0.0] * 10 + [np.arccos(0.9995), np.arccos(0.995)])
    found = [[0, 1, 2, 3, 4, 5, 6, 7, 10, 11]]
    assert judge.recall(0, found) == 0.9
    assert judge.recall(0, found, allowance=1e-6) == 0.8


def test_fewer_items_than_ten_are_all_wanted():
    assert judge_of([0.1, 0.2]).recall(0, [[0, 1]]) == 1.0
    assert judge_of([0.1, 0.2]).recall(0, [[1]]) == 0.5


def test_recall_is_of_the_queries_from_the_first_one_on():
    vectors = np.array([[1, 0]] * 10 + [[0, 1]] * 10, dtype=np.float32)
    judge = Judge.over(vectors, np.array([[1, 0], [0, 1]], dtype=np.float32))
    assert judge.recall(1, [list(range(10, 20))]) == 1.0
    assert judge.recall(0, [list(range(10)), [*range(5), *range(10, 15)]]) == 0.75


@pytest.mark.parametrize(("required", "smallest"), [(0.1, 10), (0.5, 50), (0.51, 60), (1.01, None)])
def test_the_smallest_value_that_is_enough_is_found(required, smallest):
    values = list(range(10, 101, 10))
    assert smallest_enough(values, lambda value: value / 100, required) == smallest


def test_values_are_at_most_a_tenth_apart():
    values = values_between(10, 1_000)
    assert (values[0], values[-1]) == (10, 1_000)
    assert all(low < high <= low * 1.1 + 1 for low, high in pairwise(values))
    assert values_between(0, 0) == (0,)


def test_ratios_are_of_the_same_round_and_their_median_counts():
    found = ratios([10, 20, 60], {"a": [5, 20, 20], "b": [10, 5, 10], "c": [1, 1, 1]})
    # Of a: 2, 1, 3; of b: 1, 4, 6; best: 10/10, 20/20, 60/20; median: 10/5, 20/5, 60/10.
    assert found["to_each"] == {"a": 2.0, "b": 4.0, "c": 20.0}
    assert (found["to_best"], found["to_median"]) == (1.0, 4.0)


def test_attributes_are_as_an_input_file_has_them():
    item = types_pb2.Item(item_id="d1", title="Dress")
    item.attributes["price"].number = 9.5
    item.attributes["brand"].keyword = "Acme"
    item.attributes["sizes"].keywords.values.extend(["S", "M"])
    item.attributes["listed"].time.FromJsonString("2024-05-01T00:00:00Z")
    item.attributes["sold"].flag = False
    assert attributes_of(item) == {
        "brand": "Acme", "listed": {"time": "2024-05-01T00:00:00Z"}, "price": 9.5,
        "sizes": ["S", "M"], "sold": False,
    }  # fmt: skip


class Fake:
    """Finds the first value / 10 of ten items, so many searches a second."""

    def __init__(self, name, rate, highest=1_000):
        self.name, self.rate, self.closed = name, rate, False
        variant = {"name": "hnsw", "parameter": "ef", "lowest": 10, "highest": highest}
        self.about = {"versions": {}, "settings": {}, "variants": [variant]}

    def find(self, effort, start, stop):
        return [[str(row) for row in range(min(10, effort.value // 10))]] * (stop - start), 1.0

    def time(self, effort, callers, seconds, start):
        if self.rate is None:
            raise Failed("out of memory")
        return {"searches_a_second": self.rate, "p50_ms": 1, "p95_ms": 2, "memory": {}}

    def close(self):
        self.closed = True


def compared(systems, targets):
    options = argparse.Namespace(
        targets=targets, rounds=2, seconds=0, allowance=1e-3,
        tuning_queries=1, reported_queries=1, timed_queries=4,
    )  # fmt: skip
    vectors = np.array([unit(0.0)] * 10, dtype=np.float32)
    exported = SimpleNamespace(row_of={str(row): row for row in range(10)})
    course = peers.Course(options, exported, Judge.over(vectors, vectors[:2]), {})
    contenders = [peers.Contender(system.name, system) for system in systems]
    return peers.compared(contenders, course, [16])


def test_all_are_measured_at_the_smallest_value_that_is_enough_and_then_ended():
    systems = [Fake("vitrine", 30), Fake("slow", 10), Fake("fast", 20)]
    [found] = compared(systems, [0.5])["targets"]
    # Of values a tenth apart, 51 follows 46.
    assert {51} == {engine["value"] for engine in found["engines"].values()}
    assert found["vitrine_over_peers_at_16_callers"] == {
        "to_each": {"slow": 3.0, "fast": 1.5}, "to_best": 1.5, "to_median": 2.0,
    }  # fmt: skip
    assert all(system.closed for system in systems)


def test_who_fails_or_finds_too_little_is_told_with_the_reason_and_in_no_ratio():
    systems = [Fake("vitrine", 30), Fake("failing", None), Fake("weak", 10, highest=60)]
    found = compared(systems, [0.9])
    [target] = found["targets"]
    assert found["engines"]["failing"]["reason"] == "out of memory"
    assert target["engines"]["weak"]["reason"].startswith("does not reach 0.9: at most 0.6000")
    assert target["vitrine_over_peers_at_16_callers"]["to_each"] == {}


def test_an_engine_without_its_library_is_absent(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(Absent, match="not installed"):
        open_engine("usearch", EngineOptions(tmp_path, 0, 8, 40, 1, 10, 2))


def test_a_worker_loads_an_engine_and_answers_from_a_process_of_its_own(tmp_path):
    vectors = np.eye(12, dtype=np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "queries.npy", vectors[[3, 7]])
    (tmp_path / "texts.json").write_text("[]")
    engine = EngineOptions(tmp_path, 0, 8, 40, 1, *vectors.shape)
    files = {
        "bundle": "", "corpus": str(tmp_path), "texts": str(tmp_path / "texts.json"),
        "queries": str(tmp_path / "queries.npy"),
        "engine": {**{n: getattr(engine, n) for n in engine.__slots__}, "folder": str(tmp_path)},
    }  # fmt: skip
    assert peer_worker.load("faiss_flat", files, sys.executable) > 0
    worker = Worker("faiss_flat", files, sys.executable)
    try:
        ids, _ = worker.find(Effort("exact", 0), 0, 2)
        assert [found[0] for found in ids] == ["3", "7"]
        timed = worker.time(Effort("exact", 0), callers=2, seconds=0.05, start=0)
        assert timed["searches_a_second"] > 0
    finally:
        worker.close()


def test_items_come_in_batches_with_their_vectors(tmp_path):
    np.save(tmp_path / "vectors.npy", np.eye(5, dtype=np.float32))
    lines = [json.dumps([f"d{row}", f"title {row}", "{}"]) for row in range(5)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines) + "\n")
    batches = list(Corpus(tmp_path).batches(2))
    assert [[item.item_id for item in items] for items, _ in batches] == [
        ["d0", "d1"], ["d2", "d3"], ["d4"],
    ]  # fmt: skip
    assert np.concatenate([vectors for _, vectors in batches]).tolist() == np.eye(5).tolist()


def test_own_shards_stand_in_a_peers_place(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 300), random_units(rng, 4))
    build(catalogue, tmp_path, num_shards=2, m=8, ef_construction=40)
    folder = tmp_path / "generations" / "000001"
    dim = catalogue.vectors.shape[1]
    engine = open_engine(OWN, EngineOptions(folder, 0, 8, 40, 1, 300, dim))
    engine.open()
    [query] = random_units(rng, 1).astype(np.float32)
    exact = [item_id for item_id, _ in catalogue.best(query, 10)]
    for variant, value in (("as promoted", 0), ("hnsw", 200)):
        engine.tune(Effort(variant, value))
        with engine.searcher() as search:
            found = [hit.item_id for hit in search(query)]
        assert len(set(found) & set(exact)) >= 9
