"""Builds: what is written, what is kept, what is refused."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from index_service.build.generation import BuildSettings, build_generation
from index_service.build.reshard import reshard
from index_service.generation.manifest import AttributeKind
from index_service.generation.verify import verify
from index_service.query import Query
from rpc.terminal import CommandError
from tests.index_service.catalogue import (
    Catalogue,
    build,
    manifest_of,
    never,
    open_shard,
    random_attributes,
    random_units,
    tied_units,
)


def random_catalogue(count, seed=0, attributes=True):
    rng = np.random.default_rng(seed)
    return Catalogue(
        random_units(rng, count),
        random_units(rng, 32),
        random_attributes(rng, count) if attributes else [],
    )


def checksums(home, generation=1):
    manifest = manifest_of(home, generation)
    return {path: entry.sha256 for path, entry in manifest.files_by_path().items()}


def run_build(home, *options, **popen):
    command = [sys.executable, "-m", "index_service.build"]
    command += ["--work", str(home / "work"), "--generations", str(home / "generations"), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def test_the_manifest_tells_what_was_built(tmp_path):
    catalogue = random_catalogue(900)
    built = build(catalogue, tmp_path, num_shards=3)
    manifest = manifest_of(tmp_path)
    assert (built.generation, built.items, built.shards) == (1, 900, 3)
    assert manifest.seq == 77
    assert manifest.encoder.encoder_id == "encoder-a"
    assert manifest.compatible_encoder_ids == ("encoder-b",)
    assert sum(shard.items for shard in manifest.shards) == 900
    assert verify(tmp_path / "generations" / "000001", manifest) == manifest.size_bytes
    assert built.bytes == manifest.size_bytes
    present = {name: sum(name in item for item in catalogue.attributes) for name in manifest.schema}
    assert {entry.name: entry.items_present for entry in manifest.attributes} == present
    assert manifest.schema == {
        "added": AttributeKind.TIME,
        "brand": AttributeKind.KEYWORD,
        "colors": AttributeKind.KEYWORD_LIST,
        "price": AttributeKind.NUMBER,
        "sale": AttributeKind.BOOL,
    }


def test_the_gate_chooses_the_smallest_ef_search_that_reaches_the_recall(tmp_path):
    catalogue = random_catalogue(3000, attributes=False)
    low = build(catalogue, tmp_path, num_shards=2, required_recall=0.5, m=8, ef_construction=40)
    high = build(catalogue, tmp_path, num_shards=2, required_recall=0.99, m=8, ef_construction=40)
    assert low.ef_search == 16
    assert low.ann_recall_at_10 >= 0.5
    assert high.ef_search > low.ef_search
    assert high.ann_recall_at_10 >= 0.99
    gate = manifest_of(tmp_path, 2).gate
    assert gate.passed
    assert gate.probes == 32
    assert not gate.queries_given
    assert gate.search_p50_us > 0


def test_a_generation_below_its_gate_is_built_and_says_so(tmp_path, capsys):
    catalogue = random_catalogue(3000, attributes=False)
    built = build(catalogue, tmp_path, m=4, ef_construction=8, required_recall=1.0)
    assert not manifest_of(tmp_path).gate.passed
    assert built.ef_search == 2048
    assert built.ann_recall_at_10 < 1.0
    assert "below the required 1.0" in capsys.readouterr().err


@pytest.mark.parametrize("count", [0, 1, 3])
def test_catalogues_smaller_than_their_shards_are_legal(tmp_path, count):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, count), random_units(rng, 2 if count else 0))
    built = build(catalogue, tmp_path, num_shards=4)
    assert built.ann_recall_at_10 == 1.0
    found = []
    [query] = random_units(rng, 1)
    for number in range(4):
        shard = open_shard(tmp_path, number)
        shard.load(1)
        with shard.hold(1) as hold:
            [hits] = shard.search(hold, [Query(query, 10)], never)
        found += zip(hits.item_ids, hits.scores.tolist(), strict=True)
    assert sorted(found, key=lambda pair: -pair[1]) == catalogue.best(query, 10)


def test_equal_vectors_are_legal(tmp_path):
    vectors = np.repeat(tied_units(np.random.default_rng(0), 1), 500, axis=0)
    built = build(Catalogue(vectors, vectors[:2]), tmp_path, num_shards=2)
    assert built.ann_recall_at_10 == 1.0
    assert built.ef_search == 16


def test_the_same_inputs_give_the_same_files(tmp_path):
    for home in ("a", "b"):
        build(random_catalogue(700), tmp_path / home, num_shards=2)
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")


def test_processes_write_the_same_files_as_one(tmp_path, monkeypatch):
    build(random_catalogue(700), tmp_path / "one", num_shards=2)
    monkeypatch.setattr("index_service.build.generation._ITEMS_FOR_PROCESSES", 0)
    monkeypatch.setattr("index_service.build.generation.available_cores", lambda: 2)
    build(random_catalogue(700), tmp_path / "two", num_shards=2)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


def test_another_seed_gives_another_graph(tmp_path):
    build(random_catalogue(300), tmp_path, seed=1)
    build(random_catalogue(300), tmp_path, seed=2)
    one, two = checksums(tmp_path), checksums(tmp_path, 2)
    changed = {path for path in one if one[path] != two[path]}
    assert changed == {"shard-0000/graph.faiss", "shard-0000/nodes.u32"}


def test_each_build_takes_the_next_number(tmp_path):
    catalogue = random_catalogue(50)
    assert [build(catalogue, tmp_path).generation for _ in range(3)] == [1, 2, 3]
    assert not list((tmp_path / "generations").glob(".building-*"))


def test_a_build_killed_midway_goes_on_with_the_shards_it_had(tmp_path):
    catalogue = random_catalogue(6000, attributes=False)
    catalogue.write(tmp_path / "work")
    options = ["--shards", "6", "--ef-construction", "400"]
    building = run_build(tmp_path, *options)
    staging = wait_for_shards(tmp_path, 2)
    building.send_signal(signal.SIGKILL)
    building.communicate()
    assert not (tmp_path / "generations" / "000001").exists()
    kept = {
        path: path.stat().st_ino
        for path in staging.rglob("*.faiss")
        if not path.parent.name.endswith(".part")
    }
    assert 2 <= len(kept) < 6
    again = run_build(tmp_path, *options)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert json.loads(out)["generation"] == 1
    final = tmp_path / "generations" / "000001"
    for path, inode in kept.items():
        assert (final / path.relative_to(staging)).stat().st_ino == inode
    assert verify(final, manifest_of(tmp_path)) > 0
    build(catalogue, tmp_path / "undisturbed", num_shards=6, ef_construction=400)
    assert checksums(tmp_path) == checksums(tmp_path / "undisturbed")


def test_what_an_interrupted_build_left_goes_with_the_next_one_of_other_inputs(tmp_path):
    random_catalogue(3000, attributes=False).write(tmp_path / "work")
    building = run_build(tmp_path, "--shards", "6", "--ef-construction", "400")
    left = wait_for_shards(tmp_path, 1)
    building.kill()
    building.communicate()
    assert left.exists()
    another = run_build(tmp_path, "--shards", "1", "--seed", "2", "--ef-construction", "16")
    out, err = another.communicate(timeout=120)
    assert another.returncode == 0, err
    assert f"removing {left}, left by an interrupted build" in err
    assert json.loads(out)["generation"] == 1
    assert not list((tmp_path / "generations").glob(".building-*"))


def wait_for_shards(home, count):
    """Return the staging folder once so many shards are finished."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for staging in (home / "generations").glob(".building-*"):
            finished = [path for path in staging.glob("shard-*") if path.suffix != ".part"]
            if len(finished) >= count:
                return staging
        time.sleep(0.005)
    raise AssertionError("no shard was finished in 60 s")


def test_workers_end_when_the_build_is_killed(tmp_path):
    import psutil

    catalogue = random_catalogue(6000, attributes=False)
    catalogue.write(tmp_path / "work")
    building = run_build(tmp_path, "--shards", "6", "--ef-construction", "400")
    wait_for_shards(tmp_path, 1)
    family = psutil.Process(building.pid).children(recursive=True)
    building.kill()
    building.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_the_number_of_a_deleted_generation_is_not_given_again(tmp_path):
    catalogue = random_catalogue(50, attributes=False)
    assert [build(catalogue, tmp_path).generation for _ in range(2)] == [1, 2]
    shutil.rmtree(tmp_path / "generations" / "000002")
    assert build(catalogue, tmp_path).generation == 3
    shutil.rmtree(tmp_path / "generations" / "000003")
    assert reshard(tmp_path / "generations", 1, 2).generation == 4
    (tmp_path / "generations" / ".last-number").write_text("many")
    with pytest.raises(CommandError, match="holds no number"):
        build(catalogue, tmp_path)


def test_no_room_is_a_sentence_and_leaves_published_generations_alone(tmp_path):
    build(random_catalogue(2000), tmp_path)
    before = checksums(tmp_path)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    building = run_build(tmp_path, "--shards", "1", "--seed", "5", preexec_fn=small_files)
    out, err = building.communicate(timeout=60)
    assert building.returncode == 1
    assert out == ""
    assert "error: no room left while building in" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert checksums(tmp_path) == before
    assert [path.name for path in (tmp_path / "generations").glob("0*")] == ["000001"]


def test_a_graph_that_finds_no_room_is_no_finished_shard(tmp_path):
    catalogue = random_catalogue(2000, attributes=False)
    catalogue.write(tmp_path / "work")
    # Vectors take 128,000 bytes, the graph twice that.
    limit = (200_000, 200_000)
    building = run_build(
        tmp_path,
        "--shards",
        "1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    _, err = building.communicate(timeout=60)
    assert building.returncode == 1
    assert "no room left" in err.splitlines()[-1]
    assert not list((tmp_path / "generations").glob(".building-*/shard-0000"))
    again = run_build(tmp_path, "--shards", "1")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert json.loads(out)["items"] == 2000


def test_two_builds_at_once_are_refused(tmp_path):
    import fcntl

    catalogue = random_catalogue(20)
    (tmp_path / "generations").mkdir()
    with (tmp_path / "generations" / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = tmp_path / "generations" / ".building-0123"
        left.mkdir()
        with pytest.raises(CommandError, match="another build is running"):
            build(catalogue, tmp_path)
        assert left.exists(), "it may be that build's"
    assert build(catalogue, tmp_path).generation == 1


def test_an_attribute_of_two_kinds_is_refused_with_both_items(tmp_path):
    catalogue = random_catalogue(900, attributes=False)
    catalogue.attributes[3] = {"size": "XL"}
    catalogue.attributes[800] = {"size": 42.0}
    with pytest.raises(CommandError) as refused:
        build(catalogue, tmp_path, num_shards=2)
    for part in ("'size'", "keyword in item 'item-000003'", "number in item 'item-000800'"):
        assert part in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_cannot_be_compared_is_refused(tmp_path, value):
    catalogue = random_catalogue(20, attributes=False)
    catalogue.attributes[7] = {"price": value}
    with pytest.raises(CommandError, match="item 'item-000007' has attribute 'price'"):
        build(catalogue, tmp_path)


def test_items_out_of_order_are_refused(tmp_path):
    catalogue = random_catalogue(10)
    catalogue.item_ids[4], catalogue.item_ids[5] = catalogue.item_ids[5], catalogue.item_ids[4]
    with pytest.raises(CommandError, match="'item-000004' comes after 'item-000005'"):
        build(catalogue, tmp_path)


def test_an_item_twice_is_refused(tmp_path):
    catalogue = random_catalogue(10)
    catalogue.item_ids[5] = catalogue.item_ids[4]
    with pytest.raises(CommandError, match="not in ascending order"):
        build(catalogue, tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1.0])
def test_vectors_that_are_not_of_unit_length_are_refused(tmp_path, bad):
    catalogue = random_catalogue(30)
    catalogue.vectors[9, :] = bad
    with pytest.raises(CommandError, match="vector of row 9 has length"):
        build(catalogue, tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("items.arrow", "run the export stage again"),
        ("export.json", "is missing"),
        ("embed.json", "is missing"),
        ("vectors.f16", "run the embed stage again"),
        ("probes.npy", "run the embed stage again"),
    ],
)
def test_a_work_folder_without_one_of_its_files_is_refused(tmp_path, name, text):
    work = random_catalogue(30).write(tmp_path / "work")
    (work / name).unlink()
    with pytest.raises(CommandError, match=text):
        build_generation(work, tmp_path / "generations", BuildSettings(num_shards=1))


@pytest.mark.parametrize("name", ["items.arrow", "vectors.f16", "probes.npy"])
def test_a_work_folder_with_a_file_cut_short_is_refused(tmp_path, name):
    work = random_catalogue(30).write(tmp_path / "work")
    os.truncate(work / name, (work / name).stat().st_size // 2)
    with pytest.raises(CommandError, match="again"):
        build_generation(work, tmp_path / "generations", BuildSettings(num_shards=1))


def test_counts_that_contradict_each_other_are_refused(tmp_path):
    work = random_catalogue(30).write(tmp_path / "work")
    embed = json.loads((work / "embed.json").read_text())
    (work / "embed.json").write_text(json.dumps({**embed, "items": 29}))
    with pytest.raises(CommandError, match="speaks of 29 items"):
        build_generation(work, tmp_path / "generations", BuildSettings(num_shards=1))


def test_items_without_a_probe_are_refused(tmp_path):
    catalogue = random_catalogue(30)
    catalogue.probes = catalogue.probes[:0]
    with pytest.raises(CommandError, match="no queries to measure recall with"):
        build(catalogue, tmp_path)
