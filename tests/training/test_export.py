import json

import numpy as np
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer

from tests.training.small_models import make_model, vectors_of
from training.bundle_files import write_bundle
from training.export import export
from training.export_options import ExportOptions


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, minilm_model):
    return make_model(tmp_path_factory.mktemp("models") / "small", minilm_model)


def test_int8_minilm_passes_its_gate(minilm_bundle):
    encoder = json.loads((minilm_bundle / "encoder.json").read_text())
    gate = encoder["gate"]
    assert gate["torch_onnx_max_difference"] <= 1e-4
    assert gate["cosine_mean"] >= 0.99
    assert gate["size_ratio"] <= 0.27
    size = (minilm_bundle / "model.onnx").stat().st_size
    assert size == encoder["files"]["model.onnx"]["bytes"] == gate["bytes"]


def test_int8_minilm_agrees_with_torch_on_texts_it_was_not_tuned_on(minilm_bundle, minilm_model):
    texts = ["waterproof tent for four people", "The handle broke off.", "LED bulb 60W 4-pack"]
    model = SentenceTransformer(str(minilm_model), device="cpu")
    expected = np.stack([model.encode(text, normalize_embeddings=True) for text in texts])
    cosines = (vectors_of(minilm_bundle, texts) * expected).sum(axis=1)
    assert cosines.min() > 0.97


def test_padding_does_not_change_a_full_precision_vector(tmp_path, small_model):
    export(ExportOptions(str(small_model), tmp_path / "bundle", quantization="none"))
    session = onnxruntime.InferenceSession(str(tmp_path / "bundle" / "model.onnx"))
    ids = np.array([[101, 2417, 4377, 102]], dtype=np.int64)
    padded = np.pad(ids, ((0, 0), (0, 5)))
    alone = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    mask = (padded > 0).astype(np.int64)
    beside = session.run(None, {"input_ids": padded, "attention_mask": mask})[0]
    assert np.abs(alone - beside).max() < 1e-5


def test_same_export_has_the_same_id(tmp_path, small_model):
    first, second = (
        export(ExportOptions(str(small_model), tmp_path / name)) for name in ("first", "second")
    )
    assert first["encoder_id"] == second["encoder_id"]


def describe(**changes):
    """What encoder.json says of an encoder, as far as it decides its id."""
    return {
        "dim": 4,
        "item_template": "{title}",
        "max_tokens": 16,
        "normalize": True,
        "pooling": "mean",
        "prompts": {"query": "", "item": ""},
        "quantization": "int8",
    } | changes


FILES = {"model.onnx": b"graph", "tokenizer.json": b"{}", "reference.json": b"[]"}


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        (FILES, {"item_template": "{title} {brand}"}),
        (FILES, {"prompts": {"query": "query: ", "item": ""}}),
        (FILES, {"max_tokens": 17}),
        (FILES, {"kind": "cross_encoder"}),
        (FILES | {"model.onnx": b"other"}, {}),
        (FILES | {"tokenizer.json": b"[]"}, {}),
    ],
)
def test_whatever_changes_a_vector_changes_the_id(tmp_path, files, changes):
    plain = write_bundle(tmp_path / "plain", FILES, describe())
    other = write_bundle(tmp_path / "other", files, describe(**changes))
    assert len(plain["encoder_id"]) == 24
    assert plain["encoder_id"] != other["encoder_id"]


def test_a_bi_encoder_keeps_the_id_it_had_before_kinds_were_written(tmp_path):
    plain = write_bundle(tmp_path / "plain", FILES, describe())
    named = write_bundle(tmp_path / "named", FILES, describe(kind="bi_encoder"))
    assert plain["encoder_id"] == named["encoder_id"]


def test_costliest_matrices_stay_float_until_the_target_is_met(tmp_path, small_model):
    fast = export(ExportOptions(str(small_model), tmp_path / "a", target=0.0))["gate"]
    close = export(ExportOptions(str(small_model), tmp_path / "b", target=1.0))["gate"]
    assert "float32" not in fast["matrices"]
    assert set(close["matrices"]) == {"float32"}
    assert close["cosine_mean"] > fast["cosine_mean"]
    assert len(close["sensitivity"]) == close["matrices"]["float32"]


def test_no_more_matrices_stay_float_than_the_target_takes(tmp_path, small_model):
    fast = export(ExportOptions(str(small_model), tmp_path / "a", target=0.0))["gate"]
    target = (1.0 + fast["cosine_mean"]) / 2
    found = export(ExportOptions(str(small_model), tmp_path / "b", target=target))["gate"]
    costs = found["sensitivity"]
    assert 0 < found["matrices"]["float32"] < len(costs)
    assert found["cosine_mean"] > fast["cosine_mean"]


def test_int8_vector_depends_on_the_text_alone(minilm_bundle):
    texts = ["drill", "a much longer text about garden hoses " * 8, "Größe 42", "drill"]
    alone = np.concatenate([vectors_of(minilm_bundle, [text]) for text in texts])
    backwards = vectors_of(minilm_bundle, texts[::-1])[::-1]
    assert (alone * backwards).sum(axis=1).min() >= 0.9999
    assert (alone[0] == alone[3]).all()


def test_retrieval_is_measured_on_generated_judgements_unless_others_are_given(minilm_bundle):
    found = json.loads((minilm_bundle / "encoder.json").read_text())["gate"]["retrieval"]
    assert (found["queries"], found["items"], found["judgements"]) == (200, 500, "generated")
    for measure in ("recall_at_10", "ndcg_at_10"):
        full = found[f"{measure}_fp32"]
        assert 0.4 < full < 0.95  # neither hopeless nor so easy that no loss would show
        for pairing in ("int8_over_fp32_items", "int8_over_int8_items"):
            assert abs(found[f"{measure}_{pairing}"] - full) < 0.05


def test_shorter_lengths_and_the_reason_to_publish_are_carried(tmp_path, small_model):
    options = ExportOptions(
        str(small_model), tmp_path / "b", matryoshka_dims=(64, 32, 128), force_reason="a trial"
    )
    encoder = export(options)
    assert encoder["matryoshka_dims"] == [32, 64]  # 128 are all, and no shorter length
    assert encoder["gate"]["forced"] == "a trial"


def test_bundle_is_replaced_whole(tmp_path):
    out = tmp_path / "bundle"
    write_bundle(out, FILES, describe())
    second = write_bundle(out, FILES | {"model.onnx": b"newer"}, describe())
    assert json.loads((out / "encoder.json").read_text()) == second
    assert (out / "model.onnx").read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
