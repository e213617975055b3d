"""A sentence-transformers cross-encoder as the files of an encoder bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpc.cpu import cpu_features
from rpc.terminal import CommandError, progress_bar
from training import bundle_files
from training.beir import Collection
from training.export_options import (
    NUM_REFERENCES,
    ExportOptions,
    calibration_texts,
    max_tokens_of,
    require_found,
    require_meaning,
    require_parity,
)
from training.model_source import ModelSource
from training.reference_texts import generate_texts, long_text, short_queries
from training.retrieval_gate import (
    GENERATED_RERANKED_QUERIES,
    GIVEN,
    RERANKED,
    RERANKED_QUERIES_MAX,
    judgements_of,
    lost_of,
    measure_reranking,
)

Floats = NDArray[np.float32]
Pair = tuple[str, str]

NUM_GATE_PAIRS = 144
_SPEED_PAIRS = 12
_WORDS_A_QUERY = 3


@dataclass(frozen=True, slots=True)
class Traced:
    """The full-precision cross-encoder; `types` says whether its graph takes token types."""

    graph: Any
    tokenizer_json: str
    max_tokens: int
    types: bool
    references: Floats
    parity: float


def cross_encoder_content(options: ExportOptions, source: ModelSource) -> bundle_files.Content:
    """Return what a bundle is written from.

    Raises:
        CommandError: the graph differs from the model, INT8 loses too much of its meaning, or an
            option is for bi-encoders alone.
    """
    _refuse_other_options(options)
    pairs = generate_pairs(generate_texts(NUM_REFERENCES, seed=7), seed=7)
    calibration = generate_pairs(calibration_texts(options.calibration), seed=11)
    judged = judgements_of(options.judgements)
    traced = _trace(options, source, pairs)
    model, gate = _quantize(options, traced, pairs, calibration, judged)
    files = {
        bundle_files.MODEL_FILE: model,
        bundle_files.TOKENIZER_FILE: traced.tokenizer_json.encode(),
        bundle_files.REFERENCE_FILE: bundle_files.pair_reference_json(pairs, traced.references),
    }
    return bundle_files.Content(files, _describe(options, source, traced, gate))


def generate_pairs(texts: Sequence[str], seed: int) -> list[Pair]:
    """Return each text with a query: one of its own words, or one that asks for something else.

    >>> generate_pairs(["Red rain boots for women"], seed=1)
    [('rain red women', 'Red rain boots for women')]
    """
    draw = Random(seed)  # noqa: S311 - sampling, not secrecy
    others = short_queries(len(texts), seed)
    pairs = []
    for row, text in enumerate(texts):
        words = text.lower().split()
        own = " ".join(draw.sample(words, min(_WORDS_A_QUERY, len(words))))
        pairs.append((others[row] if row % 2 else own, text))
    return pairs


def _trace(options: ExportOptions, source: ModelSource, pairs: list[Pair]) -> Traced:
    """Load the model, trace it, and hold the graph against the model itself."""
    with progress_bar("loading torch and the model", total=None):
        from training import onnx_graph, torch_encoder, torch_reranker
        from training.tokenizer_file import num_token_rows, tokenizer_json

        model = torch_reranker.load_model(source)
    max_tokens = max_tokens_of(options, torch_encoder.max_tokens_of(model))
    backbone: Any = model[0]
    written = tokenizer_json(model.tokenizer, max_tokens, num_token_rows(backbone.model))
    compared = [*pairs, (pairs[0][0], long_text(max_tokens))]
    with progress_bar("scoring reference pairs in full precision", total=None):
        expected = torch_reranker.reference_scores(model, compared, max_tokens)
    with progress_bar("tracing the ONNX graph", total=None):
        graph = torch_reranker.trace(model)
        onnx_graph.tidy(graph, output_name="score")
    types = torch_reranker.takes_types(model)
    with progress_bar("comparing the graph with the model", total=None):
        parity = _parity(graph, written, compared, expected, types=types)
    return Traced(graph, written, max_tokens, types, expected[: len(pairs)], parity)


def _quantize(
    options: ExportOptions,
    traced: Traced,
    references: list[Pair],
    calibration: list[Pair],
    judged: tuple[Collection, str],
) -> tuple[bytes, dict[str, Any]]:
    """Return the model to ship and what was measured on it.

    Raises:
        CommandError: its scores correlate too little with full precision's, or order candidates
            too much worse, to publish.
    """
    from tokenizers import Tokenizer

    from training import onnx_run
    from training.agreement import pearson
    from training.gate import shrink, speed

    tokenizer = Tokenizer.from_str(traced.tokenizer_json)
    feeds = onnx_run.feeds_of(tokenizer, calibration, types=traced.types)
    shrunk = shrink(options, traced.graph, feeds, pearson)
    gate: dict[str, Any] = {"torch_onnx_max_difference": traced.parity, **shrunk.gate}
    if options.quantization == "none":
        return shrunk.model, gate | {"pearson": 1.0, "spearman": 1.0, "max_difference": 0.0}
    with progress_bar("measuring the quantized cross-encoder", total=None):
        pairs = [*references, *generate_pairs(generate_texts(NUM_GATE_PAIRS, seed=13), seed=13)]
        ids = onnx_run.feeds_of(tokenizer, pairs, types=traced.types)
        gate |= _compare(*(onnx_run.run_each(each, ids) for each in (shrunk.small, shrunk.full)))
        gate |= speed("pair", shrunk, ids[:: len(ids) // _SPEED_PAIRS])
    forced = options.force_reason is not None
    require_meaning("correlation", gate["pearson"], forced=forced)
    if forced:
        gate["forced"] = options.force_reason
    collection, origin = judged
    num_queries = RERANKED_QUERIES_MAX if origin == GIVEN else GENERATED_RERANKED_QUERIES
    found = measure_reranking(
        collection, num_queries, tokenizer, shrunk.full, shrunk.small, types=traced.types
    )
    weighed: dict[str, Any] = {"judgements": origin, "lost": lost_of(found, RERANKED)}
    if origin == GIVEN:
        require_found(weighed["lost"], options.loss_max, forced=forced)
        weighed["loss_max"] = options.loss_max
    return shrunk.model, gate | {"reranking": found | weighed}


def _compare(got: Floats, expected: Floats) -> dict[str, Any]:
    from training.agreement import pearson, spearman

    return {
        "pairs": len(got),
        "pearson": round(pearson(got, expected), 6),
        "spearman": round(spearman(got, expected), 6),
        "max_difference": round(float(np.abs(got - expected).max()), 6),
        "score_range": round(float(np.ptp(expected)), 6),
    }


def _describe(
    options: ExportOptions, source: ModelSource, traced: Traced, gate: dict[str, Any]
) -> dict[str, Any]:
    from training.gate import software

    verified = {key: gate[key] for key in ("pearson", "spearman")}
    return {
        "kind": bundle_files.CROSS_ENCODER,
        "name": options.name or source.name,
        "dim": 1,
        "max_tokens": traced.max_tokens,
        "pooling": "none",
        "normalize": False,
        "prompts": {"query": "", "item": ""},
        "item_template": options.item_template,
        "quantization": options.quantization,
        "gate": gate,
        "verified_on": [{"cpu_features": cpu_features(), **verified}],
        "matryoshka_dims": [],
        "compatible_query_encoders": [],
        "software": software(),
    }


def _parity(
    graph: Any, tokenizer_json: str, pairs: list[Pair], expected: Floats, *, types: bool
) -> float:
    """Return the largest absolute difference between the graph's and the model's scores."""
    from tokenizers import Tokenizer

    from training import onnx_run

    feeds = onnx_run.feeds_of(Tokenizer.from_str(tokenizer_json), pairs, types=types)
    got = onnx_run.run_each(onnx_run.open_session(graph.SerializeToString()), feeds)
    return require_parity(float(np.abs(got - expected).max()), float(np.abs(expected).max()))


def _refuse_other_options(options: ExportOptions) -> None:
    """Refuse what a cross-encoder has no use for: it would change its id, and nothing else."""
    given = {
        "--query-prompt": options.query_prompt,
        "--item-prompt": options.item_prompt,
        "--matryoshka-dims": options.matryoshka_dims,
        "--item-bundle": options.item_bundle,
    }
    for option, value in given.items():
        if value:
            raise CommandError(f"{option} is for bi-encoders; {options.model} is a cross-encoder")
