"""Quantized peers, made from the same FP32 graph by the recipes of their own documentation."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.encoder_systems import padded, padding_tokenizer

NUM_CALIBRATION_TEXTS = 300


def usual_graph(model: str, out: Path) -> None:
    """Write a model's FP32 graph as exporters leave it, its attention step by step.

    Both onnxruntime and OpenVINO start from such a graph, and have fusions of their own for it.
    """
    import onnx

    from training import onnx_graph, torch_encoder
    from training.model_source import find_model

    graph = torch_encoder.trace(torch_encoder.load_model(find_model(model)), fused=False)
    onnx_graph.tidy(graph, output_name="embedding")
    onnx.save(graph, str(out))


def naive_int8(graph: Path, out: Path, *, per_channel: bool) -> None:
    """Write the graph with dynamic INT8 as most tutorials do: signed weights, all 8 bits.

    Source: onnxruntime's documentation, "Quantize ONNX models", dynamic quantization.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(graph, out, per_channel=per_channel, weight_type=QuantType.QInt8)


def openvino_fp32(graph: Path, out: Path) -> None:
    """Write the graph as an OpenVINO model in full precision."""
    import openvino

    openvino.save_model(openvino.convert_model(graph), out, compress_to_fp16=False)


def openvino_int8(
    fp32: Path, tokenizer: Path, texts: Sequence[str], out: Path, *, overflow_fix: bool
) -> None:
    """Write an OpenVINO model with static INT8 by NNCF's post-training quantization.

    `model_type=TRANSFORMER` is what NNCF's documentation advises for such models: it smooths
    activations and quantizes them asymmetrically. Processors without VNNI saturate; for them it
    has `overflow_fix`, which halves the range of weights.

    Source: OpenVINO's documentation, "Basic Quantization Flow".
    """
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import OverflowFix

    tokens = padding_tokenizer(str(tokenizer))
    fix = OverflowFix.ENABLE if overflow_fix else OverflowFix.DISABLE

    def feed(text: str) -> dict[str, object]:
        ids, mask = padded(tokens, [text])
        return {"input_ids": ids, "attention_mask": mask}

    made = nncf.quantize(
        openvino.Core().read_model(fp32),
        nncf.Dataset(list(texts), feed),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
    )
    openvino.save_model(made, out, compress_to_fp16=False)
