"""Models of many kinds: each graph gives what the model itself gives."""

from collections import Counter

import numpy as np
import onnx
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

from rpc.terminal import CommandError
from tests.training.small_models import (
    BERT,
    DISTILBERT,
    MODERNBERT,
    MPNET,
    QWEN3,
    ROBERTA,
    T5,
    make_model,
    vectors_of,
)
from training import fused_attention, torch_encoder
from training.export import export
from training.export_options import ExportOptions

TEXTS = ["red dress", "a much longer text of one thing and another " * 30]
LAYERS = 2
FUSED, PLAIN = {"MultiHeadAttention": LAYERS}, {"Softmax": LAYERS}


def attention_of(bundle):
    nodes = onnx.load(str(bundle / "model.onnx")).graph.node
    found = Counter(node.op_type for node in nodes)
    return {
        name: found[name] for name in ("MultiHeadAttention", "Attention", "Softmax") if found[name]
    }


@pytest.mark.parametrize(
    ("kind", "pooling", "attention"),
    [
        pytest.param(BERT, "cls", FUSED, id="bert-cls"),
        pytest.param(BERT, "max", FUSED, id="bert-max"),
        pytest.param(MPNET, "mean", FUSED, id="mpnet-mean"),
        pytest.param(DISTILBERT, "lasttoken", FUSED, id="distilbert-lasttoken"),
        # Its second layer sees near tokens alone, which the fused node does not know.
        pytest.param(MODERNBERT, "weightedmean", PLAIN, id="modernbert-weightedmean"),
        pytest.param(T5, "mean", PLAIN, id="t5-mean"),
        pytest.param(QWEN3, "lasttoken", PLAIN, id="qwen3-lasttoken"),
    ],
)
def test_graph_pools_and_normalizes_as_the_model_does(
    tmp_path, minilm_model, kind, pooling, attention
):
    folder = make_model(tmp_path / "model", minilm_model, kind, pooling)
    encoder = export(ExportOptions(str(folder), tmp_path / "bundle", quantization="none"))
    assert encoder["pooling"] == pooling
    model = SentenceTransformer(str(folder), device="cpu")
    expected = np.stack([model.encode(text, normalize_embeddings=True) for text in TEXTS])
    got = vectors_of(tmp_path / "bundle", TEXTS)
    assert np.abs(got - expected).max() <= 1e-4
    assert np.allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
    assert attention_of(tmp_path / "bundle") == attention


def test_a_layer_behind_the_pooling_is_exported_and_no_text_outgrows_the_positions(
    tmp_path, minilm_model
):
    folder = make_model(
        tmp_path / "model", minilm_model, ROBERTA, max_tokens=512, behind=[Dense(128, 64)]
    )
    encoder = export(ExportOptions(str(folder), tmp_path / "bundle", quantization="none"))
    # Of 64 rows of positions, two stand before the first token.
    assert (encoder["dim"], encoder["max_tokens"]) == (64, 62)
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 62
    expected = np.stack([model.encode(text, normalize_embeddings=True) for text in TEXTS])
    assert np.abs(vectors_of(tmp_path / "bundle", TEXTS) - expected).max() <= 1e-4


def test_prompts_of_the_model_and_of_the_options_reach_the_vectors(tmp_path, minilm_model):
    folder = make_model(
        tmp_path / "model",
        minilm_model,
        prompts={"query": "search for: ", "document": "never used: "},
        default_prompt_name="query",
    )
    bundle = tmp_path / "bundle"
    options = ExportOptions(str(folder), bundle, quantization="none", item_prompt="product: ")
    prompts = export(options)["prompts"]
    assert prompts == {"query": "search for: ", "item": "product: "}
    model = SentenceTransformer(str(folder), device="cpu")
    query, item, plain = vectors_of(
        bundle, [prompts["query"] + TEXTS[0], prompts["item"] + TEXTS[0], TEXTS[0]]
    )
    expected = model.encode_query(TEXTS[0], normalize_embeddings=True)
    assert np.abs(query - expected).max() <= 1e-4
    expected = model.encode(TEXTS[0], prompt="product: ", normalize_embeddings=True)
    assert np.abs(item - expected).max() <= 1e-4
    assert query @ plain < 0.999  # a prompt matters to this model


def test_a_model_that_treats_its_prompt_apart_is_refused_by_comparison(
    tmp_path, monkeypatch, minilm_model
):
    folder = make_model(
        tmp_path / "model",
        minilm_model,
        include_prompt=False,
        prompts={"query": "Represent what a shopper looks for: "},
    )
    monkeypatch.setattr(torch_encoder, "require_prompts_pooled", lambda *_: None)
    with pytest.raises(CommandError, match="differs from the model by"):
        export(ExportOptions(str(folder), tmp_path / "bundle", quantization="none"))
    assert not (tmp_path / "bundle").exists()


def test_a_causal_model_whose_attention_lost_its_mask_is_refused(
    tmp_path, monkeypatch, minilm_model
):
    kind = (*QWEN3[:2], QWEN3[2] | {"num_key_value_heads": 4})
    folder = make_model(tmp_path / "model", minilm_model, kind, "lasttoken")
    monkeypatch.setattr(fused_attention, "can_fuse", lambda _: True)
    with pytest.raises(CommandError, match="differs from the model by"):
        export(ExportOptions(str(folder), tmp_path / "bundle", quantization="none"))
    assert not (tmp_path / "bundle").exists()


def test_a_model_that_cannot_be_traced_is_refused_in_a_sentence(
    tmp_path, monkeypatch, minilm_model
):
    folder = make_model(tmp_path / "model", minilm_model, QWEN3, "lasttoken")
    monkeypatch.setattr(fused_attention, "can_fuse", lambda _: True)  # two heads share their keys
    with pytest.raises(CommandError, match=r"^Qwen3Model cannot be exported: .*; give a model"):
        export(ExportOptions(str(folder), tmp_path / "bundle", quantization="none"))
    assert not (tmp_path / "bundle").exists()
