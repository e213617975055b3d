"""How a build is watched: which stage it is in, and a work folder of fewer items."""

import numpy as np

from benchmarks.build_memory import Peaks, first_items, stage_of
from index_service.build.work_folder import WorkFolder
from tests.index_service.catalogue import Catalogue, random_units


def test_a_builds_stage_is_told_by_its_files(tmp_path):
    assert stage_of(tmp_path) == "begin and end"
    staging = tmp_path / ".building-abc"
    staging.mkdir()
    assert stage_of(tmp_path) == "read items"
    for shard in (0, 1):
        (staging / f"shard-000{shard}.part").mkdir()
    assert stage_of(tmp_path) == "write items"
    (staging / "shard-0000.part" / "vectors.f16").touch()
    assert stage_of(tmp_path) == "build graph and write items"
    for shard in (0, 1):
        (staging / f"shard-000{shard}.part").rename(staging / f"shard-000{shard}")
    (staging / "probes.npy").touch()
    assert stage_of(tmp_path) == "measure recall"


def test_peaks_are_of_all_processes_at_one_moment_and_of_the_largest():
    peaks = Peaks()
    for own in ([100, 50], [120, 10], [90, 70]):
        peaks.add("build", [{"anonymous_bytes": n, "resident_bytes": 2 * n} for n in own])
    assert peaks.by_stage["build"] == {"anonymous_bytes": 160, "resident_bytes": 320}
    assert peaks.largest_process == {"anonymous_bytes": 120, "resident_bytes": 240}


def test_the_first_items_of_a_work_folder_are_a_work_folder(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 1_500), random_units(rng, 4))
    work = WorkFolder.open(first_items(catalogue.write(tmp_path / "work"), 900, tmp_path / "few"))
    assert work.items == 900
    assert np.array_equal(work.vectors(), catalogue.vectors[:900])
    item_ids = [item_id for batch in work.batches() for item_id in batch.item_ids.to_pylist()]
    assert item_ids == catalogue.item_ids[:900]
