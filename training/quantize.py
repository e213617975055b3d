"""INT8 that keeps its meaning on every CPU.

`channel7`: weights have one scale a column and lie in -64..64, activations are unsigned bytes with
one scale a run. AVX2 and AVX-512 without VNNI add two products of an unsigned activation and a
signed weight in a saturating 16-bit sum (VPMADDUBSW); 255 * 64 * 2 = 32,640 fits in it, while
255 * 127 * 2 does not. So the sum is exact on every CPU.

`channel7_split`: one scale a run is coarse where a few channels of the activations are many times
larger than all others. Where that costs something, measured, those channels are multiplied in FP32
beside the rest. `float32`: what still costs too much stays as it is.

Token embeddings become 8-bit rows with one scale a row.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from training.agreement import Agreement
from training.matrices import Matrix, find_matrices, quantize_columns, quantize_rows
from training.onnx_graph import (
    MICROSOFT,
    add_tensor,
    prune,
    replace_nodes,
    weights_of,
)
from training.onnx_run import Feed, cut, open_session, run_each
from training.sensitivity import Probe, measure_sensitivity, read_texts

Scheme = Literal["channel7", "channel7_split", "float32"]
Floats = NDArray[np.float32]
Progress = Callable[[int], None]

SENSITIVITY_TEXTS_MAX = 8
SENSITIVITY_TOKENS_MAX = 48
SPLIT_COST_MIN = 1e-4
SPLIT_CHANNELS_MAX = 12
# A channel is split off when it reaches this many times what 99 of 100 channels stay below.
SPLIT_RATIO = 1.5
_ORDINARY_SHARE = 0.99
_EMBEDDING_ROWS_MIN = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """How a matrix is stored; `channels` are those of its input that are multiplied in FP32."""

    scheme: Scheme = "channel7"
    channels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized model, how each of its matrices is stored, and what each would cost plainly."""

    model: Any
    plans: dict[str, Plan]
    sensitivity: dict[str, float] = field(default_factory=dict)


def quantize(
    model: Any,
    feeds: Sequence[Feed],
    agreement: Agreement,
    target: float,
    advance: Progress,
) -> Quantized:
    """Return the model in 8 bits, the matrices that lose the most treated better.

    Args:
        model: the FP32 ModelProto, tidied.
        feeds: tokens of calibration texts or pairs.
        agreement: of what the quantized model makes with what full precision makes.
        target: agreement to reach; as few of the costliest matrices as it takes stay FP32.
        advance: called with 1 after each of `num_steps` steps.
    """
    probe = Probe(model, find_matrices(model.graph))
    sensitivity = measure_sensitivity(probe, _short(feeds), agreement, advance)
    readings = read_texts(probe, feeds, advance)
    del probe
    plans = _plans(sensitivity, readings.channel_maxima)
    costliest = sorted(sensitivity, key=sensitivity.__getitem__, reverse=True)

    def made(num_float: int) -> tuple[Any, dict[str, Plan]]:
        chosen = plans | dict.fromkeys(costliest[:num_float], Plan("float32"))
        return quantize_graph(model, chosen), chosen

    def is_near(num_float: int) -> bool:
        return agreement(_outputs(made(num_float)[0], feeds), readings.outputs) >= target

    num_float = 0
    if not is_near(0):
        num_float = bisect_left(range(len(plans)), True, lo=1, key=is_near)
    return Quantized(*made(num_float), sensitivity)


def num_steps(model: Any, feeds: Sequence[Feed]) -> int:
    """Return how many steps `quantize` reports."""
    return len(find_matrices(model.graph)) + len(feeds)


def quantize_graph(model: Any, plans: Mapping[str, Plan], *, embeddings: bool = True) -> Any:
    """Return a copy of the model with the matrices named in `plans` in 8 bits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for matrix in find_matrices(graph):
        plan = plans.get(matrix.name)
        if plan and plan.scheme != "float32":
            _replace_matrix(graph, matrix, plan.channels)
    if embeddings:
        _quantize_embeddings(graph)
    prune(graph)
    _require_domain(copy)
    return copy


def outlier_channels(maxima: Floats) -> tuple[int, ...]:
    """Return the channels, ascending, whose largest magnitude stands out from all others'.

    >>> outlier_channels(np.array([1.0, 1.0, 9.0] + [1.0] * 400, np.float32))
    (2,)
    """
    limit = SPLIT_RATIO * np.quantile(maxima, _ORDINARY_SHARE)
    largest = np.argsort(-maxima, kind="stable")[:SPLIT_CHANNELS_MAX]
    return tuple(sorted(int(channel) for channel in largest if maxima[channel] > limit))


def _plans(sensitivity: Mapping[str, float], maxima: Mapping[str, Floats]) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for name, cost in sensitivity.items():
        channels = outlier_channels(maxima[name]) if cost >= SPLIT_COST_MIN else ()
        plans[name] = Plan("channel7_split", channels) if channels else Plan()
    return plans


def _short(feeds: Sequence[Feed]) -> list[Feed]:
    """Return texts to measure sensitivity with: spread over what is given, and not long."""
    rows = np.linspace(0, len(feeds) - 1, min(len(feeds), SENSITIVITY_TEXTS_MAX)).astype(int)
    return [cut(feeds[row], SENSITIVITY_TOKENS_MAX) for row in rows]


def _outputs(model: Any, feeds: Sequence[Feed]) -> Floats:
    return run_each(open_session(model.SerializeToString()), feeds)


def _replace_matrix(graph: Any, matrix: Matrix, channels: Sequence[int]) -> None:
    """Put 8-bit nodes where a matrix's first MatMul stands."""
    tensors = weights_of(graph)
    weights = [numpy_helper.to_array(tensors[linear.weight]) for linear in matrix.linears]
    biases = [
        numpy_helper.to_array(tensors[linear.bias])
        if linear.bias
        else np.zeros(part.shape[1], part.dtype)
        for linear, part in zip(matrix.linears, weights, strict=True)
    ]
    outputs = [linear.output for linear in matrix.linears]
    joined = outputs[0] if len(outputs) == 1 else f"{outputs[0]}_joined"
    bias = add_tensor(graph, f"{joined}_bias", np.concatenate(biases))
    make = _split_nodes if channels else _plain_nodes
    nodes = make(graph, np.concatenate(weights, axis=1), matrix.input, bias, joined, channels)
    if len(outputs) > 1:
        widths = np.array([part.shape[1] for part in weights], dtype=np.int64)
        sizes = add_tensor(graph, f"{joined}_widths", widths)
        nodes.append(helper.make_node("Split", [joined, sizes], outputs, axis=-1))
    _swap_in(graph, matrix, nodes)


def _swap_in(graph: Any, matrix: Matrix, nodes: list[Any]) -> None:
    """Put nodes in the place of those that make a matrix's outputs; the rest is left to pruning."""
    replaced = {linear.output for linear in matrix.linears}
    order: list[Any] = []
    for node in graph.node:
        if node.output[0] not in replaced:
            order.append(node)
        elif nodes:
            order += nodes
            nodes = []
    replace_nodes(graph, order)


def _plain_nodes(
    graph: Any, weights: Floats, source: str, bias: str, output: str, _channels: Sequence[int] = ()
) -> list[Any]:
    values, scales = quantize_columns(weights)
    inputs = [
        source,
        add_tensor(graph, f"{output}_values", values),
        add_tensor(graph, f"{output}_scales", scales),
        "",
        bias,
    ]
    return [helper.make_node("DynamicQuantizeMatMul", inputs, [output], domain=MICROSOFT)]


def _split_nodes(
    graph: Any, weights: Floats, source: str, bias: str, output: str, channels: Sequence[int]
) -> list[Any]:
    """Return nodes that multiply some channels in FP32 and all others in 8 bits.

    x @ W + b = (x * keep) @ W + b + x[channels] @ W[channels], where keep is 0 at the channels: so
    they do not stretch the range that the activations' 8 bits are spread over.
    """
    keep = np.ones(len(weights), np.float32)
    keep[list(channels)] = 0.0
    add_tensor(graph, f"{output}_keep", keep)
    add_tensor(graph, f"{output}_channels", np.array(channels, dtype=np.int64))
    add_tensor(graph, f"{output}_channel_weights", weights[list(channels)])
    rest = weights * keep[:, None]
    return [
        helper.make_node("Mul", [source, f"{output}_keep"], [f"{output}_kept"]),
        *_plain_nodes(graph, rest, f"{output}_kept", bias, f"{output}_rest"),
        helper.make_node("Gather", [source, f"{output}_channels"], [f"{output}_large"], axis=-1),
        helper.make_node(
            "MatMul", [f"{output}_large", f"{output}_channel_weights"], [f"{output}_exact"]
        ),
        helper.make_node("Add", [f"{output}_rest", f"{output}_exact"], [output]),
    ]


def _quantize_embeddings(graph: Any) -> None:
    """Store large tables that tokens are looked up in as 8-bit rows."""
    tensors = weights_of(graph)
    order: list[Any] = []
    for node in graph.node:
        table = tensors.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.dims[0] < _EMBEDDING_ROWS_MIN:
            order.append(node)
        else:
            order += _lookup_nodes(graph, node, numpy_helper.to_array(table))
    replace_nodes(graph, order)


def _lookup_nodes(graph: Any, node: Any, table: Floats) -> list[Any]:
    """Return nodes that look rows and their scales up, and multiply them."""
    output = node.output[0]
    values, scales = quantize_rows(table)
    stored = add_tensor(graph, f"{output}_values", values)
    steps = add_tensor(graph, f"{output}_scales", scales)
    return [
        helper.make_node("Gather", [stored, node.input[1]], [f"{output}_bytes"], axis=0),
        helper.make_node("Gather", [steps, node.input[1]], [f"{output}_steps"], axis=0),
        helper.make_node(
            "Cast", [f"{output}_bytes"], [f"{output}_floats"], to=onnx.TensorProto.FLOAT
        ),
        helper.make_node("Mul", [f"{output}_floats", f"{output}_steps"], [output]),
    ]


def _require_domain(model: Any) -> None:
    """Declare the operator set that the quantized nodes come from."""
    if all(entry.domain != MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
