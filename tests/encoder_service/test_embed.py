import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from encoder_service.bundle import load_bundle
from encoder_service.embed import embed
from encoder_service.embed_workers import embed_workers
from encoder_service.encoder import load_encoder
from encoder_service.settings import ReferenceSettings
from encoder_service.vector_cache import VectorCache, hashes_of
from protos.vitrine.v1.types_pb2 import Item
from rpc.errors import DataLoss
from rpc.terminal import CommandError

SCHEMA = pa.schema([("item_id", pa.string()), ("item", pa.binary())])


def write_items(path, titles):
    """Write an items file with small batches."""
    items = [
        Item(item_id=f"i{row:05d}", title=title).SerializeToString()
        for row, title in enumerate(titles)
    ]
    ids = [f"i{row:05d}" for row in range(len(titles))]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for at in range(0, len(items), 100):
            columns = [pa.array(ids[at : at + 100]), pa.array(items[at : at + 100], pa.binary())]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return path


def read_vectors(out):
    return np.fromfile(out / "vectors.f16", dtype="<f2").reshape(-1, 384)


def titles(count, start=0):
    return [f"Boots number {n} {'for winter ' * (n % 4)}" for n in range(start, start + count)]


def test_row_i_is_the_vector_of_item_i(tmp_path, minilm_bundle, encoder):
    names = [*titles(130), "", "Boots number 3 for winter for winter for winter", "Straße 赤い"]
    items = write_items(tmp_path / "items.arrow", names)
    bundle = load_bundle(minilm_bundle)
    result = embed(bundle, items, tmp_path / "cache", tmp_path / "out")
    # One title is there twice once white space is collapsed: it is embedded once.
    assert (result["items"], result["embedded"], result["reused"]) == (133, 132, 1)
    expected = encoder.encode([" ".join(name.split()) for name in names]).astype(np.float16)
    np.testing.assert_array_equal(read_vectors(tmp_path / "out"), expected)
    probes = np.load(tmp_path / "out" / "probes.npy")
    assert probes.shape == (133, 384)
    assert probes.dtype == np.float32
    assert np.allclose(np.linalg.norm(probes, axis=1), 1.0, atol=1e-4)
    described = json.loads((tmp_path / "out" / "embed.json").read_text())
    assert described["encoder_id"] == bundle.encoder_id
    assert (described["items"], described["dim"]) == (133, 384)


def test_a_cluster_makes_the_vectors_that_this_machine_would(tmp_path, minilm_bundle):
    pytest.importorskip("ray")
    bundle = load_bundle(minilm_bundle)
    items = write_items(tmp_path / "items.arrow", titles(200))
    embed(bundle, items, tmp_path / "cache", tmp_path / "here")
    result = embed(bundle, items, tmp_path / "other-cache", tmp_path / "there", ray="local")
    assert result["embedded"] == 200
    np.testing.assert_array_equal(read_vectors(tmp_path / "here"), read_vectors(tmp_path / "there"))


def test_a_bundle_that_makes_noise_here_embeds_and_caches_nothing(tmp_path, noisy_bundle):
    items = write_items(tmp_path / "items.arrow", titles(3))
    with pytest.raises(CommandError, match=r"mean cosine of .* at least 0\.97 is needed"):
        embed(load_bundle(noisy_bundle), items, tmp_path / "cache", tmp_path / "out")
    assert not (tmp_path / "out" / "vectors.f16").exists()
    assert cached_bytes(tmp_path) == 0


def test_noise_is_embedded_when_told_so_and_kept_apart_from_checked_vectors(
    tmp_path, noisy_bundle, monkeypatch, capsys
):
    items = write_items(tmp_path / "items.arrow", titles(3))
    bundle = load_bundle(noisy_bundle)
    monkeypatch.setenv("VITRINE_ENCODER_SERVE_BELOW_REFERENCE_COSINE", "true")
    assert embed(bundle, items, tmp_path / "cache", tmp_path / "out")["embedded"] == 3
    assert "warning: " in capsys.readouterr().err
    assert cached_bytes(tmp_path) > 0
    assert not (tmp_path / "cache" / bundle.encoder_id).exists()
    # Work that is done counts as done for whoever asks for the same.
    monkeypatch.setenv("VITRINE_ENCODER_SERVE_BELOW_REFERENCE_COSINE", "false")
    with pytest.raises(CommandError, match=r"at least 0\.97 is needed"):
        embed(bundle, items, tmp_path / "cache", tmp_path / "out")


def test_a_process_of_a_cluster_that_makes_noise_is_refused(noisy_bundle):
    pytest.importorskip("ray")
    # As on a machine where the bundle fits, with a cluster of machines where it does not.
    unchecked = load_encoder(load_bundle(noisy_bundle))
    with (
        embed_workers(unchecked, "local", ReferenceSettings()) as embed_portions,
        pytest.raises(CommandError, match="mean cosine of"),
    ):
        list(embed_portions([["red dress"]]))


def test_second_build_embeds_only_what_is_new(tmp_path, minilm_bundle):
    bundle = load_bundle(minilm_bundle)
    half = write_items(tmp_path / "half.arrow", titles(60))
    whole = write_items(tmp_path / "whole.arrow", titles(120))
    assert embed(bundle, half, tmp_path / "cache", tmp_path / "a")["embedded"] == 60
    result = embed(bundle, whole, tmp_path / "cache", tmp_path / "b")
    assert (result["embedded"], result["reused"]) == (60, 60)
    fresh = embed(bundle, whole, tmp_path / "other-cache", tmp_path / "c")
    assert fresh["embedded"] == 120
    np.testing.assert_array_equal(read_vectors(tmp_path / "b"), read_vectors(tmp_path / "c"))


def test_finished_work_is_not_done_again_and_changed_items_are(tmp_path, minilm_bundle):
    bundle = load_bundle(minilm_bundle)
    items = write_items(tmp_path / "items.arrow", titles(10))
    embed(bundle, items, tmp_path / "cache", tmp_path / "out")
    before = (tmp_path / "out" / "vectors.f16").stat().st_mtime_ns
    assert embed(bundle, items, tmp_path / "cache", tmp_path / "out")["embedded"] == 0
    assert (tmp_path / "out" / "vectors.f16").stat().st_mtime_ns == before
    write_items(tmp_path / "items.arrow", titles(10, start=5))
    assert embed(bundle, items, tmp_path / "cache", tmp_path / "out")["embedded"] == 5


def embed_command(bundle, tmp_path):
    folders = ["--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "encoder_service.embed", "--bundle", bundle]
    return [str(part) for part in (*command, "--items", tmp_path / "items.arrow", *folders)]


def cached_bytes(tmp_path):
    return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.vectors"))


def test_killed_run_goes_on_where_it_stopped(tmp_path, minilm_bundle):
    total = 1200
    write_items(tmp_path / "items.arrow", [f"{title} sold in pairs" for title in titles(total)])
    command = embed_command(minilm_bundle, tmp_path)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    give_up_s = time.monotonic() + 60
    while not cached_bytes(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < give_up_s
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "out" / "embed.json").exists()
    record_bytes = 16 + 8 + 384 * 2
    kept = cached_bytes(tmp_path) // record_bytes
    assert 0 < kept < total
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["embedded"], result["reused"]) == (total - kept, kept)
    assert cached_bytes(tmp_path) // record_bytes == total


def test_incomplete_and_altered_records_are_passed_over(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 8)).astype(np.float16)
    hashes = hashes_of(["a", "b", "c"])
    with VectorCache(tmp_path, 8).writer() as writer:
        writer.append(hashes, vectors)
    (path,) = tmp_path.glob("*.vectors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # c's vector
    path.write_bytes(bytes(content) + b"half a record")
    cache = VectorCache(tmp_path, 8)
    positions = cache.find(hashes)
    assert positions.tolist() == [0, 1, -1]
    np.testing.assert_array_equal(cache.read(positions[:2]), vectors[:2])


def test_cache_finds_across_files_and_misses_strangers(tmp_path):
    rng = np.random.default_rng(1)
    names = [f"text {n}" for n in range(50)]
    vectors = rng.normal(size=(50, 4)).astype(np.float16)
    for at in range(0, 50, 20):
        with VectorCache(tmp_path, 4).writer() as writer:
            writer.append(hashes_of(names[at : at + 20]), vectors[at : at + 20])
    cache = VectorCache(tmp_path, 4)
    order = rng.permutation(50)
    positions = cache.find(hashes_of([names[n] for n in order]))
    np.testing.assert_array_equal(cache.read(positions), vectors[order])
    assert (cache.find(hashes_of(["stranger", ""])) == -1).all()


def test_empty_catalogue_gives_empty_vectors(tmp_path, minilm_bundle):
    items = write_items(tmp_path / "items.arrow", [])
    result = embed(load_bundle(minilm_bundle), items, tmp_path / "cache", tmp_path / "out")
    assert result["items"] == 0
    assert (tmp_path / "out" / "vectors.f16").stat().st_size == 0
    assert np.load(tmp_path / "out" / "probes.npy").shape == (0, 384)


def test_given_queries_are_the_probes_and_others_are_noticed(tmp_path, minilm_bundle, encoder):
    bundle = load_bundle(minilm_bundle)
    items = write_items(tmp_path / "items.arrow", titles(130))
    queries = tmp_path / "queries.txt"

    def probes_with(lines):
        queries.write_text("\n".join(lines))
        result = embed(bundle, items, tmp_path / "cache", tmp_path / "out", queries=queries)
        return result["embedded"], np.load(tmp_path / "out" / "probes.npy")

    embedded, probes = probes_with(["warm boots", "a lamp"])
    assert embedded == 130
    np.testing.assert_array_equal(probes, encoder.encode(["warm boots", "a lamp"]))
    embedded, probes = probes_with(["a lamp", "boots", "warm"])
    assert embedded == 0
    np.testing.assert_array_equal(probes, encoder.encode(["a lamp", "boots", "warm"]))
    embed(bundle, items, tmp_path / "cache", tmp_path / "out")
    assert len(np.load(tmp_path / "out" / "probes.npy")) == 130


def test_work_that_other_work_was_begun_over_is_not_done(tmp_path, minilm_bundle, monkeypatch):
    bundle = load_bundle(minilm_bundle)
    one = write_items(tmp_path / "one.arrow", titles(5))
    other = write_items(tmp_path / "other.arrow", titles(5, start=5))
    embed(bundle, one, tmp_path / "cache", tmp_path / "out")
    expected = read_vectors(tmp_path / "out")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("encoder_service.embed._write_probes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(bundle, other, tmp_path / "cache", tmp_path / "out")
    embed(bundle, one, tmp_path / "cache", tmp_path / "out")
    np.testing.assert_array_equal(read_vectors(tmp_path / "out"), expected)


def test_missing_and_damaged_items_files_are_sentences(tmp_path, minilm_bundle):
    bundle = load_bundle(minilm_bundle)
    with pytest.raises(CommandError, match="there is no items file"):
        embed(bundle, tmp_path / "none.arrow", tmp_path / "cache", tmp_path / "out")
    (tmp_path / "bad.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(DataLoss, match=r"bad\.arrow: is not an Arrow file"):
        embed(bundle, tmp_path / "bad.arrow", tmp_path / "cache", tmp_path / "out")
