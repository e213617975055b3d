"""What is left of an encoder's meaning in 8 bits, recipe by recipe, on this processor.

    python -m benchmarks.int8_recipes --name minilm --fp32-bundle FP32_BUNDLE --bundle INT8_BUNDLE

Recipes are made from the bundle in full precision; cosines are to it, over generated texts, each
run alone on one thread. onnxruntime's dynamic quantization is measured as its documentation gives
it, with and without `reduce_range`, and with unsigned weights. Processors without VNNI add two
products in a saturating 16-bit sum where weights are signed: recipes that use all 8 bits come out
differently there.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer

from benchmarks.report import RESULTS, machine, write_result
from training.agreement import cosines
from training.matrices import find_matrices
from training.onnx_run import Feed, feeds_of, open_session, run_each
from training.quantize import Plan, quantize_graph
from training.reference_texts import generate_texts
from training.sensitivity import Probe, read_texts

LARGEST_CHANNELS = 5
_SEED = 13
_CHANNEL_TEXTS = 16


def main() -> None:
    """Make every recipe, measure it, print a table, write JSON."""
    options = _parsed()
    graph = options.fp32_bundle / "model.onnx"
    tokenizer = Tokenizer.from_file(str(options.fp32_bundle / "tokenizer.json"))
    feeds = feeds_of(tokenizer, generate_texts(options.texts, seed=_SEED))
    expected = run_each(open_session(str(graph)), feeds)
    figures: dict[str, Any] = {"machine": machine(), "texts": len(feeds), "recipes": {}}
    with tempfile.TemporaryDirectory(prefix="vitrine-int8-") as folder:
        for name, make in recipes(graph, options.bundle).items():
            path = Path(folder) / "model.onnx"
            make(path)
            near = cosines(run_each(open_session(str(path)), feeds), expected)
            found = {
                "cosine_mean": round(float(near.mean()), 5),
                "cosine_min": round(float(near.min()), 5),
                "size_ratio": round(path.stat().st_size / graph.stat().st_size, 4),
            }
            figures["recipes"][name] = found
            print(f"| {name} | " + " | ".join(str(value) for value in found.values()) + " |")
    if options.channels:
        figures["largest_channels"] = largest_channels(graph, feeds[:_CHANNEL_TEXTS])
    print(f"written to {write_result(f'int8_recipes-{options.name}', figures, options.results)}")


def recipes(graph: Path, bundle: Path | None) -> dict[str, Callable[[Path], None]]:
    """Return, by name, what writes a quantized model to a path."""

    def dynamic(weights: Any, *, per_channel: bool, reduced: bool) -> Callable[[Path], None]:
        return lambda out: quantize_dynamic(
            graph,
            out,
            per_channel=per_channel,
            reduce_range=reduced,
            weight_type=weights,
            # Shapes cannot be inferred through a fused attention node; its output is float32 too.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )

    signed, unsigned = QuantType.QInt8, QuantType.QUInt8
    found = {
        "signed, a tensor": dynamic(signed, per_channel=False, reduced=False),
        "signed, a channel": dynamic(signed, per_channel=True, reduced=False),
        "signed, a channel, reduced range": dynamic(signed, per_channel=True, reduced=True),
        "unsigned, a channel": dynamic(unsigned, per_channel=True, reduced=False),
        "every matrix channel7, none split": lambda out: _write_plain(graph, out),
    }
    if bundle is not None:
        shipped = (bundle / "model.onnx").read_bytes()
        found["as shipped"] = lambda out: out.write_bytes(shipped) and None
    return found


def largest_channels(graph: Path, feeds: list[Feed]) -> dict[str, dict[str, Any]]:
    """Return, by matrix, the largest magnitudes of channels that it reads, and their median."""
    model = onnx.load(str(graph))
    readings = read_texts(Probe(model, find_matrices(model.graph)), feeds, lambda _: None)
    return {
        name: {
            "largest": [
                round(float(value), 1) for value in np.sort(maxima)[::-1][:LARGEST_CHANNELS]
            ],
            "median": round(float(np.median(maxima)), 2),
        }
        for name, maxima in readings.channel_maxima.items()
    }


def _write_plain(graph: Path, out: Path) -> None:
    model = onnx.load(str(graph))
    plans = {matrix.name: Plan() for matrix in find_matrices(model.graph)}
    onnx.save(quantize_graph(model, plans), str(out))


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
