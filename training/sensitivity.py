"""What storing each weight matrix in 8 bits costs, measured without building a graph for each.

One full-precision session has a place behind every matrix where a difference can be added. The
inputs of all matrices are read from one run; what 8 bits would change of a matrix's output follows
from its input alone, and is fed back to see what it does to the embedding or score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from training.agreement import Agreement
from training.matrices import Bytes, Linear, Matrix, quantize_columns
from training.onnx_graph import replace_nodes, weights_of
from training.onnx_run import Feed, open_session

Floats = NDArray[np.float32]
Progress = Callable[[int], None]

_ACTIVATION_MAX = 255


@dataclass(frozen=True, slots=True)
class Readings:
    """What full precision makes of calibration texts, and what its matrices read for them.

    Attributes:
        outputs: float32 of shape (n, width).
        channel_maxima: by matrix name, the largest magnitude of each channel read, shape (k,).
    """

    outputs: Floats
    channel_maxima: dict[str, Floats]


class Probe:
    """A full-precision session that shows what each matrix reads, and takes differences."""

    def __init__(self, model: Any, matrices: Sequence[Matrix]) -> None:
        """Build the session from a tidied ModelProto and its matrices."""
        tensors = weights_of(model.graph)
        self.matrices = tuple(matrices)
        self._output = model.graph.output[0].name
        self._weights = {
            linear.weight: numpy_helper.to_array(tensors[linear.weight])
            for matrix in matrices
            for linear in matrix.linears
        }
        self._session = open_session(_with_differences(model, matrices).SerializeToString())

    def inputs(self, feed: Feed) -> tuple[Floats, dict[str, Floats]]:
        """Return what a text becomes, (width,), and by matrix name what it reads, (seq, k)."""
        names = [matrix.input for matrix in self.matrices]
        made, *read = self._session.run([self._output, *names], feed)
        rows = {
            matrix.name: values.reshape(-1, values.shape[-1])
            for matrix, values in zip(self.matrices, read, strict=True)
        }
        return made.reshape(-1), rows

    def outputs_with(self, matrix: Matrix, feeds: Sequence[Feed], read: Sequence[Floats]) -> Floats:
        """Return what texts become, shape (n, width), with one matrix in 8 bits.

        Args:
            matrix: which matrix.
            feeds: each text's tokens.
            read: what the matrix reads for each text, float32 of shape (seq, k).
        """
        stored = {
            linear: (self._weights[linear.weight], quantize_columns(self._weights[linear.weight]))
            for linear in matrix.linears
        }
        made = []
        for feed, rows in zip(feeds, read, strict=True):
            differences = {
                _difference(linear): quantized_product(rows, *bits) - rows @ weights
                for linear, (weights, bits) in stored.items()
            }
            made.append(self._session.run([self._output], {**feed, **differences})[0].reshape(-1))
        return np.stack(made)


def measure_sensitivity(
    probe: Probe, feeds: Sequence[Feed], agreement: Agreement, advance: Progress
) -> dict[str, float]:
    """Return, by matrix name, 1 - agreement with full precision when it alone is in 8 bits.

    Args:
        probe: the model to measure.
        feeds: tokens of calibration texts or pairs.
        agreement: of what is made with what full precision makes.
        advance: called with 1 after each matrix.
    """
    runs = [probe.inputs(feed) for feed in feeds]
    expected = np.stack([made for made, _ in runs])
    costs: dict[str, float] = {}
    for matrix in probe.matrices:
        got = probe.outputs_with(matrix, feeds, [read[matrix.name] for _, read in runs])
        costs[matrix.name] = 1.0 - agreement(got, expected)
        advance(1)
    return costs


def read_texts(probe: Probe, feeds: Sequence[Feed], advance: Progress) -> Readings:
    """Return what full precision makes of texts, and how large the channels it reads become."""
    maxima: dict[str, Floats] = {}
    outputs = []
    for feed in feeds:
        made, read = probe.inputs(feed)
        outputs.append(made)
        for name, rows in read.items():
            largest = np.abs(rows).max(axis=0)
            maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest
        advance(1)
    return Readings(np.stack(outputs), maxima)


def quantized_product(rows: Floats, values: Bytes, scales: Floats) -> Floats:
    """Return rows @ weights as DynamicQuantizeMatMul makes it, float32 of shape (m, n).

    Activations get one scale and zero point for all rows, over a range that holds zero.

    Args:
        rows: float32 of shape (m, k).
        values: the weights in 8 bits, shape (k, n).
        scales: their steps, one a column, shape (n,).
    """
    low, high = min(float(rows.min()), 0.0), max(float(rows.max()), 0.0)
    step = (high - low) / _ACTIVATION_MAX or 1.0
    zero = np.clip(np.rint(-low / step), 0, _ACTIVATION_MAX)
    stored = np.clip(np.rint(rows / step) + zero, 0, _ACTIVATION_MAX) - zero
    product = stored.astype(np.float32) @ values.astype(np.float32)
    scaled: Floats = product * (scales * np.float32(step))
    return scaled


def _with_differences(model: Any, matrices: Sequence[Matrix]) -> Any:
    """Return a copy that shows matrices' inputs and adds to each linear's output an input."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    linears = {linear.output: linear for matrix in matrices for linear in matrix.linears}
    order: list[Any] = []
    for node in graph.node:
        order.append(node)
        if linear := linears.get(node.output[0]):
            node.output[0] = f"{linear.output}_plain"
            order.append(
                helper.make_node("Add", [node.output[0], _difference(linear)], [linear.output])
            )
    replace_nodes(graph, order)
    for linear in linears.values():
        name = _difference(linear)
        # An initializer that is an input too has a default and can be given another value.
        graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), name))
        graph.input.append(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None])
        )
    shown = dict.fromkeys(matrix.input for matrix in matrices)
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in shown)
    del graph.value_info[:]
    return copy


def _difference(linear: Linear) -> str:
    return f"{linear.output}_difference"
