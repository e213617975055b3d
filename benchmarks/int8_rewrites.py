"""Ways to 8 bits that the export does not take, to compare its own with.

Each takes a FP32 graph, as the export traces it, and leaves it as it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from training.matrices import Matrix, find_matrices
from training.onnx_graph import add_tensor, prune, replace_nodes, weights_of
from training.onnx_run import Feed

Floats = NDArray[np.float32]

BLOCK = 128
INT8_ACCURACY = 4  # MatMulNBits rounds activations to 8 bits, too
SMOOTHING = 0.5
_ORDINARY_SHARE = 0.99
# Shapes cannot be inferred through a fused attention node; its output is float32 too.
DEFAULT_FLOAT = {"DefaultTensorType": onnx.TensorProto.FLOAT}


def blockwise(model: Any) -> Any:
    """Return a copy whose matrices are MatMulNBits of 8 bits, a scale for each 128 weights.

    A block's activations have a scale of their own, too. What is no plain MatMul stays.
    """
    quantizer = MatMulNBitsQuantizer(
        _copy(model), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=INT8_ACCURACY
    )
    quantizer.process()
    return quantizer.model.model


def write_static(
    model: Any, feeds: Iterable[Feed], out: Path, *, reduced: bool, products: bool
) -> None:
    """Write the graph with the scales of activations fixed beforehand, over texts given.

    Unsigned activations, signed weights with a scale a column, between QuantizeLinear and
    DequantizeLinear, as onnxruntime advises for x86.

    Source: onnxruntime's documentation of `quantize_static`.

    Args:
        model: the ModelProto.
        feeds: tokens of calibration texts.
        out: where.
        reduced: whether weights have 7 bits, as is advised for processors without VNNI.
        products: whether what a matrix makes, before its bias, becomes 8 bits too: the default.
    """
    typed = _copy(model)
    _declare_floats(typed.graph)
    left_out = {} if products else {"OpTypesToExcludeOutputQuantization": ["MatMul"]}
    quantize_static(
        typed,
        out,
        _Calibration(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=reduced,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options=DEFAULT_FLOAT | left_out,
    )


def smoothed(model: Any, factors: Mapping[str, Floats]) -> Any:
    """Return a copy, in full precision, whose matrices read their channels divided by factors.

    x @ W = (x / f) @ (f * W): the same result, of activations that 8 bits suit better.

    Args:
        model: the ModelProto.
        factors: by matrix name, float32 above 0 of shape (k,).
    """
    copy = _copy(model)
    graph = copy.graph
    tensors = weights_of(graph)
    smooth = {
        (linear.input, linear.weight): matrix
        for matrix in find_matrices(graph)
        for linear in matrix.linears
    }
    order: list[Any] = []
    divided: set[str] = set()
    for node in graph.node:
        matrix = smooth.get(tuple(node.input[:2])) if node.op_type == "MatMul" else None
        if matrix is not None:
            source, of_matrix = f"{matrix.input}_smoothed", factors[matrix.name]
            if source not in divided:
                divided.add(source)
                shares = add_tensor(graph, f"{source}_shares", (1 / of_matrix).astype(np.float32))
                order.append(helper.make_node("Mul", [matrix.input, shares], [source]))
            weights = numpy_helper.to_array(tensors[node.input[1]]) * of_matrix[:, None]
            name = add_tensor(graph, f"{node.output[0]}_smoothed_weights", weights)
            node.input[:] = [source, name]
        order.append(node)
    replace_nodes(graph, order)
    prune(graph)
    return copy


def shared_factors(model: Any, maxima: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return factors that share a channel's range between activations and weights.

    Source: Xiao et al. 2023, "SmoothQuant", equation 4, alpha 0.5.

    Args:
        model: the ModelProto.
        maxima: by matrix name, the largest magnitude of each channel it reads, shape (k,).
    """
    tensors = weights_of(model.graph)
    return {
        matrix.name: _positive(
            maxima[matrix.name] ** SMOOTHING
            / _largest_weights(matrix, tensors) ** (1 - SMOOTHING)
        )
        for matrix in find_matrices(model.graph)
    }  # fmt: skip


def capping_factors(maxima: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return factors that bring a channel down to what 99 of 100 stay below; 1 for all others.

    >>> capping_factors({"a": np.array([4.0] + [1.0] * 400, np.float32)})["a"][:2].tolist()
    [4.0, 1.0]
    """
    return {
        name: np.maximum(largest / np.quantile(largest, _ORDINARY_SHARE), 1).astype(np.float32)
        for name, largest in maxima.items()
    }


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives one text's tokens after another, as onnxruntime asks for them."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next text's tokens, None after the last."""
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


def _declare_floats(graph: Any) -> None:
    """Say that what matrices read and make is float32: what has no type is not quantized.

    Types are not inferred through a fused attention node.
    """
    linears = [linear for matrix in find_matrices(graph) for linear in matrix.linears]
    known = {linear.weight for linear in linears}
    reading = [node for node in graph.node if len(node.input) > 1 and node.input[1] in known]
    names = dict.fromkeys(name for node in reading for name in (node.input[0], node.output[0]))
    graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )


def _largest_weights(matrix: Matrix, tensors: Mapping[str, Any]) -> Floats:
    """Return the largest magnitude of each row of a matrix, shape (k,)."""
    parts = [numpy_helper.to_array(tensors[linear.weight]) for linear in matrix.linears]
    largest: Floats = np.abs(np.concatenate(parts, axis=1)).max(axis=1)
    return largest


def _positive(factors: Floats) -> Floats:
    """Return the factors, 1 where a channel or its weights are nothing."""
    usable = np.isfinite(factors) & (factors > 0)
    return np.where(usable, factors, 1).astype(np.float32)


def _copy(model: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
