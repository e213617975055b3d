import json
import shutil

import numpy as np
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel
from typer.testing import CliRunner

from rpc.terminal import CommandError
from training.bundle_files import write_bundle
from training.export import ExportOptions, _require_meaning, export, main

BERT = (BertModel, BertConfig, {"type_vocab_size": 2})
MPNET = (MPNetModel, MPNetConfig, {})


def make_model(folder, tokenizer_folder, kind=BERT, pooling="mean"):
    """Save a small bi-encoder with random weights, with the tokenizer of a real one."""
    model_class, config_class, extra = kind
    config = config_class(
        vocab_size=30_522,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
        initializer_range=0.1,
        **extra,
    )
    backbone = folder.with_name(f"{folder.name}-backbone")
    model_class(config).save_pretrained(backbone)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(tokenizer_folder / name, backbone / name)
    transformer = Transformer(str(backbone), max_seq_length=48)
    SentenceTransformer(modules=[transformer, Pooling(128, pooling)], device="cpu").save(
        str(folder)
    )
    return folder


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, minilm_model):
    return make_model(tmp_path_factory.mktemp("models") / "small", minilm_model)


def vectors_of(bundle, texts):
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        rows.append(session.run(["embedding"], feed)[0][0])
    return np.stack(rows)


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


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [(BERT, "cls"), (BERT, "max"), (MPNET, "mean")],
    ids=["cls", "max", "mpnet"],
)
def test_graph_pools_and_normalizes_as_the_model_does(tmp_path, minilm_model, kind, pooling):
    folder = make_model(tmp_path / "model", minilm_model, kind, pooling)
    encoder = export(ExportOptions(str(folder), tmp_path / "bundle", quantization="none"))
    assert encoder["pooling"] == pooling
    texts = ["red dress", "a much longer text " * 30]
    expected = SentenceTransformer(str(folder), device="cpu").encode(
        texts[:1], normalize_embeddings=True
    )
    got = vectors_of(tmp_path / "bundle", texts)
    assert np.abs(got[:1] - expected).max() <= 1e-4
    assert np.allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)


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
    fast = export(ExportOptions(str(small_model), tmp_path / "a", target_cosine=0.0))["gate"]
    close = export(ExportOptions(str(small_model), tmp_path / "b", target_cosine=1.0))["gate"]
    assert "float32" not in fast["matrices"]
    assert set(close["matrices"]) == {"float32"}
    assert close["cosine_mean"] > fast["cosine_mean"]
    assert len(close["sensitivity"]) == close["matrices"]["float32"]


def test_int8_vector_depends_on_the_text_alone(minilm_bundle):
    texts = ["drill", "a much longer text about garden hoses " * 8, "Größe 42", "drill"]
    alone = np.concatenate([vectors_of(minilm_bundle, [text]) for text in texts])
    backwards = vectors_of(minilm_bundle, texts[::-1])[::-1]
    assert (alone * backwards).sum(axis=1).min() >= 0.9999
    assert (alone[0] == alone[3]).all()


def test_retrieval_on_given_judgements_is_recorded_for_both_pairings(tmp_path, small_model):
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    titles = [f"{word} lamp {number}" for number in range(10) for word in ("red", "blue")]
    lines = [json.dumps({"_id": f"i{n}", "title": title}) for n, title in enumerate(titles)]
    (beir / "corpus.jsonl").write_text("\n".join(lines))
    (beir / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": titles[4]}))
    (beir / "qrels" / "test.tsv").write_text("q\ti4\t1\n")
    options = ExportOptions(str(small_model), tmp_path / "bundle", judgements=beir)
    found = export(options)["gate"]["retrieval"]
    assert (found["queries"], found["items"], found["judgements"]) == (1, 20, "given")
    for pairing in ("fp32", "int8_over_fp32_items", "int8_over_int8_items"):
        assert found[f"recall_at_10_{pairing}"] == 1.0


def test_shorter_lengths_and_the_reason_to_publish_are_carried(tmp_path, small_model):
    options = ExportOptions(
        str(small_model), tmp_path / "b", matryoshka_dims=(64, 32), force_reason="a trial"
    )
    encoder = export(options)
    assert encoder["matryoshka_dims"] == [32, 64]
    assert encoder["gate"]["forced"] == "a trial"


def test_bundle_is_replaced_whole(tmp_path):
    out = tmp_path / "bundle"
    write_bundle(out, FILES, describe())
    second = write_bundle(out, FILES | {"model.onnx": b"newer"}, describe())
    assert json.loads((out / "encoder.json").read_text()) == second
    assert (out / "model.onnx").read_bytes() == b"newer"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def run_export(*arguments):
    import typer

    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_error_line(result):
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    return errors[0]


def test_model_without_pooling_is_refused_in_one_line(tmp_path, minilm_model):
    cross_encoder = tmp_path / "cross"
    config = BertConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, num_labels=1)
    cross_encoder.mkdir()
    config.architectures = ["BertForSequenceClassification"]
    config.save_pretrained(cross_encoder)
    result = run_export("--model", cross_encoder, "--out", tmp_path / "bundle")
    assert "is not a bi-encoder" in one_error_line(result)
    assert not (tmp_path / "bundle").exists()


def test_missing_folder_and_a_foreign_output_folder_are_refused(tmp_path):
    result = run_export("--model", tmp_path / "nowhere", "--out", tmp_path / "bundle")
    assert "there is no model folder" in one_error_line(result)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    result = run_export("--model", "all-MiniLM-L6-v2", "--out", tmp_path / "full")
    assert "holds other files" in one_error_line(result)
    assert (tmp_path / "full" / "diary.txt").read_text() == "mine"


def test_too_many_tokens_are_refused(tmp_path, small_model):
    with pytest.raises(CommandError, match=r"--max-tokens is 99; allowed 8\.\.48"):
        export(ExportOptions(str(small_model), tmp_path / "bundle", max_tokens=99))


def test_noise_is_not_published_unless_forced():
    with pytest.raises(CommandError, match=r"mean cosine of only 0\.4000"):
        _require_meaning(0.4, forced=False)
    _require_meaning(0.4, forced=True)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--matryoshka-dims", "64,128", "--matryoshka-dims has 128; allowed 1..127"),
        ("--matryoshka-dims", "half", "numbers with commas are needed"),
        ("--judgements", "nowhere", "this is no BEIR folder"),
        ("--calibration", "empty.txt", "has no text"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    tmp_path, monkeypatch, small_model, option, value, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    result = run_export("--model", small_model, "--out", tmp_path / "bundle", option, value)
    assert sentence in one_error_line(result)
    assert not (tmp_path / "bundle").exists()
