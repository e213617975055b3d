"""Builds on a Ray cluster, one of this machine that the test starts."""

import pytest

from index_service.build.generation import BuildSettings, build_generation
from index_service.build.ray_workers import RayWorkers
from rpc.terminal import CommandError
from tests.index_service.catalogue import build, manifest_of
from tests.index_service.test_build import checksums, random_catalogue, run_build

pytest.importorskip("ray")


def test_a_cluster_writes_the_files_that_this_machine_would(tmp_path):
    catalogue = random_catalogue(500)
    build(catalogue, tmp_path, num_shards=3)
    settings = BuildSettings(num_shards=3, ray="local")
    on_ray = build_generation(tmp_path / "work", tmp_path / "generations", settings)
    assert (on_ray.generation, on_ray.items, on_ray.shards) == (2, 500, 3)
    assert checksums(tmp_path, 1) == checksums(tmp_path, 2)
    one, two = manifest_of(tmp_path, 1).gate, manifest_of(tmp_path, 2).gate
    assert (one.ann_recall_at_10, one.ef_search) == (two.ann_recall_at_10, two.ef_search)


def test_what_fails_on_the_cluster_is_told_in_its_own_sentence(tmp_path):
    catalogue = random_catalogue(200, attributes=False)
    catalogue.vectors[7] *= 2
    catalogue.write(tmp_path / "work")
    process = run_build(tmp_path, "--shards", "2", "--ray", "local")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "error: the vector of row 7 has length 2" in error
    assert "Traceback" not in error


def test_an_address_without_a_cluster_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "1")
    with pytest.raises(CommandError, match="there is no Ray cluster at nowhere"):
        RayWorkers("nowhere")
