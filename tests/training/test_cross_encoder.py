import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from encoder_service.bundle import CROSS_ENCODER, load_bundle
from encoder_service.reranker import load_reranker
from rpc.terminal import CommandError
from tests.training.small_models import MAX_TOKENS, MPNET_SCORES, make_cross_encoder
from training import cross_encoder
from training.export import export
from training.export_options import ExportOptions
from training.retrieval_gate import draw_candidates, judgements_of

PAIRS = [("warm coat", "Winter parka, down"), ("led bulb", "Linen dress"), ("hose", "x " * 300)]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, minilm_model):
    return make_cross_encoder(tmp_path_factory.mktemp("models") / "small", minilm_model)


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory, small_model):
    out = tmp_path_factory.mktemp("bundles") / "small"
    export(ExportOptions(str(small_model), out))
    return out


@pytest.fixture
def beir(tmp_path):
    """Judgements of one query to which all five items are relevant."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"i{n}", "title": f"lamp {n}"}) for n in range(5)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "lamp"}))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q\ti{n}\t1\n" for n in range(5)))
    return folder


def scores_of(model, pairs):
    """What the model itself gives, one pair at a time, before its activation."""
    loaded = CrossEncoder(str(model), device="cpu")
    return np.array([loaded.predict([p], activation_fn=torch.nn.Identity())[0] for p in pairs])


@pytest.mark.parametrize("with_types", [True, False], ids=["bert", "mpnet"])
def test_a_full_precision_bundle_scores_as_the_model_does(
    tmp_path, minilm_model, small_model, with_types
):
    model = small_model
    if not with_types:
        model = make_cross_encoder(
            tmp_path / "model", minilm_model, MPNET_SCORES, num_hidden_layers=1
        )
        settings = json.loads((model / "tokenizer_config.json").read_text())
        settings["model_input_names"] = ["input_ids", "attention_mask"]
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
    encoder = export(ExportOptions(str(model), tmp_path / "bundle", quantization="none"))
    assert encoder["gate"]["torch_onnx_max_difference"] <= 1e-4
    reranker = load_reranker(load_bundle(tmp_path / "bundle"))
    np.testing.assert_allclose(reranker.score(PAIRS), scores_of(model, PAIRS), atol=1e-4)


def test_the_bundle_says_what_it_is(small_bundle):
    encoder = json.loads((small_bundle / "encoder.json").read_text())
    said = {key: encoder[key] for key in ("kind", "dim", "pooling", "normalize", "max_tokens")}
    assert said == {
        "kind": CROSS_ENCODER,
        "dim": 1,
        "pooling": "none",
        "normalize": False,
        "max_tokens": MAX_TOKENS,
    }


def test_int8_scores_stay_near_full_precision(small_bundle, small_model):
    gate = json.loads((small_bundle / "encoder.json").read_text())["gate"]
    assert gate["matrices"].keys() <= {"channel7", "channel7_split"}
    assert sum(gate["matrices"].values()) == len(gate["sensitivity"]) == 4
    assert gate["pearson"] > 0.99
    assert gate["spearman"] > 0.99
    assert gate["size_ratio"] < 0.35
    assert 0 < gate["max_difference"] < 0.1 * gate["score_range"]
    reranker = load_reranker(load_bundle(small_bundle))
    assert reranker.check_references().spearman > 0.99
    differences = reranker.score(PAIRS) - scores_of(small_model, PAIRS)
    assert np.abs(differences).max() < 0.1 * gate["score_range"]


def test_reranking_is_measured_on_generated_judgements(small_bundle):
    found = json.loads((small_bundle / "encoder.json").read_text())["gate"]["reranking"]
    assert (found["queries"], found["pairs"], found["judgements"]) == (40, 800, "generated")


def test_a_target_out_of_reach_leaves_all_in_float_and_given_judgements_are_used(
    tmp_path, small_bundle, small_model, beir
):
    options = ExportOptions(str(small_model), tmp_path / "bundle", target=1.0, judgements=beir)
    gate = export(options)["gate"]
    assert set(gate["matrices"]) == {"float32"}
    plain = json.loads((small_bundle / "encoder.json").read_text())["gate"]
    assert gate["max_difference"] < plain["max_difference"]
    # Every item is relevant: any order is the best one.
    assert gate["reranking"] == {
        "queries": 1,
        "pairs": 5,
        "ndcg_at_10_fp32": 1.0,
        "ndcg_at_10_int8": 1.0,
        "judgements": "given",
        "lost": {"ndcg@10": 0.0},
        "loss_max": 0.01,
    }


def test_a_reranker_that_orders_worse_than_full_precision_is_refused(
    tmp_path, monkeypatch, small_model, beir
):
    found = {"queries": 1, "pairs": 5, "ndcg_at_10_fp32": 0.5, "ndcg_at_10_int8": 0.47}
    monkeypatch.setattr(cross_encoder, "measure_reranking", lambda *_, **__: dict(found))
    with pytest.raises(CommandError, match=r"INT8 loses 6\.00% of full precision's ndcg@10"):
        export(ExportOptions(str(small_model), tmp_path / "bundle", judgements=beir))
    assert not (tmp_path / "bundle").exists()


def test_candidates_are_the_judged_items_and_others_without_doubles():
    collection, _ = judgements_of(None)
    candidates = draw_candidates(collection, 30)
    assert len(candidates) == 30
    for query_id, item_ids in candidates.items():
        assert len(set(item_ids)) == len(item_ids) == 20
        assert set(collection.qrels[query_id]) <= set(item_ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_prompt": "query: "},
        {"item_prompt": "item: "},
        {"matryoshka_dims": (64,)},
        {"item_bundle": Path("items")},
    ],
)
def test_options_of_bi_encoders_are_refused(tmp_path, small_model, changes):
    with pytest.raises(CommandError, match="is for bi-encoders"):
        export(ExportOptions(str(small_model), tmp_path / "bundle", **changes))
