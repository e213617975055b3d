import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from benchmarks import encoder, encoder_worker
from benchmarks.encoder_quality import EmbeddingsCache, part_to_embed, quality
from benchmarks.encoder_report import COLUMNS, markdown
from benchmarks.encoder_targets import targets
from benchmarks.encoder_texts import short_texts, texts_of_length
from benchmarks.report import percentiles_us
from training.beir import Collection
from training.generated_queries import generated_collection
from training.retrieval_gate import FP32_ITEMS, INT8_ITEMS


@pytest.fixture(scope="module")
def tokenizer(minilm_model):
    return Tokenizer.from_file(str(minilm_model / "tokenizer.json"))


@pytest.mark.parametrize("tokens", [8, 32, 128])
def test_texts_have_exactly_the_length_asked_for(tokenizer, tokens):
    tokenizer.no_padding()
    texts = texts_of_length(tokenizer, tokens, count=20, seed=1)
    assert len(set(texts)) == 20
    assert {len(tokenizer.encode(text).ids) for text in texts} == {tokens}


def test_short_texts_are_distinct_and_start_with_the_collections_own(tokenizer):
    collection = generated_collection(50, 10)
    tokenizer.no_padding()
    texts = short_texts(tokenizer, collection, count=100, seed=1)
    assert len(set(texts)) == 100
    assert {text for text in texts if text in collection.query_texts} <= set(texts[:10])
    assert all(4 <= len(tokenizer.encode(text).ids) <= 10 for text in texts)


class CountingWorker:
    """Embeds a text as its length, and counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def embed(self, texts, out, together):
        self.asked += 1
        np.save(out, np.array([[len(text)] for text in texts], dtype=np.float32))


def test_vectors_are_made_once_for_a_model_and_texts(tmp_path):
    cache, worker = EmbeddingsCache(tmp_path / "kept"), CountingWorker()
    assert cache.embedded("model", ["a", "bcd"], worker).tolist() == [[1], [3]]
    assert cache.embedded("model", ["a", "bcd"], worker).tolist() == [[1], [3]]
    assert worker.asked == 1
    cache.embedded("model", ["abcd"], worker)
    cache.embedded("other", ["a", "bcd"], worker)
    assert worker.asked == 3


def test_an_interrupted_run_keeps_the_portions_that_are_done(tmp_path):
    class StoppedWorker(CountingWorker):
        def embed(self, texts, out, together):
            if self.asked == 2:
                raise KeyboardInterrupt
            super().embed(texts, out, together)

    cache, worker = EmbeddingsCache(tmp_path), CountingWorker()
    texts = ["x" * (number % 7) for number in range(3_500)]
    with pytest.raises(KeyboardInterrupt):
        cache.embedded("model", texts, StoppedWorker())
    found = cache.embedded("model", texts, worker)
    assert worker.asked == 2
    assert found.ravel().tolist() == [len(text) for text in texts]
    assert [file.suffix for file in tmp_path.iterdir()] == [".npy"]


def test_texts_embedded_together_get_the_rows_of_their_places():
    batches = []

    class Lengths:
        def encode(self, texts):
            batches.append(len(texts))
            return np.array([[len(text)] for text in texts], dtype=np.float32)

    texts = ["x" * (number * 7 % 11) for number in range(40)]
    found = encoder_worker.embedded(Lengths(), texts, together=16)
    assert found.ravel().tolist() == [len(text) for text in texts]
    assert batches == [16, 16, 8]


def test_loss_is_what_full_precision_finds_and_the_system_does_not():
    collection = Collection(
        name="two",
        item_ids=tuple(f"i{n}" for n in range(22)),
        item_texts=tuple(f"item {n}" for n in range(22)),
        query_ids=("q0", "q1"),
        query_texts=("query 0", "query 1"),
        qrels={"q0": {"i0": 1}, "q1": {"i21": 1}},
    )
    # Items stand on a quarter circle; query 0 looks at the first of them, query 1 at the last.
    angles = np.linspace(0, np.pi / 2, 22)
    items = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def full(texts):
        return items if len(texts) == 22 else np.eye(2, dtype=np.float32)

    def turned(texts):  # both queries look at the first item: the second finds nothing of its own
        return items if len(texts) == 22 else np.array([[1, 0], [1, 0]], dtype=np.float32)

    found = quality(collection, full, turned, own_part=None, bases={})
    assert found["cosine_mean"] == 0.5
    assert found["cosine_min"] == 0.0
    assert found["recall_at_10_over_fp32_items"] == 0.5
    assert found["recall_at_10_over_fp32_items_lost_percent"] == 50.0
    assert found["ndcg_at_10_over_fp32_items_lost_percent"] == 50.0


def test_a_part_is_compared_with_what_full_precision_finds_in_that_part():
    collection = generated_collection(40, 20)
    rng = np.random.default_rng(1)
    vectors = {
        text: rng.normal(size=8).astype(np.float32)
        for text in (*collection.item_texts, *collection.query_texts)
    }

    texts = dict(zip(collection.item_ids, collection.item_texts, strict=True))
    for query, judged in zip(collection.query_texts, collection.qrels.values(), strict=True):
        vectors[query] = vectors[texts[next(iter(judged))]]  # its own item is among the nearest

    def full(texts):
        return np.stack([vectors[text] for text in texts])

    part = part_to_embed(collection, 15)
    assert part.item_ids == collection.item_ids[:15]
    assert part.query_ids == tuple(
        query_id
        for query_id, judged in collection.qrels.items()
        if set(judged) & set(collection.item_ids[:15])
    )
    assert part_to_embed(collection, 40) is collection
    assert part_to_embed(collection, 0) is None
    for own_part in (part, collection):
        found = quality(collection, full, full, own_part, bases={})
        assert found["items_over_own_items"] == len(own_part.item_ids)
        assert found["queries_over_own_items"] == len(own_part.query_ids)
        assert found["recall_at_10_over_own_items_lost_percent"] == 0.0


def test_a_markdown_row_has_every_column():
    row = markdown(COLUMNS, [["x"] * len(COLUMNS)]).splitlines()[-1]
    assert row == "| " + " | ".join(["x"] * len(COLUMNS)) + " |"


def test_p99_is_told_of_a_hundred_calls_or_not_at_all():
    assert "p99_us" not in percentiles_us([[1.0] * 50, [1.0] * 49])
    found = percentiles_us([[1.0] * 50, [1.0] * 48 + [7.0, 9.0]])
    assert found == {"calls": 100, "p50_us": 1.0, "p95_us": 1.0, "p99_us": 7.0}


def figures_of(torch_share, sizes=(26, 100)):
    own, full = sizes
    systems = {
        "own": {"file_bytes": own, "threads": 2, "cosine_mean": 0.99},
        "onnx_fp32_1": {"file_bytes": full, "threads": 1},
        "onnx_fp32": {"file_bytes": full, "threads": 2},
    }
    shares = {"torch": {"median_of_rounds": torch_share}}
    return {"systems": systems, "short_queries": {"own_to": shares}}


@pytest.mark.parametrize(
    ("dim", "share", "reached"), [(384, 0.10, True), (384, 0.12, False), (768, 0.12, True)]
)
def test_a_target_is_the_models_own(dim, share, reached):
    found = targets(figures_of(share), {"dim": dim, "gate": {}})
    [against_torch] = [each for each in found if "torch" in each.figure]
    assert against_torch.measured == share
    assert against_torch.reached is reached


def test_a_target_that_was_not_measured_is_not_reached():
    found = targets(figures_of(0.1), {"dim": 384, "gate": {}})
    unmeasured = [each for each in found if each.measured is None]
    assert {each.cells()[2] for each in unmeasured} == {"not measured"}
    assert not any(each.reached for each in unmeasured)
    assert {each.figure for each in found if each.reached} >= {
        "mean cosine to FP32", "file size, share of FP32"
    }  # fmt: skip


@pytest.mark.parametrize(("pairing", "items"), [(FP32_ITEMS, "FP32"), (INT8_ITEMS, "INT8")])
def test_the_pairing_that_ships_is_named(pairing, items):
    shipped = {"dim": 384, "gate": {"retrieval": {"pairing": pairing}}}
    named = [each.figure for each in targets(figures_of(0.1), shipped) if "ships" in each.figure]
    assert len(named) == 2
    assert all(f"items in {items}" in figure for figure in named)


def test_the_quick_run_measures_what_is_there_and_names_what_is_not(
    minilm_bundle, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    arguments = f"--quick --name tiny --systems own openvino_fp32 --work {tmp_path}"
    arguments += f" --bundle {minilm_bundle}"
    arguments += f" --results {tmp_path} --images {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["encoder", *arguments.split()])
    encoder.main()
    figures = json.loads((tmp_path / "encoder-tiny-quick.json").read_text())
    assert "pip install 'vitrine[bench]'" in figures["systems"]["openvino_fp32"]["absent"]
    assert 0.99 < figures["systems"]["own"]["cosine_mean"] < 1
    assert figures["systems"]["own"]["queries"] == 30
    measured = {(cell["system"], cell["tokens"], cell["batch"]) for cell in figures["grid"]}
    systems = ("onnx_fp32_1", "onnx_fp32", "own_1", "own", "own_grpc")
    assert measured == {
        (s, tokens, batch) for s in systems for tokens in (8, 32) for batch in (1, 8)
    }
    assert all(cell["p50_us"] > 0 and cell["texts_a_second"] > 0 for cell in figures["grid"])
    assert figures["callers_64"]["texts_a_second"] > 0
    ways = {"empty_rpc", "in_process", "encode", "in_process_again", "standing"}
    assert set(figures["overhead"]["us"]) == ways
    assert set(figures["short_queries"]["own_1_to"]) == {"onnx_fp32_1"}
    assert set(figures["short_queries"]["own_to"]) == {"onnx_fp32"}
    measured = {each["figure"] for each in figures["targets"] if each["measured"] is not None}
    assert len(measured) == len(figures["targets"]) - 1  # torch was not asked for
    assert (tmp_path / "encoder-tiny-quick.png").exists()
    assert "OpenVINO FP32" in (tmp_path / "tiny-quick" / "table.md").read_text()
