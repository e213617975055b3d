"""What quantization does to an encoder: the part of the gate that both kinds share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from rpc.terminal import progress_bar
from training import onnx_run, quantize
from training.agreement import Agreement
from training.export_options import ExportOptions

SPEED_ROUNDS = 10
_SOFTWARE = ("onnx", "onnxruntime", "sentence-transformers", "tokenizers", "torch")


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A model to ship and sessions to measure it with; both are the same without quantization."""

    model: bytes
    full: Any
    small: Any
    gate: dict[str, Any]


def shrink(
    options: ExportOptions,
    graph: Any,
    feeds: Sequence[onnx_run.Feed],
    agreement: Agreement,
) -> Shrunk:
    """Return a traced graph as it is to be shipped.

    Args:
        options: whether to quantize, and how near to stay.
        graph: the FP32 ModelProto, tidied.
        feeds: tokens of calibration texts or pairs.
        agreement: what the quantized model is held against full precision by.
    """
    model = graph.SerializeToString(deterministic=True)
    full = onnx_run.open_session(model)
    gate: dict[str, Any] = {"fp32_bytes": len(model), "bytes": len(model), "size_ratio": 1.0}
    if options.quantization == "none":
        return Shrunk(model, full, full, gate)
    steps = quantize.num_steps(graph, feeds)
    with progress_bar("measuring what each matrix costs", total=steps) as advance:
        made = quantize.quantize(graph, feeds, agreement, options.target, advance)
    small = made.model.SerializeToString(deterministic=True)
    gate |= {
        "bytes": len(small),
        "size_ratio": round(len(small) / len(model), 4),
        "matrices": dict(sorted(Counter(plan.scheme for plan in made.plans.values()).items())),
        "split_channels": {
            name: list(plan.channels) for name, plan in made.plans.items() if plan.channels
        },
        "sensitivity": made.sensitivity,
    }
    return Shrunk(small, full, onnx_run.open_session(small), gate)


def speed(name: str, shrunk: Shrunk, feeds: Sequence[onnx_run.Feed]) -> dict[str, float]:
    """Return the p50 of one run in microseconds, of what is shipped and of full precision."""
    return {
        f"{name}_p50_us": onnx_run.median_us(shrunk.small, feeds, SPEED_ROUNDS),
        f"{name}_p50_us_fp32": onnx_run.median_us(shrunk.full, feeds, SPEED_ROUNDS),
    }


def software() -> dict[str, str]:
    """Return the versions that a bundle was made with."""
    return {package: version(package) for package in _SOFTWARE}
