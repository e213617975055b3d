"""Export a sentence-transformers bi-encoder as an encoder bundle.

`python -m training.export --model PATH_OR_ID --out DIR`; `vitrine bundle export` runs this.
"""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from rpc.cpu import cpu_features
from rpc.terminal import CommandError, errors_as_sentences, print_result, progress_bar
from training import bundle_files
from training.beir import Collection, load_collection
from training.quantize import Plan
from training.reference_texts import generate_texts, short_queries
from training.retrieval_gate import measure_retrieval

Floats = NDArray[np.float32]

PARITY_MAX_DIFFERENCE = 1e-4
PUBLISH_COSINE_MIN = 0.97
TARGET_COSINE = 0.99
NUM_REFERENCES = 48
NUM_CALIBRATION_TEXTS = 64
NUM_GATE_TEXTS = 144
CALIBRATION_TEXTS_MAX = 256
_SPEED_QUERIES = 12
_SPEED_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export and how."""

    model: str
    out: Path
    quantization: Literal["int8", "none"] = "int8"
    item_template: str = "{title}"
    max_tokens: int | None = None
    query_prompt: str | None = None
    item_prompt: str | None = None
    name: str | None = None
    target_cosine: float = TARGET_COSINE
    matryoshka_dims: tuple[int, ...] = ()
    calibration: Path | None = None
    judgements: Path | None = None
    force_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The full-precision encoder: its graph, its tokenizer, and how it is used."""

    graph: Any
    tokenizer_json: str
    pooling: str
    dim: int
    max_tokens: int
    prompts: dict[str, str]
    name: str
    references: Floats
    parity: float


def export(options: ExportOptions) -> dict[str, Any]:
    """Write an encoder bundle and return its encoder.json.

    Raises:
        CommandError: the model is no bi-encoder, the graph differs from the model, or INT8 loses
            too much of its meaning.
    """
    bundle_files.require_replaceable(options.out)
    reference_texts = generate_texts(NUM_REFERENCES, seed=7)
    calibration_texts = _calibration_texts(options.calibration)
    collection = None if options.judgements is None else load_collection(options.judgements)
    source = _export_graph(options, reference_texts)
    dims = _matryoshka_dims(options.matryoshka_dims, source.dim)
    model, gate = _quantize(options, source, reference_texts, calibration_texts, collection)
    description = _describe(options, source, gate) | {"matryoshka_dims": list(dims)}
    files = {
        bundle_files.MODEL_FILE: model,
        bundle_files.TOKENIZER_FILE: source.tokenizer_json.encode(),
        bundle_files.REFERENCE_FILE: bundle_files.reference_json(
            reference_texts, source.references
        ),
    }
    return bundle_files.write_bundle(options.out, files, description)


def _export_graph(options: ExportOptions, reference_texts: list[str]) -> Source:
    """Load the model, trace it, and hold the graph against the model itself."""
    with progress_bar("loading torch and the model", total=None):
        from training import torch_encoder

        found = torch_encoder.find_model(options.model)
        logging.getLogger("vitrine").info("model source: %s", found.description)
        model = torch_encoder.load_model(found)
    max_tokens = _max_tokens(options, torch_encoder.max_tokens_of(model))
    prompts = _prompts(options, torch_encoder.prompts_of(model))
    tokenizer_json = _tokenizer_json(model.tokenizer, max_tokens)
    with progress_bar("embedding reference texts in full precision", total=None):
        references = torch_encoder.reference_vectors(model, reference_texts, max_tokens)
    with progress_bar("tracing the ONNX graph", total=None):
        fused = torch_encoder.can_fuse_attention(model)
        graph = _tidied(torch_encoder.trace(model, fuse_attention=fused))
    with progress_bar("comparing the graph with the model", total=None):
        parity = _parity(graph, tokenizer_json, reference_texts, references)
    return Source(
        graph=graph,
        tokenizer_json=tokenizer_json,
        pooling=str(torch_encoder.pooling_of(model)),
        dim=references.shape[1],
        max_tokens=max_tokens,
        prompts=prompts,
        name=options.name or found.name,
        references=references,
        parity=parity,
    )


def _quantize(
    options: ExportOptions,
    source: Source,
    reference_texts: list[str],
    calibration_texts: list[str],
    collection: Collection | None,
) -> tuple[bytes, dict[str, Any]]:
    """Return the model to ship and what was measured on it.

    Raises:
        CommandError: its mean cosine to full precision is too low to publish.
    """
    from training import onnx_run, quantize

    tokenizer = _tokenizer(source.tokenizer_json)
    full = source.graph.SerializeToString(deterministic=True)
    gate: dict[str, Any] = {
        "torch_onnx_max_difference": source.parity,
        "fp32_bytes": len(full),
        "cosine_mean": 1.0,
        "cosine_min": 1.0,
        "size_ratio": 1.0,
    }
    if options.quantization == "none":
        return full, gate
    full_session = onnx_run.open_session(full)
    texts = onnx_run.token_ids(tokenizer, calibration_texts)
    expected = onnx_run.embed_each(full_session, texts)
    steps = quantize.num_steps(source.graph, texts)
    with progress_bar("measuring what each matrix costs", total=steps) as advance:
        made = quantize.quantize(source.graph, texts, expected, options.target_cosine, advance)
    small = made.model.SerializeToString(deterministic=True)
    small_session = onnx_run.open_session(small)
    with progress_bar("measuring the quantized encoder", total=None):
        gate_texts = [*reference_texts, *generate_texts(NUM_GATE_TEXTS, seed=13)]
        gate_ids = onnx_run.token_ids(tokenizer, gate_texts)
        cosines = onnx_run.cosines(
            onnx_run.embed_each(small_session, gate_ids),
            onnx_run.embed_each(full_session, gate_ids),
        )
        queries = onnx_run.token_ids(tokenizer, short_queries(_SPEED_QUERIES, seed=17))
        gate |= {
            "texts": len(gate_texts),
            "cosine_mean": round(float(cosines.mean()), 6),
            "cosine_min": round(float(cosines.min()), 6),
            "bytes": len(small),
            "size_ratio": round(len(small) / len(full), 4),
            "short_query_p50_us": onnx_run.median_us(small_session, queries, _SPEED_ROUNDS),
            "short_query_p50_us_fp32": onnx_run.median_us(full_session, queries, _SPEED_ROUNDS),
            "matrices": _counted(made.plans),
            "split_channels": {
                name: list(plan.channels) for name, plan in made.plans.items() if plan.channels
            },
            "sensitivity": made.sensitivity,
        }
    if collection is not None:
        gate["retrieval"] = measure_retrieval(
            collection, source.prompts, tokenizer, full_session, small_session
        )
    if options.force_reason is not None:
        gate["forced"] = options.force_reason
    _require_meaning(gate["cosine_mean"], forced=options.force_reason is not None)
    return small, gate


def _describe(options: ExportOptions, source: Source, gate: dict[str, Any]) -> dict[str, Any]:
    verified = {key: gate[key] for key in ("cosine_mean", "cosine_min")}
    return {
        "kind": bundle_files.BI_ENCODER,
        "name": source.name,
        "dim": source.dim,
        "max_tokens": source.max_tokens,
        "pooling": source.pooling,
        "normalize": True,
        "prompts": source.prompts,
        "item_template": options.item_template,
        "quantization": options.quantization,
        "gate": gate,
        "verified_on": [{"cpu_features": cpu_features(), **verified}],
        "compatible_query_encoders": [],
        "software": {
            package: version(package)
            for package in ("onnx", "onnxruntime", "sentence-transformers", "tokenizers", "torch")
        },
    }


def _tidied(graph: Any) -> Any:
    from training import onnx_graph

    onnx_graph.tidy(graph, output_name="embedding")
    return graph


def _parity(graph: Any, tokenizer_json: str, texts: list[str], expected: Floats) -> float:
    """Return the largest absolute difference between the graph's and the model's vectors.

    Raises:
        CommandError: it is above the limit.
    """
    from training import onnx_run

    session = onnx_run.open_session(graph.SerializeToString())
    got = onnx_run.embed_each(session, onnx_run.token_ids(_tokenizer(tokenizer_json), texts))
    difference = float(np.abs(got - expected).max())
    if not difference <= PARITY_MAX_DIFFERENCE:
        raise CommandError(
            f"the ONNX graph differs from the model by {difference:.2g}; at most "
            f"{PARITY_MAX_DIFFERENCE:g} is allowed: this architecture cannot be exported"
        )
    return difference


def _tokenizer_json(tokenizer: Any, max_tokens: int) -> str:
    """Return a tokenizers file that neither pads nor keeps more than max_tokens tokens.

    Raises:
        CommandError: the model has no fast tokenizer.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CommandError("the model has no fast tokenizer (tokenizer.json)")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.enable_truncation(max_length=max_tokens)
    return str(copy.to_str())


def _tokenizer(tokenizer_json: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json)


def _max_tokens(options: ExportOptions, model_max: int) -> int:
    if options.max_tokens is None:
        return model_max
    if not 8 <= options.max_tokens <= model_max:
        raise CommandError(f"--max-tokens is {options.max_tokens}; allowed 8..{model_max}")
    return options.max_tokens


def _prompts(options: ExportOptions, model_prompts: dict[str, str]) -> dict[str, str]:
    """Return the prompts: as asked for, else as the model brings them, else none."""
    asked = {"query": options.query_prompt, "item": options.item_prompt}
    return model_prompts | {name: text for name, text in asked.items() if text is not None}


def _require_meaning(cosine_mean: float, *, forced: bool) -> None:
    if cosine_mean < PUBLISH_COSINE_MIN and not forced:
        raise CommandError(
            f"INT8 keeps a mean cosine of only {cosine_mean:.4f} to full precision; at least "
            f"{PUBLISH_COSINE_MIN} is needed: use --quantize none, or --force REASON to publish it "
            "anyway"
        )


def _counted(plans: Mapping[str, Plan]) -> dict[str, int]:
    return dict(sorted(Counter(plan.scheme for plan in plans.values()).items()))


def _calibration_texts(path: Path | None) -> list[str]:
    """Return the texts to calibrate with: a file's lines, or generated ones.

    Raises:
        CommandError: the file is not text, or has no line.
    """
    if path is None:
        return generate_texts(NUM_CALIBRATION_TEXTS, seed=11)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise CommandError(f"{path} is not UTF-8 text: {exc}") from exc
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise CommandError(f"{path} has no text; one a line is needed")
    step = max(1, len(texts) // CALIBRATION_TEXTS_MAX)
    return texts[::step][:CALIBRATION_TEXTS_MAX]


def _matryoshka_dims(dims: tuple[int, ...], dim: int) -> tuple[int, ...]:
    """Return the shorter lengths that vectors may be cut to, ascending.

    Raises:
        CommandError: one is not below the model's own.
    """
    for each in dims:
        if not 1 <= each < dim:
            raise CommandError(f"--matryoshka-dims has {each}; allowed 1..{dim - 1}")
    return tuple(sorted(set(dims)))


def _parsed_dims(written: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in written.split(",")) if written else ()
    except ValueError as exc:
        raise CommandError(
            f"--matryoshka-dims is {written!r}; numbers with commas are needed, as 128,256"
        ) from exc


def _quiet_libraries() -> None:
    """Keep the progress of this command readable: no bars and warnings of others in between."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)


def main(
    model: Annotated[str, typer.Option(help="Folder or hub id of a bi-encoder.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    quantize: Annotated[
        Literal["int8", "none"], typer.Option(help="Weights in the bundle.")
    ] = "int8",
    item_template: Annotated[str, typer.Option(help="How an item becomes text.")] = "{title}",
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut texts after this many tokens.")
    ] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Text put before each query.")] = None,
    item_prompt: Annotated[str | None, typer.Option(help="Text put before each item.")] = None,
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    target_cosine: Annotated[
        float, typer.Option(help="Mean cosine to full precision to aim at.", min=0.0, max=1.0)
    ] = TARGET_COSINE,
    matryoshka_dims: Annotated[
        str | None, typer.Option(help="Shorter lengths the model was trained for, as 128,256.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Texts to calibrate with, one a line; default: generated.")
    ] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="BEIR folder to measure retrieval on, FP32 against INT8.")
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Publish below the quality gate; the reason is kept."),
    ] = None,
) -> None:
    """Export a sentence-transformers bi-encoder as an encoder bundle."""
    _quiet_libraries()
    with errors_as_sentences():
        encoder = export(
            ExportOptions(
                model=model,
                out=out,
                quantization=quantize,
                item_template=item_template,
                max_tokens=max_tokens,
                query_prompt=query_prompt,
                item_prompt=item_prompt,
                name=name,
                target_cosine=target_cosine,
                matryoshka_dims=_parsed_dims(matryoshka_dims),
                calibration=calibration,
                judgements=judgements,
                force_reason=force,
            )
        )
        print_result({"bundle": str(out), **encoder})


if __name__ == "__main__":
    typer.run(main)
