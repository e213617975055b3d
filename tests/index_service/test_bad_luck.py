"""What a shard does when things are scarce, foreign or absurd."""

import json
import os
import subprocess
import sys
from contextlib import suppress

import grpc
import numpy as np
import pytest

from index_service.filter import AllOf, Bound, Equals, OneOf, Range
from index_service.generation.verify import Verification, verify
from index_service.planner import PlanLimits, SearchPath
from index_service.query import Query
from rpc.active import Active, write_active
from rpc.errors import DataLoss, ResourceExhausted
from tests.index_service.catalogue import (
    Catalogue,
    build,
    manifest_of,
    never,
    open_shard,
    random_units,
)
from tests.index_service.handles import handles_left
from tests.index_service.slow_store import STOPS_AT
from tests.index_service.test_build import checksums
from tests.index_service.test_main import SERVING, command, health, process, wait_until

ALWAYS_GRAPH = PlanLimits(rows_a_candidate=0)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """2,000 items, each with a number of its own as a keyword."""
    home = tmp_path_factory.mktemp("crowd")
    rng = np.random.default_rng(0)
    skus = [{"sku": f"sku-{row}", "price": float(row)} for row in range(2000)]
    catalogue = Catalogue(random_units(rng, 2000), random_units(rng, 8), skus)
    build(catalogue, home)
    return home, catalogue


def searched(home, query, limits=None):
    shard = open_shard(home, limits=limits)
    shard.load(1)
    with shard.hold(1) as hold:
        [hits] = shard.search(hold, [query], never)
    return hits


def pairs(hits):
    return list(zip(hits.item_ids, hits.scores.tolist(), strict=True))


@pytest.mark.parametrize("limits", [None, ALWAYS_GRAPH])
def test_a_filter_may_list_ten_thousand_values(crowd, limits):
    home, catalogue = crowd
    # Every other item, and many that nobody has.
    values = tuple(f"sku-{number}" for number in range(0, 20_000, 2))
    hits = searched(home, Query(catalogue.probes[0], 10, filter=OneOf("sku", values)), limits)
    assert hits.items_matched == 1000
    best = catalogue.best(catalogue.probes[0], 10, lambda row: row % 2 == 0)
    if limits is None:
        assert pairs(hits) == best
    else:
        assert len(set(pairs(hits)) & set(best)) >= 9


def test_a_filter_that_matches_all_but_one_and_one_that_matches_one(crowd):
    home, catalogue = crowd
    probe = catalogue.probes[1]
    [(first, _)] = catalogue.best(probe, 1)
    row = catalogue.item_ids.index(first)
    alone = searched(home, Query(probe, 10, filter=Equals("sku", f"sku-{row}")))
    assert alone.item_ids == [first]
    around = AllOf((Range("price", None, Bound(1998.5, True)),))
    others = searched(home, Query(probe, 10, filter=around), ALWAYS_GRAPH)
    assert others.items_matched == 1999
    assert len(others.item_ids) == 10


def test_ef_search_below_top_k_still_fills_top_k(crowd):
    home, catalogue = crowd
    hits = searched(home, Query(catalogue.probes[2], 100, ef_search=1), ALWAYS_GRAPH)
    assert hits.profile.path is SearchPath.HNSW
    assert hits.profile.ef_search == 100
    best = catalogue.best(catalogue.probes[2], 100)
    assert len(set(pairs(hits)) & set(best)) >= 90
    assert pairs(hits) == sorted(pairs(hits), key=lambda pair: (-pair[1], pair[0]))


def test_a_single_item_is_found(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 1), random_units(rng, 2))
    assert build(catalogue, tmp_path).ann_recall_at_10 == 1.0
    hits = searched(tmp_path, Query(catalogue.probes[0], 10), ALWAYS_GRAPH)
    assert pairs(hits) == catalogue.best(catalogue.probes[0], 10)


def test_a_graph_that_this_faiss_cannot_read_names_both_versions(tmp_path):
    rng = np.random.default_rng(0)
    build(Catalogue(random_units(rng, 50), random_units(rng, 2)), tmp_path)
    folder = tmp_path / "generations" / "000001"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["faiss_version"] = "0.0.1"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    graph = folder / "shard-0000" / "graph.faiss"
    graph.write_bytes(b"IxNo" + graph.read_bytes()[4:])
    shard = open_shard(tmp_path, verification=Verification.SIZE)
    with pytest.raises(DataLoss, match=r"FAISS \S+ cannot read it; it was written with 0\.0\.1"):
        shard.load(1)


def test_without_file_handles_loading_is_refused_with_a_sentence_and_works_later(crowd):
    home, catalogue = crowd
    shard = open_shard(home)
    refusals = pytest.raises(ResourceExhausted, match="no file handles are left to load")
    with handles_left(0), refusals:
        shard.load(1)
    # At every further step of loading it is that, or it works; the files are never blamed.
    for count in range(1, 4):
        with handles_left(count), suppress(ResourceExhausted):
            shard.load(1)
            shard.release(1)
    shard.load(1)
    with shard.hold(1) as hold, handles_left(0):
        [hits] = shard.search(hold, [Query(catalogue.probes[0], 10, exact=True)], never)
    assert pairs(hits) == catalogue.best(catalogue.probes[0], 10)


def test_a_budget_too_small_for_the_promoted_generation_ends_the_start(crowd):
    home, _ = crowd
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    ran = subprocess.run(
        command(home, "--memory-budget-bytes", "1000"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert "error: generation 1 needs about" in ran.stderr
    assert "the memory budget of 0 MiB" in ran.stderr


def copying_process(home, *options, stops_at=""):
    """Start a service that copies from a URL; it stops in the middle of a file if told to."""
    store = ["--generations", f"slow://{home / 'generations'}", "--cache-dir", str(home / "cache")]
    module = [sys.executable, "-m", "tests.index_service.slow_store"]
    return subprocess.Popen(
        [*module, *store, "--port", "0", "--http-port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, STOPS_AT: stops_at},
    )


def test_kill_9_while_copying_leaves_no_half_file_and_the_next_start_serves(crowd):
    home, _ = crowd
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    before = checksums(home)
    graph_bytes = (home / "generations" / "000001" / "shard-0000" / "graph.faiss").stat().st_size

    def halves():
        parts = (home / "cache").rglob(".graph.faiss.*")
        return [part for part in parts if part.stat().st_size == graph_bytes // 2]

    started = copying_process(home, stops_at="graph.faiss")
    try:
        wait_until(halves, started)
    finally:
        started.kill()
        started.communicate()
    assert checksums(home) == before
    assert not list((home / "cache").rglob("graph.faiss"))
    assert len(halves()) == 1
    [cache] = (home / "cache").iterdir()
    (cache / "000009").mkdir()

    announced = home / "announced-again.json"
    again = copying_process(home, "--announce-file", str(announced))
    try:
        wait_until(announced.exists, again)
        address = json.loads(announced.read_text())["address"]
        with grpc.insecure_channel(address) as channel:
            wait_until(lambda: health(channel) == SERVING, again)
    finally:
        again.kill()
        again.communicate()
    assert not list((home / "cache").rglob("*.part"))
    assert not (cache / "000009").exists(), "nobody goes back to what was copied long ago"
    [copied] = (home / "cache").rglob("000001")
    assert verify(copied, manifest_of(home)) > 0


def test_kill_9_while_loading_leaves_the_files_and_the_next_start_serves(crowd):
    home, _ = crowd
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    before = checksums(home)
    with process(home) as (_, started):
        # It has announced itself and loads now, or does so in a moment.
        started.kill()
        started.wait()
    assert checksums(home) == before
    assert verify(home / "generations" / "000001", manifest_of(home)) > 0
    (home / "announced.json").unlink()
    with (
        process(home) as (announcement, started),
        grpc.insecure_channel(announcement["address"]) as channel,
    ):
        wait_until(lambda: health(channel) == SERVING, started)
