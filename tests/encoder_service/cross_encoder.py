"""A cross-encoder so small that a test makes it: random weights, the shape of a real one."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper, numpy_helper

from encoder_service.bundle import encoder_id, load_bundle
from encoder_service.reranker import load_reranker

MAX_TOKENS = 48
WIDTH = 16
VOCABULARY = 30_522
PAIRS = [
    (query, text)
    for query in ("warm coat", "garden hose", "led bulb 60w", "running shoes")
    for text in ("Linen dress", "Winter parka, down", "Rubber hose 20 m", "Trail shoe, blue")
]


def write_cross_encoder(folder: Path, tokenizer: bytes, *, types: bool = True, **changes) -> Path:
    """Write a sound cross-encoder bundle; `changes` are made to its description."""
    folder.mkdir(parents=True)
    model = graph_of(types=types).SerializeToString()
    files = {"model.onnx": model, "tokenizer.json": tokenizer}
    document = {
        "format_version": 1,
        "kind": "cross_encoder",
        "name": "tiny",
        "dim": 1,
        "max_tokens": MAX_TOKENS,
        "pooling": "none",
        "normalize": False,
        "prompts": {"query": "", "item": ""},
        "item_template": "{title}",
        "quantization": "none",
        "matryoshka_dims": [],
        "compatible_query_encoders": [],
    } | changes
    _seal(folder, document, files | {"reference.json": references(np.zeros(len(PAIRS)))})
    scores = load_reranker(load_bundle(folder)).score(PAIRS)
    _seal(folder, document, files | {"reference.json": references(scores)})
    return folder


def with_scores(folder: Path, scores) -> Path:
    """Record other scores in a bundle, as if it had been exported so."""
    document = orjson.loads((folder / "encoder.json").read_bytes())
    files = {name: (folder / name).read_bytes() for name in ("model.onnx", "tokenizer.json")}
    _seal(folder, document, files | {"reference.json": references(np.asarray(scores))})
    return folder


def references(scores) -> bytes:
    entries = [
        {"query": query, "text": text, "score": float(score)}
        for (query, text), score in zip(PAIRS, scores, strict=True)
    ]
    return orjson.dumps({"format_version": 1, "references": entries})


def graph_of(*, types: bool) -> onnx.ModelProto:
    """Return a graph: embed, mix neighbours, mean over the tokens, one number.

    The maximum over the batch at the end makes a pair's score depend on its neighbours, as dynamic
    quantization does: scores are right only when every pair is run alone.
    """
    rng = np.random.default_rng(5)
    weights = {
        "words": rng.normal(size=(VOCABULARY, WIDTH)),
        "kinds": rng.normal(size=(2, WIDTH)),
        "dense": rng.normal(size=(WIDTH, WIDTH)) / 4,
        "out": rng.normal(size=(WIDTH, 1)),
    }
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
        helper.make_node("Gather", ["kinds", inputs[-1]], ["typed"]),
        helper.make_node("Mul", ["embedded", "typed"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "dense"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["active"]),
        helper.make_node("ReduceMean", ["active", "over_tokens"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "out"], ["logit"]),
        helper.make_node("ReduceMax", ["logit"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["logit", "largest"], ["spoiled"]),
        helper.make_node("Add", ["logit", "spoiled"], ["summed"]),
        helper.make_node("Squeeze", ["summed", "last"], ["score"]),
    ]
    constants = [
        *(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()),
        numpy_helper.from_array(np.array([1], np.int64), "over_tokens"),
        numpy_helper.from_array(np.array([1], np.int64), "last"),
    ]
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _seal(folder: Path, document: dict, files: dict) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    document["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    document["encoder_id"] = encoder_id(document)
    (folder / "encoder.json").write_bytes(orjson.dumps(document))
