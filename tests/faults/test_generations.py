"""Damaged generations are never served; good ones change under load without a failed search."""

import os
import time
from pathlib import Path

import orjson
import pytest

from protos.vitrine.v1 import admin_pb2, index_pb2
from tests.faults.load import Load
from tests.system.deployment import (
    NUM_SHARDS,
    add_copy_of_generation,
    copy_home,
    read_items,
    write_items,
)
from tests.system.polling import eventually
from tests.system.processes import succeed, vitrine
from tests.system.web import metric
from tests.system.wire import failure_of

SHARD = "shard-0002"
NEW = "new-"


def cut_short(folder: Path) -> str:
    file = folder / SHARD / "graph.faiss"
    os.truncate(file, file.stat().st_size - 1000)
    return "graph.faiss"


def empty(folder: Path) -> str:
    os.truncate(folder / SHARD / "vectors.f16", 0)
    return "vectors.f16"


def flip_a_bit(folder: Path) -> str:
    file = folder / SHARD / "vectors.f16"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return "vectors.f16"


def flip_a_bit_of_the_graph(folder: Path) -> str:
    file = folder / SHARD / "graph.faiss"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x80
    file.write_bytes(content)
    return "graph.faiss"


def lose_a_file(folder: Path) -> str:
    (folder / SHARD / "item_ids.arrow").unlink()
    return "item_ids.arrow"


def name_a_missing_file(folder: Path) -> str:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    manifest["shards"][2]["files"]["more.bin"] = {"bytes": 5, "sha256": "0" * 64}
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    return "more.bin"


def cut_the_manifest(folder: Path) -> str:
    os.truncate(folder / "manifest.json", 200)
    return "manifest.json"


def lose_the_manifest(folder: Path) -> str:
    (folder / "manifest.json").unlink()
    return "manifest.json"


DAMAGES = (
    cut_short,
    empty,
    flip_a_bit,
    flip_a_bit_of_the_graph,
    lose_a_file,
    name_a_missing_file,
    cut_the_manifest,
    lose_the_manifest,
)


def held(cluster, shard: int) -> set[int]:
    request = index_pb2.DescribeShardRequest()
    described = cluster.stubs(f"shard-{shard}").index.DescribeShard(request, timeout=10)
    return {entry.generation for entry in described.generations}


def promote(cluster, generation: int, **fields) -> admin_pb2.PromoteGenerationResponse:
    request = admin_pb2.PromoteGenerationRequest(generation=generation, **fields)
    return cluster.stubs().admin.PromoteGeneration(request, timeout=60)


def rollback(cluster) -> admin_pb2.RollbackGenerationResponse:
    request = admin_pb2.RollbackGenerationRequest()
    return cluster.stubs().admin.RollbackGeneration(request, timeout=60)


def test_a_promotion_is_refused_where_one_shard_lacks_the_memory_and_the_other_serves_on(cluster):
    one = metric(cluster.shard(0).http_address, "vitrine_index_memory_estimated_bytes")
    add_copy_of_generation(cluster.home, 1, 115)
    before = (cluster.home / "generations" / "active.json").read_bytes()
    cluster.shard(0).kill()
    tight = cluster.start_again("shard-0", MEMORY_BUDGET_BYTES=int(1.5 * one))
    cluster.wait_until_whole()

    failure = failure_of(lambda: promote(cluster, 115, force_reason="even by force"))
    assert failure.code == "RESOURCE_EXHAUSTED"
    assert "generation 115 needs about" in failure.message

    assert cluster.search(text="red hat", min_coverage=1.0).generation == 1
    assert [held(cluster, shard) for shard in range(NUM_SHARDS)] == [{1}] * NUM_SHARDS
    assert (cluster.home / "generations" / "active.json").read_bytes() == before
    tight.kill()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_generation_is_refused_by_name_and_the_other_serves_on(cluster, damage):
    number = 100 + DAMAGES.index(damage)
    file = damage(add_copy_of_generation(cluster.home, 1, number))
    before = (cluster.home / "generations" / "active.json").read_bytes()

    failure = failure_of(lambda: promote(cluster, number, force_reason="even by force"))
    assert (failure.code, failure.reason) == ("DATA_LOSS", "DATA_LOSS")
    assert failure.detail("ErrorInfo")["metadata"]["file"].endswith(file)
    assert file in failure.message

    response = cluster.search(text="red hat", min_coverage=1.0)
    assert response.generation == 1
    assert (cluster.home / "generations" / "active.json").read_bytes() == before
    eventually(
        lambda: all(held(cluster, shard) == {1} for shard in range(4)),
        "no shard keeps any part of it",
    )


def test_a_damaged_generation_is_told_by_the_command_line(cluster):
    folder = add_copy_of_generation(cluster.home, 1, 120)
    file = flip_a_bit(folder)
    at = ("--home", cluster.home)
    for command in ("verify", "promote"):
        ran = vitrine("generation", command, 120, *at)
        assert ran.status == 1
        assert file in ran.error
    cut_the_manifest(folder)
    listed = vitrine("generation", "list", *at, "--json").document["generations"]
    (entry,) = (each for each in listed if each["generation"] == 120)
    assert "manifest.json" in entry["error"]


@pytest.mark.parametrize("damage", [cut_short, lose_the_manifest], ids=lambda each: each.__name__)
def test_a_damaged_promoted_generation_does_not_come_up(built_home, tmp_path, damage):
    home = copy_home(built_home, tmp_path / "home")
    file = damage(home / "generations" / "000001")
    started_s = time.monotonic()
    ran = vitrine("up", "--home", home, "--port", 0, "--detach")
    assert ran.status == 1
    assert ran.out == ""
    assert file in ran.error or "its files are gone" in ran.error
    assert time.monotonic() - started_s < 60
    assert vitrine("status", "--home", home, "--json").document["running"] is False


def test_a_damaged_pointer_stops_nothing_that_serves(cluster):
    pointer = cluster.home / "generations" / "active.json"
    sound = pointer.read_bytes()
    try:
        pointer.write_bytes(sound[:40])
        failure = failure_of(lambda: promote(cluster, 1))
        assert failure.code == "DATA_LOSS"
        assert "active.json" in failure.message
        assert cluster.search(text="red hat", min_coverage=1.0).generation == 1
    finally:
        pointer.write_bytes(sound)


@pytest.fixture(scope="module")
def new_generation(standing_cluster, sample_file, minilm_bundle, tmp_path_factory) -> int:
    """A generation of the same items under other ids, built while the cluster serves."""
    folder = tmp_path_factory.mktemp("new")
    renamed = [{**item, "item_id": f"{NEW}{item['item_id']}"} for item in read_items(sample_file)]
    write_items(folder / "items.jsonl.gz", renamed)
    options = ["--items", folder / "items.jsonl.gz", "--bundle", minilm_bundle]
    options += ["--home", standing_cluster.home, "--catalog", f"sqlite:///{folder}/new.sqlite"]
    ran = succeed(vitrine("build", *options, "--json"))
    assert ran.document["stages"]["embed"]["embedded"] == 0, "the texts are the same"
    return int(ran.document["generation"])


def test_searches_under_load_see_one_generation_or_the_other(cluster, new_generation):
    with Load(cluster.address, callers=6) as load:
        for _ in range(3):
            assert promote(cluster, new_generation).generation == new_generation
            load.wait_for_more(20)
            assert rollback(cluster).generation == 1
            load.wait_for_more(20)
    assert load.failures == []
    seen = set()
    for outcome in load.outcomes:
        response = outcome.response
        assert response.coverage.fraction == 1
        assert len(response.results) == 10
        are_new = {hit.item_id.startswith(NEW) for hit in response.results}
        assert are_new == {response.generation == new_generation}
        seen.add(response.generation)
    assert seen == {1, new_generation}


def test_who_kept_to_the_old_generation_is_told_when_it_goes(cluster, new_generation):
    promote(cluster, new_generation)
    assert cluster.search(text="red hat", generation=1).generation == 1
    third = add_copy_of_generation(cluster.home, 1, 130)
    assert third.is_dir()
    promote(cluster, 130)
    failure = failure_of(lambda: cluster.search(text="red hat", generation=1))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "GENERATION_RETIRED")
    promote(cluster, 1)


def test_a_shard_that_is_started_again_follows_the_promotion(cluster, new_generation):
    promote(cluster, new_generation)
    cluster.shard(3).kill()
    assert cluster.search(text="red hat").coverage.fraction < 1
    cluster.start_again("shard-3")
    assert new_generation in held(cluster, 3)

    def whole() -> bool:
        response = cluster.search(text="red hat")
        assert {hit.item_id.startswith(NEW) for hit in response.results} == {True}
        return response.coverage.fraction == 1

    eventually(whole, "the new generation is searched whole")
    promote(cluster, 1)


def test_a_gateway_beside_follows_the_promotion(cluster, new_generation):
    with cluster.stubs_beside("gateway.second") as stubs:

        def followed() -> int:
            request = admin_pb2.DescribeClusterRequest()
            return int(stubs.admin.DescribeCluster(request, timeout=10).generation)

        assert followed() == 1
        promote(cluster, new_generation)
        eventually(lambda: followed() == new_generation, "the other gateway follows")
        promote(cluster, 1)
        eventually(lambda: followed() == 1, "and back")
