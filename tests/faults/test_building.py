"""Builds that find no room or are killed: what is published stays, and the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from index_service.generation.manifest import published_generations, read_manifest
from index_service.generation.verify import verify
from tests.system.deployment import copy_home, read_items, write_items
from tests.system.processes import ROOT, Ran, environment, run_module, succeed, vitrine

NEW_ITEMS = 100


@pytest.fixture
def more_items(sample_file, tmp_path) -> Path:
    """Items with titles that nobody has embedded yet."""
    items = [
        {**item, "item_id": f"more-{item['item_id']}", "title": f"More of {item['title']}"}
        for item in read_items(sample_file)[:NEW_ITEMS]
    ]
    write_items(tmp_path / "more.jsonl.gz", items)
    return tmp_path / "more.jsonl.gz"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the mount command")
    if done.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave_free(disk: Path, free_bytes: int) -> None:
    """Fill a disk but for some bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    found = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - free_bytes)


def build(home: Path, bundle: Path, items: Path, prefix: tuple[str, ...] = ()) -> Ran:
    options = ["--home", home, "--bundle", bundle, "--items", items, "--promote", "--json"]
    return vitrine("build", *options, prefix=prefix)


def only_the_first_generation_is_there(home: Path) -> bool:
    generations = home / "generations"
    verify(generations / "000001", read_manifest(generations / "000001"))
    active = orjson.loads((generations / "active.json").read_bytes())
    return published_generations(generations) == [1] and active["generation"] == 1


# How much room makes which stage the first that finds none.
ROOM_BYTES = {
    "gateway.ingest": 60_000,
    "gateway.export": 700_000,
    "encoder_service.embed": 1_500_000,
    "index_service.build": 4_000_000,
}


def test_a_full_disk_leaves_the_published_generation_alone(
    built_home, minilm_bundle, more_items, small_disk
):
    home = copy_home(built_home, small_disk / "home")
    for stage, room in ROOM_BYTES.items():
        leave_free(small_disk, room)
        ran = build(home, minilm_bundle, more_items)
        assert ran.status == 1
        assert f"{stage} stopped for the reason above" in ran.err
        assert any(word in ran.error for word in ("disk is full", "No space left")), ran.error
        assert "make room" in ran.error or "run" in ran.error
        assert only_the_first_generation_is_there(home)
    (small_disk / "filler").unlink()
    report = succeed(build(home, minilm_bundle, more_items)).document
    assert (report["generation"], report["promoted"]) == (2, True)
    assert report["stages"]["index"]["items"] == 1500 + NEW_ITEMS
    assert report["stages"]["embed"]["embedded"] < NEW_ITEMS, "what was embedded was kept"


LIMIT_FILE_SIZE = (
    "import os, resource, sys; limit = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def test_files_that_must_not_grow_leave_the_published_generation_alone(
    built_home, minilm_bundle, sample_file, tmp_path
):
    home = copy_home(built_home, tmp_path / "home")
    limited = (sys.executable, "-c", LIMIT_FILE_SIZE, "500000")
    ran = build(home, minilm_bundle, sample_file, prefix=limited)
    assert ran.status == 1
    assert "File too large" in ran.error
    assert only_the_first_generation_is_there(home)
    report = succeed(build(home, minilm_bundle, sample_file)).document
    assert (report["generation"], report["stages"]["embed"]["embedded"]) == (2, 0)


@pytest.fixture(scope="module")
def work_folder(built_home, tmp_path_factory) -> Path:
    """What `vitrine build` hands to its last stage."""
    work = tmp_path_factory.mktemp("kill") / "work"
    catalog = f"sqlite:///{built_home / 'catalog.sqlite'}"
    succeed(run_module("gateway.export", "--catalog", catalog, "--out", work))
    (bundle,) = (built_home / "bundles").iterdir()
    embed = ["--bundle", bundle, "--items", work / "items.arrow", "--out", work]
    succeed(run_module("encoder_service.embed", *embed, "--cache", built_home / "embeddings"))
    # Few probe queries, to save time.
    np.save(work / "probes.npy", np.load(work / "probes.npy")[:16])
    return work


class IndexStage:
    """The last stage of a build, as a process to kill."""

    def __init__(self, work: Path, generations: Path) -> None:
        self._generations = generations
        command = ["--work", str(work), "--generations", str(generations), "--shards", "4"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "index_service.build", *command],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kill it with all its children once a point is reached, or it has ended."""
        deadline_s = time.monotonic() + 60
        while not reached() and self._process.poll() is None:
            assert time.monotonic() < deadline_s, "it neither gets there nor ends"
            time.sleep(0.0005)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


POINTS = (
    ".build.lock",
    ".building-*",
    ".building-*/shard-0000.part",
    ".building-*/shard-0000.part/vectors.f16",
    ".building-*/shard-0000.part/graph.faiss",
    ".building-*/shard-0000",
    ".building-*/shard-0002.part/item_ids.arrow",
    ".building-*/shard-0003",
    ".building-*/probes.npy",
    ".building-*/manifest.json",
    "000001",
)


def test_a_build_killed_at_any_point_shows_no_half_generation(work_folder, tmp_path):
    generations = tmp_path / "generations"
    for point in POINTS:
        IndexStage(work_folder, generations).kill_when(
            lambda point=point: any(generations.glob(point))
        )
        for number in published_generations(generations):
            folder = generations / f"{number:06d}"
            verify(folder, read_manifest(folder))
    before = published_generations(generations)
    build = ["--work", work_folder, "--generations", generations, "--shards", 4]
    result = succeed(run_module("index_service.build", *build)).document
    assert result["items"] == 1500
    assert result["generation"] == max(before, default=0) + 1
    assert len(before) >= 1, "the last kill came after the publication"
    assert not list(generations.glob(".building-*")), "nothing unfinished is left"


def test_an_interrupted_build_keeps_the_shards_that_are_finished(work_folder, tmp_path):
    generations = tmp_path / "generations"
    IndexStage(work_folder, generations).kill_when(
        lambda: any(generations.glob(".building-*/shard-0001"))
    )
    (kept,) = generations.glob(".building-*/shard-0000/graph.faiss")
    written_ns = kept.stat().st_mtime_ns
    build = ["--work", work_folder, "--generations", generations, "--shards", 4]
    succeed(run_module("index_service.build", *build))
    published = generations / "000001" / "shard-0000" / "graph.faiss"
    assert published.stat().st_mtime_ns == written_ns
