"""A generation cut into another number of shards."""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_service.build.reshard import reshard
from index_service.filter import Equals
from index_service.generation.verify import verify
from index_service.query import Query
from rpc.errors import DataLoss, NotFound
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
from tests.index_service.test_build import checksums, random_catalogue


def merged(home, generation, query, k):
    """The best k over all shards of a generation, by (score descending, id ascending)."""
    hits, matched = [], 0
    for number in range(manifest_of(home, generation).num_shards):
        shard = open_shard(home, number)
        shard.load(generation)
        with shard.hold(generation) as hold:
            [found] = shard.search(hold, [query], never)
        hits += zip((-found.scores).tolist(), found.item_ids, strict=True)
        matched += found.items_matched
    return sorted(hits)[:k], matched


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 120), st.integers(0, 2**32 - 1))
def test_any_resharding_gives_the_same_exact_answers(before, after, count, seed):
    rng = np.random.default_rng(seed)
    catalogue = Catalogue(tied_units(rng, count), tied_units(rng, 3), random_attributes(rng, count))
    queries = [Query(probe, 15, exact=True) for probe in catalogue.probes]
    queries.append(Query(catalogue.probes[0], 15, exact=True, filter=Equals("sale", True)))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        build(catalogue, home, num_shards=before, ef_construction=20, m=4)
        if before == after:
            with pytest.raises(CommandError, match="shards already"):
                reshard(home / "generations", 1, after)
            return
        if not manifest_of(home).schema:
            queries.pop()
        reshard(home / "generations", 1, after)
        for query in queries:
            assert merged(home, 2, query, 15) == merged(home, 1, query, 15)


@pytest.mark.parametrize("after", [1, 3, 5])
def test_resharding_writes_the_files_that_a_build_would(tmp_path, after):
    catalogue = random_catalogue(400)
    catalogue.queries_given = True
    build(catalogue, tmp_path, num_shards=2)
    built = build(catalogue, tmp_path, num_shards=after)
    made = reshard(tmp_path / "generations", 1, after)
    assert (made.generation, made.shards, made.items) == (3, after, 400)
    assert made.ann_recall_at_10 == built.ann_recall_at_10
    one, two = checksums(tmp_path, 2), checksums(tmp_path, 3)
    # Arrow's record batches of attributes are cut elsewhere; their rows are compared above.
    for path in one:
        assert path.endswith("attributes.arrow") or one[path] == two[path], path
    old, new = manifest_of(tmp_path, 1), manifest_of(tmp_path, 3)
    assert (new.seq, new.encoder, new.index) == (old.seq, old.encoder, old.index)
    assert old.gate.queries_given
    assert new.gate.queries_given
    assert verify(tmp_path / "generations" / "000003", new) == new.size_bytes


def test_a_damaged_generation_is_not_cut(tmp_path):
    build(random_catalogue(300), tmp_path, num_shards=2)
    file = tmp_path / "generations" / "000001" / "shard-0001" / "vectors.f16"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataLoss, match=r"vectors\.f16"):
        reshard(tmp_path / "generations", 1, 3)
    assert not (tmp_path / "generations" / "000002").exists()


def test_what_an_interrupted_build_left_goes_when_a_generation_is_cut(tmp_path, capsys):
    build(random_catalogue(50), tmp_path)
    left = tmp_path / "generations" / ".building-0123" / "shard-0000"
    left.mkdir(parents=True)
    (left / "vectors.f16").write_bytes(b"12")
    reshard(tmp_path / "generations", 1, 2)
    assert not left.parent.exists()
    assert f"removing {left.parent}, left by" in capsys.readouterr().err


def test_an_unknown_generation_is_named(tmp_path):
    build(random_catalogue(30), tmp_path)
    with pytest.raises(NotFound, match="7"):
        reshard(tmp_path / "generations", 7, 3)


def test_kill_9_leaves_what_is_published_untouched_and_the_next_run_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 3_000), random_units(rng, 16))
    build(catalogue, tmp_path, ef_construction=20)
    before = checksums(tmp_path)
    generations = tmp_path / "generations"
    command = [sys.executable, "-m", "index_service.build.reshard"]
    command += ["--generations", str(generations), "--generation", "1", "--shards", "6"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while not list(generations.glob(".building-*/shard-*[0-9]")):
        assert time.monotonic() < deadline_s
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (generations / "000002").exists()
    [staging] = generations.glob(".building-*")
    finished = {path: path.stat().st_mtime_ns for path in staging.glob("shard-*[0-9]/*")}
    assert finished
    assert verify(generations / "000001", manifest_of(tmp_path)) > 0
    assert checksums(tmp_path) == before
    assert reshard(generations, 1, 6).generation == 2
    for path, changed_ns in finished.items():
        kept = generations / "000002" / path.relative_to(staging)
        assert kept.stat().st_mtime_ns == changed_ns
