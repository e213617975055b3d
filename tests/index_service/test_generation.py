"""A damaged generation is never served; the error names the file."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index_service.generation.manifest import parse_manifest, published_generations
from index_service.generation.verify import Verification, verify
from index_service.memory import MemoryBudget
from index_service.planner import PlanLimits
from index_service.shard import Shard, ShardLimits
from index_service.store import GenerationStore
from rpc.active import Active, write_active
from rpc.errors import DataLoss, FailedPrecondition, NotFound, ResourceExhausted
from tests.index_service.catalogue import (
    Catalogue,
    build,
    manifest_of,
    open_shard,
    random_attributes,
    random_units,
)

SHARD_FILES = ("graph.faiss", "nodes.u32", "vectors.f16", "item_ids.arrow", "attributes.arrow")
FILES = ("probes.npy", *(f"shard-0000/{name}" for name in SHARD_FILES))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    home = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 200), random_units(rng, 8), random_attributes(rng, 200))
    build(catalogue, home, num_shards=2)
    return home


@pytest.fixture
def home(published, tmp_path):
    shutil.copytree(published / "generations", tmp_path / "generations")
    return tmp_path


@pytest.fixture
def generation(home):
    return home / "generations" / "000001"


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut short", "longer", "bit flipped"])
def test_a_damaged_file_is_data_loss_by_its_name_and_nothing_is_served(
    home, generation, file, damage
):
    path = generation / file
    match damage:
        case "missing":
            path.unlink()
        case "cut short":
            os.truncate(path, path.stat().st_size - 1)
        case "longer":
            path.write_bytes(path.read_bytes() + b"\0")
        case "bit flipped":
            flip_a_bit(path, path.stat().st_size // 2)
    shard = open_shard(home)
    with pytest.raises(DataLoss) as lost:
        shard.load(1)
    assert lost.value.file == str(path)
    assert shard.holdings() == []
    assert not shard.ready


def test_a_shard_does_not_need_the_files_of_others(home, generation):
    shutil.rmtree(generation / "shard-0001")
    open_shard(home, 0).load(1)
    with pytest.raises(DataLoss, match="shard-0001"):
        open_shard(home, 1).load(1)


def test_a_repaired_generation_can_be_loaded_after_all(home, generation, published):
    flip_a_bit(generation / "probes.npy", 200)
    shard = open_shard(home)
    with pytest.raises(DataLoss):
        shard.load(1)
    shutil.copy(published / "generations" / "000001" / "probes.npy", generation / "probes.npy")
    assert shard.load(1).loaded.segment.items > 0


@pytest.mark.parametrize("file", [name for name in FILES if name.endswith((".faiss", ".arrow"))])
def test_what_a_check_of_sizes_misses_is_data_loss_when_it_cannot_be_read(home, generation, file):
    path = generation / file
    path.write_bytes(b"x" * path.stat().st_size)
    store = GenerationStore(str(home / "generations"), home)
    shard = Shard(0, store, Verification.SIZE, ShardLimits(), PlanLimits())
    with pytest.raises(DataLoss) as lost:
        shard.load(1)
    assert lost.value.file == str(path)


def test_a_missing_manifest_is_data_loss_and_a_missing_folder_not_found(home, generation):
    (generation / "manifest.json").unlink()
    with pytest.raises(DataLoss, match=r"manifest\.json: the file is missing"):
        open_shard(home).load(1)
    with pytest.raises(NotFound):
        open_shard(home).load(2)


ENTRY = {"bytes": 1, "sha256": ""}


def changed(generation, **changes):
    document = json.loads((generation / "manifest.json").read_text())
    (generation / "manifest.json").write_text(json.dumps({**document, **changes}))


@pytest.mark.parametrize(
    "change",
    [{"format_version": 4}, {"byte_order": "big"}, {"num_buckets": 512}, {"bucket_hash": "md5"}],
)
def test_another_format_is_refused_and_named(home, generation, change):
    [name] = change
    changed(generation, **change)
    with pytest.raises(FailedPrecondition, match=f"has {name} {change[name]!r}") as refused:
        open_shard(home).load(1)
    assert refused.value.reason == "GENERATION_FORMAT"


def test_a_generation_of_version_1_is_still_read(home, generation):
    document = json.loads((generation / "manifest.json").read_text())
    del document["index"]["code_dim"]
    changed(generation, format_version=1, index=document["index"])
    assert open_shard(home).load(1).loaded.manifest.index.code_dim is None


def test_an_index_of_another_kind_is_refused_and_named(home, generation):
    changed(generation, index={"kind": "nsg", "m": 32, "ef_construction": 200, "seed": 1})
    with pytest.raises(FailedPrecondition, match="has an index of kind 'nsg'") as refused:
        open_shard(home).load(1)
    assert (refused.value.reason, refused.value.got) == ("GENERATION_FORMAT", "nsg")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"items": 7}, "do not add up to 7 items"),
        ({"num_shards": 3}, "shards 0..2 in order"),
        ({"encoder": {}}, "not a manifest"),
        ({"files": {}}, r"does not list probes\.npy"),
        ({"files": {"probes.npy": ENTRY, "../../etc/passwd": ENTRY}}, "impossible name"),
    ],
)
def test_a_manifest_that_cannot_be_is_data_loss(home, generation, change, text):
    changed(generation, **change)
    with pytest.raises(DataLoss, match=text):
        open_shard(home).load(1)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_manifest_that_is_no_manifest_is_data_loss(content):
    with pytest.raises(DataLoss, match="not a manifest"):
        parse_manifest(content, "manifest.json")


def test_a_manifest_with_entries_of_later_versions_is_read(generation):
    document = json.loads((generation / "manifest.json").read_text())
    document["lexical"] = {"k1": 1.2}
    manifest = parse_manifest(json.dumps(document).encode(), "manifest.json")
    assert manifest.items == 200


def test_a_manifest_reads_as_it_was_written(home):
    manifest = manifest_of(home)
    assert parse_manifest(manifest.to_json(), "manifest.json") == manifest


def test_verify_counts_the_bytes_it_checked(home, generation):
    manifest = manifest_of(home)
    on_disk = sum(path.stat().st_size for path in generation.rglob("*") if path.is_file())
    manifest_bytes = (generation / "manifest.json").stat().st_size
    assert verify(generation, manifest) == on_disk - manifest_bytes


def test_published_generations_are_the_numbered_folders(home):
    (home / "generations" / ".building-abc").mkdir()
    (home / "generations" / "active.json").write_text("{}")
    (home / "generations" / "000012").mkdir()
    assert published_generations(home / "generations") == [1, 12]
    assert published_generations(home / "nothing") == []


# From an object store.


@pytest.fixture
def bucket(published, request):
    import fsspec

    url = f"memory://{request.node.name}"
    filesystem, root = fsspec.core.url_to_fs(url)
    filesystem.put(str(published / "generations"), root, recursive=True)
    yield url, filesystem, root
    filesystem.rm(root, recursive=True)


def remote_shard(url, cache, number=0, verification=Verification.FULL):
    store = GenerationStore(url, cache)
    return Shard(number, store, verification, ShardLimits(), PlanLimits())


def test_a_shard_copies_its_own_files_from_an_object_store(bucket, tmp_path):
    url, _, _ = bucket
    assert remote_shard(url, tmp_path).load(1).loaded.segment.items > 0
    copied = sorted(path.name for path in tmp_path.rglob("[!.]*") if path.is_file())
    assert copied == sorted(["manifest.json", "probes.npy", *SHARD_FILES])
    assert not list(tmp_path.rglob("shard-0001"))


def test_a_restarted_shard_uses_the_copies_it_has(bucket, tmp_path):
    url, filesystem, root = bucket
    remote_shard(url, tmp_path).load(1)
    filesystem.rm(f"{root}/000001/shard-0000", recursive=True)
    assert remote_shard(url, tmp_path).load(1).loaded.segment.items > 0


def test_copies_go_with_their_generation_once_no_shard_that_shares_the_folder_uses_them(
    bucket, tmp_path
):
    url, filesystem, root = bucket
    first, second = (remote_shard(url, tmp_path, number) for number in (0, 1))
    first.load(1)
    second.load(1)
    first.release(1)
    assert list(tmp_path.rglob("graph.faiss")), "the other shard may open its files again"
    second.release(1)
    assert not list(tmp_path.rglob("000001"))
    assert filesystem.exists(f"{root}/000001/manifest.json"), "originals are left alone"
    first.load(1)
    assert list(tmp_path.rglob("graph.faiss"))


def test_a_generation_that_could_not_be_loaded_keeps_nobody_from_removing_its_copies(
    bucket, tmp_path
):
    url, _, _ = bucket
    good, bad = remote_shard(url, tmp_path, 0), remote_shard(url, tmp_path, 1)
    good.load(1)
    bad.load(1)
    bad.release(1)
    [graph] = tmp_path.rglob("shard-0001/graph.faiss")
    flip_a_bit(graph, 100)
    with pytest.raises(DataLoss):
        bad.load(1)
    good.release(1)
    assert not list(tmp_path.rglob("000001"))


def test_a_store_is_tidied_of_copies_that_are_neither_kept_nor_used(bucket, tmp_path):
    url, _, _ = bucket
    using = remote_shard(url, tmp_path)
    using.load(1)
    [copy] = tmp_path.rglob("000001")
    for name in ("000007", "000008"):
        (copy.parent / name).mkdir()
    GenerationStore(url, tmp_path).tidy({8})
    assert sorted(path.name for path in copy.parent.glob("0*")) == ["000001", "000008"]


def test_tidying_leaves_a_folder_of_generations_alone(home):
    GenerationStore(str(home / "generations"), home / "cache").tidy(())
    assert (home / "generations" / "000001").is_dir()


def test_a_damaged_copy_is_fetched_anew_the_next_time(bucket, tmp_path):
    url, _, _ = bucket
    remote_shard(url, tmp_path).load(1)
    [copy] = tmp_path.rglob("graph.faiss")
    flip_a_bit(copy, 100)
    with pytest.raises(DataLoss, match=r"graph\.faiss"):
        remote_shard(url, tmp_path).load(1)
    assert remote_shard(url, tmp_path).load(1).loaded.segment.items > 0


def test_a_copy_that_is_found_damaged_late_is_fetched_anew_the_next_time(bucket, tmp_path):
    url, _, _ = bucket
    shard = remote_shard(url, tmp_path, verification=Verification.LAZY)
    shard.load(1)
    [copy] = tmp_path.rglob("graph.faiss")
    flip_a_bit(copy, 100)
    with pytest.raises(DataLoss, match=r"graph\.faiss"):
        shard.verify_late(1)
    shard.release(1)
    shard.load(1)
    shard.verify_late(1)


def test_two_shards_that_share_a_cache_may_copy_the_same_file_at_the_same_time(
    bucket, tmp_path, monkeypatch
):
    url, filesystem, _ = bucket
    both_have_copied = threading.Barrier(2)
    # Readers of a file in memory share its position.
    reading = threading.Lock()
    get_file = type(filesystem).get_file

    def get_with_the_other(self, rpath, lpath, **options):
        with reading:
            get_file(self, rpath, lpath, **options)
        both_have_copied.wait(timeout=30)

    monkeypatch.setattr(type(filesystem), "get_file", get_with_the_other)
    shards = [remote_shard(url, tmp_path) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        loading = [pool.submit(shard.load, 1) for shard in shards]
        assert all(each.result().loaded.segment.items > 0 for each in loading)
    assert not list(tmp_path.rglob("*.part"))


def test_a_copy_that_fails_leaves_nothing_and_a_killed_one_goes_with_the_next(bucket, tmp_path):
    url, filesystem, root = bucket
    content = filesystem.cat_file(f"{root}/000001/shard-0000/graph.faiss")
    filesystem.rm(f"{root}/000001/shard-0000/graph.faiss")
    with pytest.raises(DataLoss, match="missing"):
        remote_shard(url, tmp_path).load(1)
    assert not list(tmp_path.rglob("*.part"))
    filesystem.pipe_file(f"{root}/000001/shard-0000/graph.faiss", content)
    [folder] = tmp_path.rglob("shard-0000")
    for name in (".graph.faiss.part", ".graph.faiss.0123.part"):
        (folder / name).write_bytes(content[:10])
    assert remote_shard(url, tmp_path).load(1).loaded.segment.items > 0
    assert not list(tmp_path.rglob("*.part"))


def test_an_object_store_without_the_generation_or_a_file_says_which(bucket, tmp_path):
    url, filesystem, root = bucket
    with pytest.raises(NotFound, match="no such generation: 9"):
        remote_shard(url, tmp_path).load(9)
    filesystem.rm(f"{root}/000001/shard-0000/vectors.f16")
    with pytest.raises(DataLoss, match=r"shard-0000/vectors\.f16: the file is missing"):
        remote_shard(url, tmp_path).load(1)
    filesystem.rm(f"{root}/000001/manifest.json")
    with pytest.raises(DataLoss, match=r"manifest\.json: the file is missing"):
        remote_shard(url, tmp_path).load(1)


def test_a_generation_that_has_no_room_is_not_copied(bucket, tmp_path):
    url, _, _ = bucket
    store = GenerationStore(url, tmp_path)
    budget = MemoryBudget(1000)
    shard = Shard(0, store, Verification.FULL, ShardLimits(), PlanLimits(), budget)
    with pytest.raises(ResourceExhausted):
        shard.load(1)
    assert not list(tmp_path.rglob("*.*"))
    assert budget.held_bytes == 0


def test_a_file_url_is_used_in_place(home):
    store = GenerationStore(f"file://{home / 'generations'}", home / "cache")
    folder = store.fetch(1, store.manifest(1), 0)
    assert folder == home / "generations" / "000001"
    assert not (home / "cache").exists()


# The command.


def command(home, *arguments):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "index_service.generation", *arguments),
            *("--generations", str(home / "generations")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_lists_inspects_and_verifies(home):
    code, out, err = command(home, "list")
    assert code == 0, err
    listed = json.loads(out)
    assert (listed["active"], [entry["generation"] for entry in listed["generations"]]) == (0, [1])
    assert listed["generations"][0]["items"] == 200
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    code, out, err = command(home, "inspect")
    assert code == 0, err
    assert json.loads(out)["num_shards"] == 2
    code, out, err = command(home, "verify", "1")
    assert code == 0, err
    verified = json.loads(out)
    assert (verified["generation"], verified["verified"], verified["files"]) == (1, True, 11)


def test_the_command_says_in_a_sentence_what_is_wrong(home, generation):
    flip_a_bit(generation / "shard-0001" / "graph.faiss", 50)
    code, out, err = command(home, "verify", "1")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {generation}/shard-0001/graph.faiss: its SHA-256 is not")
    code, _, err = command(home, "verify")
    assert (code, err) == (
        1,
        f"error: no generation is promoted in {home}/generations; name one: 1\n",
    )
    (generation / "manifest.json").write_text("{")
    code, out, _ = command(home, "list")
    assert code == 0
    assert "not a manifest" in json.loads(out)["generations"][0]["error"]


def test_sampled_verification_finds_damage_in_the_file_it_looks_at(home, generation):
    manifest = manifest_of(home)
    for path in manifest.files_by_path():
        file = generation / path
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        found = [damage(generation, manifest) for _ in range(60)]
        file.write_bytes(whole)
        # Another file each time, larger ones more often.
        assert set(found) <= {None, path}
        if len(whole) > manifest.size_bytes / 4:
            assert path in found


def damage(folder, manifest):
    """The file that sampled verification complains about."""
    try:
        verify(folder, manifest, verification=Verification.SAMPLED)
    except DataLoss as exc:
        return str(Path(exc.file).relative_to(folder))
    return None
