"""A sentence-transformers bi-encoder as the files of an encoder bundle."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpc.cpu import cpu_features
from rpc.terminal import CommandError, progress_bar
from training import bundle_files
from training.beir import Collection
from training.export_options import (
    NUM_REFERENCES,
    PUBLISH_COSINE_MIN,
    ExportOptions,
    calibration_texts,
    max_tokens_of,
    require_found,
    require_meaning,
    require_parity,
)
from training.item_bundle import query_encoder_entry
from training.model_source import ModelSource
from training.reference_texts import generate_texts, long_text, short_queries
from training.retrieval_gate import (
    FP32_ITEMS,
    GENERATED,
    INT8_ITEMS,
    judgements_of,
    lost_of,
    measure_retrieval,
)

Floats = NDArray[np.float32]

NUM_GATE_TEXTS = 144
_SPEED_QUERIES = 12


@dataclass(frozen=True, slots=True)
class Traced:
    """The full-precision encoder: its graph, its tokenizer, and how it is used."""

    graph: Any
    tokenizer_json: str
    pooling: str
    max_tokens: int
    prompts: dict[str, str]
    matryoshka_dims: tuple[int, ...]
    references: Floats
    parity: float


def bi_encoder_content(options: ExportOptions, source: ModelSource) -> bundle_files.Content:
    """Return what a bundle is written from, and the one that its items are embedded with.

    Raises:
        CommandError: the model is no bi-encoder, the graph differs from the model, or INT8 loses
            too much of its meaning.
    """
    texts = generate_texts(NUM_REFERENCES, seed=7)
    calibration = calibration_texts(options.calibration)
    judged = judgements_of(options.judgements)
    traced = _trace(options, source, texts)

    def content(chosen: ExportOptions) -> bundle_files.Content:
        model, gate = _quantize(chosen, traced, texts, calibration, judged)
        files = {
            bundle_files.MODEL_FILE: model,
            bundle_files.TOKENIZER_FILE: traced.tokenizer_json.encode(),
            bundle_files.REFERENCE_FILE: bundle_files.reference_json(texts, traced.references),
        }
        return bundle_files.Content(files, _describe(chosen, source, traced, gate))

    made = content(options)
    if options.item_bundle is None:
        return made
    whole = content(replace(options, quantization="none"))
    entry = query_encoder_entry(made, judged[0].name, forced=options.force_reason is not None)
    whole.description["compatible_query_encoders"] = [entry]
    return replace(made, item_content=whole)


def _trace(options: ExportOptions, source: ModelSource, texts: list[str]) -> Traced:
    """Load the model, trace it, and hold the graph against the model itself."""
    with progress_bar("loading torch and the model", total=None):
        from training import onnx_graph, torch_encoder
        from training.tokenizer_file import num_token_rows, tokenizer_json

        model = torch_encoder.load_model(source)
    prompts = _prompts(options, torch_encoder.prompts_of(model))
    torch_encoder.require_prompts_pooled(source, model, prompts)
    max_tokens = max_tokens_of(options, torch_encoder.max_tokens_of(model))
    backbone: Any = model[0]
    written = tokenizer_json(model.tokenizer, max_tokens, num_token_rows(backbone.model))
    compared = _compared_texts(texts, prompts, max_tokens)
    with progress_bar("embedding reference texts in full precision", total=None):
        expected = {
            prompt: torch_encoder.reference_vectors(model, some, max_tokens, prompt)
            for prompt, some in compared.items()
        }
    with progress_bar("tracing the ONNX graph", total=None):
        graph = torch_encoder.trace(model)
        onnx_graph.tidy(graph, output_name="embedding")
    with progress_bar("comparing the graph with the model", total=None):
        parity = _parity(graph, written, compared, expected)
    references = expected[""][: len(texts)]
    return Traced(
        graph=graph,
        tokenizer_json=written,
        pooling=str(torch_encoder.pooling_of(model)),
        max_tokens=max_tokens,
        prompts=prompts,
        matryoshka_dims=_matryoshka_dims(options.matryoshka_dims, references.shape[1]),
        references=references,
        parity=parity,
    )


def _quantize(
    options: ExportOptions,
    traced: Traced,
    reference_texts: list[str],
    calibration: list[str],
    judged: tuple[Collection, str],
) -> tuple[bytes, dict[str, Any]]:
    """Return the model to ship and what was measured on it.

    Raises:
        CommandError: it is too far from full precision, or finds too little, to publish.
    """
    from training import onnx_run
    from training.agreement import cosines, mean_cosine
    from training.gate import shrink, speed

    tokenizer = _tokenizer(traced.tokenizer_json)
    feeds = onnx_run.feeds_of(tokenizer, calibration)
    shrunk = shrink(options, traced.graph, feeds, mean_cosine)
    gate: dict[str, Any] = {"torch_onnx_max_difference": traced.parity, **shrunk.gate}
    gate |= {"cosine_mean": 1.0, "cosine_min": 1.0}
    if options.quantization == "none":
        return shrunk.model, gate
    with progress_bar("measuring the quantized encoder", total=None):
        texts = [*reference_texts, *generate_texts(NUM_GATE_TEXTS, seed=13)]
        ids = onnx_run.feeds_of(tokenizer, texts)
        near = cosines(onnx_run.run_each(shrunk.small, ids), onnx_run.run_each(shrunk.full, ids))
        queries = onnx_run.feeds_of(tokenizer, short_queries(_SPEED_QUERIES, seed=17))
        gate |= {
            "texts": len(texts),
            "cosine_mean": round(float(near.mean()), 6),
            "cosine_min": round(float(near.min()), 6),
            **speed("short_query", shrunk, queries),
        }
    forced = options.force_reason is not None
    require_meaning("mean cosine", gate["cosine_mean"], forced=forced)
    require_meaning("least cosine", gate["cosine_min"], PUBLISH_COSINE_MIN, forced=forced)
    if forced:
        gate["forced"] = options.force_reason
    collection, origin = judged
    found = measure_retrieval(collection, traced.prompts, tokenizer, shrunk.full, shrunk.small)
    return shrunk.model, gate | {"retrieval": found | _weigh(options, found, origin)}


def _weigh(options: ExportOptions, found: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return what the pairing that is shipped loses, and by which judgements.

    Raises:
        CommandError: it loses too much on judgements that were given.
    """
    pairing = INT8_ITEMS if options.item_bundle is None else FP32_ITEMS
    lost = lost_of(found, pairing)
    weighed = {"judgements": origin, "pairing": pairing, "lost": lost}
    if origin == GENERATED:
        return weighed
    require_found(
        lost,
        options.loss_max,
        forced=options.force_reason is not None,
        remedy="--item-bundle DIR" if options.item_bundle is None else "--quantize none",
    )
    return weighed | {"loss_max": options.loss_max}


def _describe(
    options: ExportOptions, source: ModelSource, traced: Traced, gate: dict[str, Any]
) -> dict[str, Any]:
    from training.gate import software

    verified = {key: gate[key] for key in ("cosine_mean", "cosine_min")}
    return {
        "kind": bundle_files.BI_ENCODER,
        "name": options.name or source.name,
        "dim": traced.references.shape[1],
        "max_tokens": traced.max_tokens,
        "pooling": traced.pooling,
        "normalize": True,
        "prompts": traced.prompts,
        "item_template": options.item_template,
        "quantization": options.quantization,
        "gate": gate,
        "verified_on": [{"cpu_features": cpu_features(), **verified}],
        "matryoshka_dims": list(traced.matryoshka_dims),
        "compatible_query_encoders": [],
        "software": software(),
    }


def _compared_texts(
    texts: list[str], prompts: Mapping[str, str], max_tokens: int
) -> dict[str, list[str]]:
    """Return by prompt the texts on which the graph is held against the model.

    One is cut at max_tokens: a word has at least one token, and two more stand around the text.
    """
    with_prompt = {prompt: texts for prompt in prompts.values() if prompt}
    return {"": [*texts, long_text(max_tokens)], **with_prompt}


def _parity(
    graph: Any,
    tokenizer_json: str,
    compared: Mapping[str, list[str]],
    expected: Mapping[str, Floats],
) -> float:
    """Return the largest absolute difference between the graph's and the model's vectors.

    Args:
        graph: the traced ModelProto.
        tokenizer_json: the bundle's tokenizer.
        compared: texts by the prompt that is put before them.
        expected: the model's vectors by prompt, shape (n, dim).

    Raises:
        CommandError: the difference is too large.
    """
    from training import onnx_run

    session = onnx_run.open_session(graph.SerializeToString())
    tokenizer = _tokenizer(tokenizer_json)
    differences = []
    for prompt, texts in compared.items():
        feeds = onnx_run.feeds_of(tokenizer, [prompt + text for text in texts])
        got = onnx_run.run_each(session, feeds)
        differences.append(float(np.abs(got - expected[prompt]).max()))
    return require_parity(max(differences))


def _tokenizer(tokenizer_json: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json)


def _prompts(options: ExportOptions, model_prompts: dict[str, str]) -> dict[str, str]:
    """Return the prompts: as asked for, else as the model brings them, else none."""
    asked = {"query": options.query_prompt, "item": options.item_prompt}
    return model_prompts | {name: text for name, text in asked.items() if text is not None}


def _matryoshka_dims(dims: tuple[int, ...], dim: int) -> tuple[int, ...]:
    """Return the shorter lengths that vectors may be cut to, ascending.

    The model's own length is left out, not refused: it is trained whether a recipe names it or
    not (`training.losses`), and to cut vectors to it changes nothing.

    Raises:
        CommandError: one is above the model's own.
    """
    for each in dims:
        if not 1 <= each <= dim:
            raise CommandError(f"--matryoshka-dims has {each}; allowed 1..{dim}")
    return tuple(sorted({*dims} - {dim}))
