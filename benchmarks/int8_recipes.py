"""What is left of an encoder's meaning in 8 bits, recipe by recipe, on this processor.

    python -m benchmarks.int8_recipes --name minilm --fp32-bundle FP32_BUNDLE --bundle INT8_BUNDLE

Recipes are made from the bundle in full precision; cosines are to it, over generated texts, each
run alone on one thread. p50 is of one short query a run, in turn with full precision, the least of
15 rounds. onnxruntime's quantization, dynamic and static, is measured as its documentation gives
it, with and without `reduce_range`, and with unsigned weights. Processors without VNNI add two
products in a saturating 16-bit sum where weights are signed: recipes that use all 8 bits come out
differently there. What needs calibration gets texts of its own. "Capped" is smoothing that brings
channels down to what 99 of 100 stay below; "shared with weights" is SmoothQuant.

The second table is the cosine of a text encoded alone to itself in a padded batch of 32 others:
dynamic quantization has one scale for all of a run, so neighbours and padding change a vector.
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

from benchmarks.encoder_systems import open_system
from benchmarks.encoder_texts import calibration_texts
from benchmarks.int8_neighbours import neighbour_cosines, neighbour_texts
from benchmarks.int8_rewrites import (
    DEFAULT_FLOAT,
    blockwise,
    capping_factors,
    shared_factors,
    smoothed,
    write_static,
)
from benchmarks.report import RESULTS, machine, write_result
from training.agreement import cosines, mean_cosine
from training.matrices import find_matrices
from training.onnx_run import Feed, cut, feeds_of, median_us, open_session, run_each
from training.quantize import SENSITIVITY_TEXTS_MAX, SENSITIVITY_TOKENS_MAX, Plan, quantize_graph
from training.reference_texts import generate_texts, short_queries
from training.sensitivity import Floats, Probe, measure_sensitivity, read_texts

LARGEST_CHANNELS = 5
STATIC = "static, reduced range, products in FP32"
NUM_CALIBRATION_TEXTS = 64
NUM_SHORT_TEXTS = 24
SPEED_ROUNDS = 15
IN_BATCHES = ("signed, a tensor", "signed, a channel", STATIC, "as shipped")
WORST = (1, 5)
_SEED = 13

Make = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Source:
    """What recipes are made from.

    Attributes:
        graph: the file in full precision.
        model: the same, loaded.
        feeds: tokens of calibration texts.
        costliest: names of matrices, that which costs most in 8 bits first.
        maxima: by matrix, the largest magnitude of each channel it reads.
    """

    graph: Path
    model: Any
    feeds: Sequence[Feed]
    costliest: Sequence[str]
    maxima: dict[str, Floats]


def main() -> None:
    """Make every recipe, measure it, print tables, write JSON."""
    options = _parsed()
    logging.disable(logging.WARNING)  # onnxruntime's quantizers tell of every node
    started_s = time.process_time()
    source = read_source(options.fp32_bundle)
    figures: dict[str, Any] = {"machine": machine(), "texts": options.texts}
    with tempfile.TemporaryDirectory(prefix="vitrine-int8-") as folder:
        paths = {}
        for number, (name, make) in enumerate(recipes(source, options.bundle).items()):
            paths[name] = Path(folder) / f"{number}.onnx"
            make(paths[name])
        figures["recipes"] = measured(paths, options.fp32_bundle, options.texts)
        figures["neighbours"] = neighbours(paths, options.fp32_bundle, options.bundle)
    if options.channels:
        figures["largest_channels"] = largest_channels(source.maxima)
    figures["processor_s"] = round(time.process_time() - started_s)
    print(f"written to {write_result(f'int8_recipes-{options.name}', figures, options.results)}")


def read_source(bundle: Path) -> Source:
    """Load a bundle in full precision, and measure what its matrices read and cost in 8 bits."""
    graph = bundle / "model.onnx"
    model = onnx.load(str(graph))
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    feeds = feeds_of(tokenizer, calibration_texts(NUM_CALIBRATION_TEXTS))
    probe = Probe(model, find_matrices(model.graph))
    some = feeds[:: NUM_CALIBRATION_TEXTS // SENSITIVITY_TEXTS_MAX]
    short = [cut(feed, SENSITIVITY_TOKENS_MAX) for feed in some]
    costs = measure_sensitivity(probe, short, mean_cosine, lambda _: None)
    maxima = read_texts(probe, feeds, lambda _: None).channel_maxima
    return Source(graph, model, feeds, sorted(costs, key=lambda name: -costs[name]), maxima)


def recipes(source: Source, bundle: Path | None) -> dict[str, Make]:
    """Return, by name, what writes a quantized model to a path; token embeddings always 8 bits."""
    signed, unsigned = QuantType.QInt8, QuantType.QUInt8
    shared = smoothed(source.model, shared_factors(source.model, source.maxima))
    capped = smoothed(source.model, capping_factors(source.maxima))
    found: dict[str, Make] = {
        "signed, a tensor": _dynamic(source, signed, per_channel=False, reduced=False),
        "signed, a channel": _dynamic(source, signed, per_channel=True, reduced=False),
        "signed, a channel, reduced range": _dynamic(
            source, signed, per_channel=True, reduced=True
        ),
        "unsigned, a channel": _dynamic(source, unsigned, per_channel=True, reduced=False),
        "static, a channel": _static(source, source.model, reduced=False, products=True),
        "static, reduced range": _static(source, source.model, reduced=True, products=True),
        STATIC: _static(source, source.model, reduced=True, products=False),
        f"{STATIC}, smoothed, capped": _static(source, capped, reduced=True, products=False),
        "block-wise, 128 weights": _blockwise(source, len(source.costliest)),
        "every matrix channel7, none split": _channel7(source, source.model),
        "channel7, smoothed, shared with weights": _channel7(source, shared),
        "channel7, smoothed, capped": _channel7(source, capped),
    }
    for count in WORST:
        found[f"channel7, the {count} costliest in FP32"] = _channel7(source, source.model, count)
        found[f"channel7, the {count} costliest block-wise"] = _blockwise(source, count)
    if bundle is not None:
        found["as shipped"] = lambda out: shutil.copyfile(bundle / "model.onnx", out)
    return found


def measured(paths: dict[str, Path], bundle: Path, count: int) -> dict[str, dict[str, float]]:
    """Return and print each recipe's nearness to full precision, size, and time.

    Args:
        paths: the quantized models.
        bundle: the one in full precision.
        count: texts for cosines.
    """
    graph = bundle / "model.onnx"
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    feeds = feeds_of(tokenizer, generate_texts(count, seed=_SEED))
    short = feeds_of(tokenizer, short_queries(NUM_SHORT_TEXTS, seed=_SEED))
    full = open_session(str(graph))
    expected = run_each(full, feeds)
    found = {}
    for name, path in paths.items():
        small = open_session(str(path))
        near = cosines(run_each(small, feeds), expected)
        rounds = [
            (median_us(small, short, 1), median_us(full, short, 1)) for _ in range(SPEED_ROUNDS)
        ]
        least_us, full_us = (min(times_us) for times_us in zip(*rounds, strict=True))
        found[name] = {
            "cosine_mean": round(float(near.mean()), 5),
            "cosine_min": round(float(near.min()), 5),
            "size_ratio": round(path.stat().st_size / graph.stat().st_size, 4),
            "short_p50_us": least_us,
            "short_p50_to_fp32": round(least_us / full_us, 3),
        }
        _print_row(name, found[name])
    return found


def neighbours(
    paths: dict[str, Path], bundle: Path, shipped: Path | None
) -> dict[str, dict[str, float]]:
    """Return and print how near texts in batches are to themselves alone, system by system.

    Args:
        paths: the quantized models, run in padded batches, on one thread.
        bundle: the one in full precision.
        shipped: the bundle that a service would run; it runs the texts of a batch one by one.
    """
    texts = neighbour_texts()
    padded = {"FP32, padded": bundle / "model.onnx"} | {
        f"{name}, padded": paths[name] for name in IN_BATCHES if name in paths
    }
    tokenizer = str(bundle / "tokenizer.json")
    systems = {
        name: ("onnx_1", {"graph": str(path), "tokenizer": tokenizer})
        for name, path in padded.items()
    }
    if shipped is not None:
        systems["as shipped, in the service's way"] = ("own", {"bundle": str(shipped)})
    found = {}
    for name, (kind, files) in systems.items():
        found[name] = neighbour_cosines(open_system(kind, files), texts)
        _print_row(name, found[name])
    return found


def largest_channels(maxima: dict[str, Floats]) -> dict[str, dict[str, Any]]:
    """Return, by matrix, the largest magnitudes of channels that it reads, and their median."""
    return {
        name: {
            "largest": [
                round(float(value), 1) for value in np.sort(of_matrix)[::-1][:LARGEST_CHANNELS]
            ],
            "median": round(float(np.median(of_matrix)), 2),
        }
        for name, of_matrix in maxima.items()
    }


def _dynamic(source: Source, weights: Any, *, per_channel: bool, reduced: bool) -> Make:
    return lambda out: quantize_dynamic(
        source.graph,
        out,
        per_channel=per_channel,
        reduce_range=reduced,
        weight_type=weights,
        extra_options=DEFAULT_FLOAT,
    )


def _static(source: Source, model: Any, *, reduced: bool, products: bool) -> Make:
    embedded = quantize_graph(model, {})
    return lambda out: write_static(embedded, source.feeds, out, reduced=reduced, products=products)


def _channel7(source: Source, model: Any, count: int = 0) -> Make:
    return _saved(lambda: _without(source, model, count))


def _blockwise(source: Source, count: int) -> Make:
    return _saved(lambda: blockwise(_without(source, source.model, count)))


def _without(source: Source, model: Any, count: int) -> Any:
    """Return the model with every matrix as `channel7` but so many of the costliest."""
    return quantize_graph(model, {name: Plan() for name in source.costliest[count:]})


def _saved(make: Callable[[], Any]) -> Make:
    return lambda out: onnx.save(make(), str(out))


def _print_row(name: str, found: dict[str, float]) -> None:
    print(f"| {name} | " + " | ".join(str(value) for value in found.values()) + " |", flush=True)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="results go to int8_recipes-NAME.json")
    parser.add_argument("--fp32-bundle", type=Path, required=True, help="exported --quantize none")
    parser.add_argument("--bundle", type=Path, help="of the same model in 8 bits")
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--channels", action="store_true", help="list the largest channels too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
