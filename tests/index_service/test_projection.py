"""Codes of fewer dimensions: what is kept, and that answers stay the same."""

import numpy as np
import pytest

from index_service.build.projection import dimensions_for, fit
from index_service.planner import PlanLimits, SearchPath
from index_service.query import Query
from rpc.terminal import CommandError
from tests.index_service.catalogue import (
    Catalogue,
    build,
    manifest_of,
    never,
    open_shard,
    random_units,
)

ALWAYS_GRAPH = PlanLimits(rows_a_candidate=0)
DIM, RANK = 96, 24


def flat_units(rng, count):
    """Unit vectors that lie close to a space of few dimensions, as embeddings do."""
    basis = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, RANK)))[0]
    vectors = rng.standard_normal((count, RANK)) @ basis.T
    vectors += 0.02 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def flat_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("flat")
    rng = np.random.default_rng(4)
    catalogue = Catalogue(flat_units(rng, 3000), flat_units(rng, 32))
    build(catalogue, home, num_shards=2)
    return home, catalogue


def test_projected_inner_products_are_nearly_those_of_whole_vectors():
    rng = np.random.default_rng(0)
    halves = flat_units(rng, 2000).astype(np.float16)
    projection = fit(halves)
    assert projection.shape == (DIM, 32)
    whole = halves.astype(np.float32)
    difference = (whole @ projection) @ (whole @ projection).T - whole @ whole.T
    assert np.abs(difference).max() < 0.05


def test_vectors_that_fill_their_space_are_not_projected():
    assert fit(random_units(np.random.default_rng(0), 2000, DIM).astype(np.float16)) is None


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_vectors_are_enough_to_fit(count):
    halves = random_units(np.random.default_rng(0), count, DIM).astype(np.float16)
    projection = fit(halves)
    assert (projection is None) == (count == 0)
    if count:
        kept = np.linalg.norm(halves.astype(np.float32) @ projection, axis=1)
        assert kept == pytest.approx(np.ones(count), abs=1e-3)


def test_the_share_of_energy_decides_over_dimensions():
    energies = np.arange(128, 0, -1) ** 2.0
    counts = [dimensions_for(energies, share) for share in (0.5, 0.9, 0.999, 1.0)]
    assert counts == sorted(counts)
    assert counts[-1] == 128
    assert energies[: counts[1]].sum() >= 0.9 * energies.sum()


def test_the_manifest_says_how_long_codes_are(flat_home):
    home, _ = flat_home
    assert manifest_of(home).index.code_dim == 32
    assert manifest_of(home).encoder.dim == DIM


def test_codes_are_as_small_as_the_manifest_says(flat_home, tmp_path):
    home, catalogue = flat_home
    build(catalogue, tmp_path, num_shards=2, code_dim=DIM)
    short, long = (
        sum(path.stat().st_size for path in folder.rglob("graph.faiss"))
        for folder in (home / "generations", tmp_path / "generations")
    )
    # Less the projection, its dimensions in float32, once a shard.
    saved = 3000 * (DIM - 32) - 2 * DIM * 32 * 4
    assert long - short == pytest.approx(saved, rel=0.05)


def test_a_graph_over_projected_codes_finds_what_exact_search_finds(flat_home):
    home, catalogue = flat_home
    shard = open_shard(home, 0, ALWAYS_GRAPH)
    shard.load(1)
    queries = [Query(probe, 10, ef_search=256) for probe in catalogue.probes]
    exact = [Query(probe, 10, exact=True) for probe in catalogue.probes]
    with shard.hold(1) as hold:
        found = shard.search(hold, queries, never)
        best = shard.search(hold, exact, never)
    assert {hits.profile.path for hits in found} == {SearchPath.HNSW}
    same = [
        (hits.item_ids, hits.scores.tolist()) == (exact.item_ids, exact.scores.tolist())
        for hits, exact in zip(found, best, strict=True)
    ]
    assert np.mean(same) >= 0.95


def test_code_dim_can_be_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 400, DIM), random_units(rng, 4, DIM))
    built = build(catalogue, tmp_path, code_dim=48, required_recall=0.5)
    assert manifest_of(tmp_path).index.code_dim == 48
    assert built.ann_recall_at_10 >= 0.5


def test_more_dimensions_than_the_encoder_has_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 40), random_units(rng, 4))
    with pytest.raises(CommandError, match=r"code_dim is 33; the encoder's vectors allow 1\.\.32"):
        build(catalogue, tmp_path, code_dim=33)


def checksums(home):
    return {path: entry.sha256 for path, entry in manifest_of(home).files_by_path().items()}


def test_projected_builds_of_the_same_inputs_give_the_same_files(flat_home, tmp_path):
    home, catalogue = flat_home
    build(catalogue, tmp_path, num_shards=2)
    assert checksums(home) == checksums(tmp_path)


def test_processes_write_the_same_projected_files_as_one(flat_home, tmp_path, monkeypatch):
    home, catalogue = flat_home
    monkeypatch.setattr("index_service.build.generation._ITEMS_FOR_PROCESSES", 0)
    monkeypatch.setattr("index_service.build.generation.available_cores", lambda: 2)
    build(catalogue, tmp_path, num_shards=2)
    assert checksums(home) == checksums(tmp_path)
