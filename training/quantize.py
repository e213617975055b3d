"""INT8 that keeps its meaning on every CPU.

Two ways to store a matrix are used, both with 8-bit activations made at run time:

- `channel7`: one scale a column, weights in -64..64. AVX2 and AVX-512 without VNNI add two products
  of an unsigned 8-bit activation and a signed 8-bit weight in a saturating 16-bit sum (VPMADDUBSW);
  255 * 64 * 2 = 32,640 fits in it, 255 * 127 * 2 does not. So the sum is exact on every CPU.
- `block8`: one scale for every 64 weights of a column, and one for every 64 activations of a row.
  Closer to the float result, slower on long texts: for the matrices that lose the most.

Token embeddings become 8-bit rows with one scale a row.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from training.onnx_graph import (
    MICROSOFT,
    add_tensor,
    fuse_skip_layer_norm,
    prune,
    readers_of,
    replace_nodes,
    weights_of,
)
from training.onnx_run import Ids, cosines, embed_each, open_session

Scheme = Literal["channel7", "block8"]
Floats = NDArray[np.float32]
Progress = Callable[[int], None]

CHANNEL_WEIGHT_MAX = 64
BLOCK_WEIGHT_MAX = 127
BLOCK_SIZE = 64
_BLOCK_ZERO_POINT = 128
_EMBEDDING_ROWS_MIN = 1024
_MATRIX_WEIGHTS_MIN = 16 * 1024


@dataclass(frozen=True, slots=True)
class Linear:
    """One x @ weight + bias in the graph."""

    input: str
    weight: str
    bias: str | None
    output: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """Linears that read the same input: they are stored and multiplied as one matrix."""

    linears: tuple[Linear, ...]

    @property
    def name(self) -> str:
        """Return the matrix's name: that of its first bias, which exporters keep, else weight."""
        return self.linears[0].bias or self.linears[0].weight


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized model and how each of its matrices is stored."""

    model: Any
    schemes: dict[str, Scheme]
    sensitivity: dict[str, float]


def quantize(
    model: Any, texts: Sequence[Ids], expected: Floats, target_cosine: float, advance: Progress
) -> Quantized:
    """Return the model in 8 bits: every matrix the fast way, the worst ones the close way.

    When the fast way alone misses the target, what each matrix costs is measured by quantizing it
    alone, and the costliest are stored block-wise, one after another, until the target is met.

    Args:
        model: the FP32 ModelProto, tidied.
        texts: token ids of calibration texts.
        expected: their FP32 vectors, shape (n, dim).
        target_cosine: mean cosine to `expected` to reach.
        advance: called with 1 after each model measured.
    """
    matrices = find_matrices(model.graph)
    schemes: dict[str, Scheme] = {matrix.name: "channel7" for matrix in matrices}
    result = quantize_graph(model, schemes)
    if _mean_cosine(result, texts, expected, advance) >= target_cosine:
        return Quantized(result, schemes, {})
    sensitivity = measure_sensitivity(model, matrices, texts, expected, advance)
    for name in sorted(sensitivity, key=sensitivity.__getitem__, reverse=True):
        schemes[name] = "block8"
        result = quantize_graph(model, schemes)
        if _mean_cosine(result, texts, expected, advance) >= target_cosine:
            break
    return Quantized(result, schemes, sensitivity)


def measure_sensitivity(
    model: Any,
    matrices: Sequence[Matrix],
    texts: Sequence[Ids],
    expected: Floats,
    advance: Progress,
) -> dict[str, float]:
    """Return, by matrix, 1 - mean cosine when it alone is stored the fast way."""
    costs: dict[str, float] = {}
    for matrix in matrices:
        alone = quantize_graph(model, {matrix.name: "channel7"}, embeddings=False)
        costs[matrix.name] = 1.0 - _mean_cosine(alone, texts, expected, advance)
    return costs


def quantize_graph(model: Any, schemes: Mapping[str, Scheme], *, embeddings: bool = True) -> Any:
    """Return a copy of the model with the matrices named in `schemes` in 8 bits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for matrix in find_matrices(graph):
        if scheme := schemes.get(matrix.name):
            _replace_matrix(graph, matrix, scheme)
    if embeddings:
        _quantize_embeddings(graph)
    fuse_skip_layer_norm(graph)
    prune(graph)
    _require_domain(copy)
    return copy


def find_matrices(graph: Any) -> list[Matrix]:
    """Return the weight matrices of a graph in order of use, joined where they read one input."""
    weights = weights_of(graph)
    readers = readers_of(graph)
    by_input: dict[str, list[Linear]] = defaultdict(list)
    for node in graph.node:
        tensor = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if (
            tensor is not None
            and len(tensor.dims) == 2
            and np.prod(tensor.dims) > _MATRIX_WEIGHTS_MIN
        ):
            by_input[node.input[0]].append(_linear_at(node, readers, weights))
    return [Matrix(tuple(linears)) for linears in by_input.values()]


def quantize_columns(weights: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return a (k, n) matrix in -64..64 and one scale a column.

    >>> values, scales = quantize_columns(np.array([[1.0, -0.5], [0.5, 0.25]], np.float32))
    >>> values.tolist(), scales.tolist()
    ([[64, -64], [32, 32]], [0.015625, 0.0078125])
    """
    scales = _scales(np.abs(weights).max(axis=0), CHANNEL_WEIGHT_MAX)
    values = np.clip(np.rint(weights / scales), -CHANNEL_WEIGHT_MAX, CHANNEL_WEIGHT_MAX)
    return values.astype(np.int8), scales


def quantize_blocks(
    weights: Floats, block_size: int = BLOCK_SIZE
) -> tuple[NDArray[np.uint8], Floats]:
    """Return a (k, n) matrix as (n, blocks, block_size) bytes around 128, and (n, blocks) scales.

    This is the layout of onnxruntime's MatMulNBits; k is filled up with zeros.
    """
    k, n = weights.shape
    num_blocks = -(-k // block_size)
    padded = np.zeros((num_blocks * block_size, n), dtype=np.float32)
    padded[:k] = weights
    blocks = padded.T.reshape(n, num_blocks, block_size)
    scales = _scales(np.abs(blocks).max(axis=2), BLOCK_WEIGHT_MAX)
    values = np.rint(blocks / scales[:, :, None]) + _BLOCK_ZERO_POINT
    return values.astype(np.uint8), scales


def quantize_rows(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return an embedding table in -127..127 and one scale a row, shape (rows, 1)."""
    scales = _scales(np.abs(table).max(axis=1, keepdims=True), BLOCK_WEIGHT_MAX)
    return np.rint(table / scales).astype(np.int8), scales


def _scales(largest: Floats, limit: int) -> Floats:
    """Return steps that put the largest value at the limit; parts of nothing get step 1."""
    steps = (largest / limit).astype(np.float32)
    return np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1.0))


def _mean_cosine(model: Any, texts: Sequence[Ids], expected: Floats, advance: Progress) -> float:
    session = open_session(model.SerializeToString())
    mean = float(cosines(embed_each(session, texts), expected).mean())
    advance(1)
    return mean


def _linear_at(node: Any, readers: Mapping[str, list[Any]], weights: Mapping[str, Any]) -> Linear:
    """Return the Linear that starts at a MatMul, with the constant Add behind it as its bias."""
    following = readers[node.output[0]]
    if len(following) == 1 and following[0].op_type == "Add":
        constants = [name for name in following[0].input if name in weights]
        if constants and len(weights[constants[0]].dims) == 1:
            return Linear(node.input[0], node.input[1], constants[0], following[0].output[0])
    return Linear(node.input[0], node.input[1], None, node.output[0])


def _replace_matrix(graph: Any, matrix: Matrix, scheme: Scheme) -> None:
    """Put quantized nodes where a matrix's first MatMul stands."""
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
    make = _channel_node if scheme == "channel7" else _block_node
    nodes = [make(graph, np.concatenate(weights, axis=1), matrix.linears[0].input, bias, joined)]
    if len(outputs) > 1:
        widths = np.array([part.shape[1] for part in weights], dtype=np.int64)
        sizes = add_tensor(graph, f"{joined}_widths", widths)
        nodes.append(helper.make_node("Split", [joined, sizes], outputs, axis=-1))
    _swap_in(graph, matrix, nodes)


def _swap_in(graph: Any, matrix: Matrix, nodes: list[Any]) -> None:
    """Replace a matrix's MatMul and bias Add nodes with others, at the place of the first."""
    replaced = {linear.output for linear in matrix.linears}
    first_weight = matrix.linears[0].weight
    order: list[Any] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] == first_weight:
            order += nodes
        if node.output[0] not in replaced:
            order.append(node)
    replace_nodes(graph, order)


def _channel_node(graph: Any, weights: Floats, source: str, bias: str, output: str) -> Any:
    values, scales = quantize_columns(weights)
    inputs = [
        source,
        add_tensor(graph, f"{output}_values", values),
        add_tensor(graph, f"{output}_scales", scales),
        "",
        bias,
    ]
    return helper.make_node("DynamicQuantizeMatMul", inputs, [output], domain=MICROSOFT)


def _block_node(graph: Any, weights: Floats, source: str, bias: str, output: str) -> Any:
    values, scales = quantize_blocks(weights)
    inputs = [
        source,
        add_tensor(graph, f"{output}_values", values),
        add_tensor(graph, f"{output}_scales", scales.reshape(-1)),
        "",
        "",
        bias,
    ]
    return helper.make_node(
        "MatMulNBits",
        inputs,
        [output],
        domain=MICROSOFT,
        K=weights.shape[0],
        N=weights.shape[1],
        bits=8,
        block_size=BLOCK_SIZE,
        accuracy_level=4,  # 8-bit activations
    )


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
