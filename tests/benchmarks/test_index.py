from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gated, growth, index, shard_service
from benchmarks.control_group import memory_limit
from index_service.build.generation import BuildSettings, build_generation
from index_service.generation.manifest import generation_folder, read_manifest
from rpc.active import Active, write_active
from rpc.terminal import CommandError
from tests.index_service.catalogue import Catalogue, random_units


@dataclass
class Folders:
    work: Path
    queries: Path
    cache: Path
    results: list[dict] = field(default_factory=list)

    def keep(self, name, result):
        self.results.append(result)
        return name


@pytest.fixture
def folders(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    vectors = np.concatenate([random_units(rng, 900), np.tile(random_units(rng, 1), (100, 1))])
    work = Catalogue(vectors, random_units(rng, 20)).write(tmp_path / "work")
    np.save(tmp_path / "queries.npy", random_units(rng, 40))
    made = Folders(work, tmp_path / "queries.npy", tmp_path / "cache")
    for module in (index, growth):
        monkeypatch.setattr(module, "write_result", made.keep)
    return made


def run_index(folders, **options):
    defaults = {"items": 0, "m": 8, "ef_construction": 40, "required_recall": 0.9, "searches": 40}
    flags = {"with_hnsw_flat": True, "build_only": False, "calibrate_only": False, "name": "tiny"}
    index.main(folders.work, folders.queries, folders.cache, **{**defaults, **flags, **options})


def test_all_ways_are_compared_over_distinct_vectors_at_the_recall_asked_for(folders):
    run_index(folders)
    [result] = folders.results
    ways = {way["way"]: way for way in result["ways"]}
    assert result["items"] == 901
    assert list(ways) == ["flat", "vitrine", "vitrine_without_first_try", "hnsw_flat"]
    assert all(way["ann_recall_at_10"] >= 0.9 for way in ways.values())
    assert ways["flat"]["flat_p50_over_p50"] == ways["hnsw_flat"]["p50_over_hnsw_flat"] == 1.0


def test_a_second_run_builds_nothing_and_remembers_recalls(folders, monkeypatch):
    run_index(folders, build_only=True)
    run_index(folders, calibrate_only=True)
    assert not folders.results

    def refuse(*_):
        raise AssertionError("built or measured again")

    monkeypatch.setattr(index, "build_graph", refuse)
    monkeypatch.setattr(index, "share_found", refuse)
    monkeypatch.setattr(gated, "choose", refuse)
    run_index(folders)
    assert len(folders.results) == 1


def test_hnsw_flat_may_be_left_out(folders):
    run_index(folders, with_hnsw_flat=False)
    [result] = folders.results
    assert [way["way"] for way in result["ways"]] == [
        "flat",
        "vitrine",
        "vitrine_without_first_try",
    ]
    assert all(way["p50_over_hnsw_flat"] is None for way in result["ways"])


def test_growth_is_measured_at_equal_recall_by_items_shards_and_threads(
    folders, tmp_path, monkeypatch
):
    monkeypatch.setattr(growth, "PLOT", tmp_path / "growth.png")
    growth.main(
        folders.work,
        folders.queries,
        folders.cache,
        items=[200, 2_000],
        shards=[1, 3],
        sharded_items=600,
        threads=[1, 2],
        searches=20,
        seconds=0.05,
        build_only=False,
        calibrate_only=False,
        name="tiny",
    )
    [result] = folders.results
    assert [row["items"] for row in result["by_items"]] == [200, 901]
    assert [row["shards"] for row in result["by_shards"]] == [1, 3]
    points = [*result["by_items"], *result["by_shards"]]
    assert all(row["ann_recall_at_10"] >= growth.REQUIRED_RECALL for row in points)
    assert all(row["slowest_shard_us_p50"] <= row["core_us_p50"] for row in points)
    assert [row["threads"] for row in result["by_threads"]] == [1, 2]
    assert (tmp_path / "growth.png").stat().st_size > 1_000


@pytest.fixture
def generations(folders, tmp_path):
    folder = tmp_path / "generations"
    built = build_generation(folders.work, folder, BuildSettings(num_shards=1, m=8))
    write_active(str(folder), Active().promoted(built.generation, "promote", ""))
    return folder


def test_starts_are_timed_until_health_says_serving(generations, monkeypatch):
    monkeypatch.setattr(shard_service, "VERIFICATIONS", ("full",))
    [(kind, found)] = shard_service.measured_starts(generations, 0, starts=1).items()
    assert kind == "full"
    assert found["median"] == found["all"][0] > 0.1


def test_a_service_within_a_memory_limit_answers_as_one_without(generations, folders):
    try:
        with memory_limit(10**9):
            pass
    except CommandError as exc:
        pytest.skip(str(exc))
    manifest = read_manifest(generations / generation_folder(1))
    asked = np.load(folders.queries)
    # Far more than these few vectors take, for the interpreter needs its share.
    found = shard_service.measured_limit(generations, manifest, 0, limit=2_000.0, asked=asked)
    assert found["limit_bytes"] == 2_000 * found["raw_float32_bytes"] == 2_000 * 4 * 1_000 * 32
    assert 0 < found["peak_bytes"] <= found["limit_bytes"]
    assert found["limited"]["p50_us"] > 0
