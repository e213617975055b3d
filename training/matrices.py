"""The weight matrices of a graph, and how their values become 8 bits."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.onnx_graph import readers_of, weights_of

Floats = NDArray[np.float32]
Bytes = NDArray[np.int8]

CHANNEL_WEIGHT_MAX = 64
ROW_MAX = 127
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
    """Linears that read the same input: they are stored and multiplied as one matrix.

    Attributes:
        name: unique in its graph.
        linears: at least one.
    """

    name: str
    linears: tuple[Linear, ...]

    @property
    def input(self) -> str:
        """Return the name of the value it reads."""
        return self.linears[0].input


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
    named = Counter(_usual_name(linears) for linears in by_input.values())
    return [
        # Layers may share a bias, or all of their weights: what they make is theirs alone.
        Matrix(name if named[name] == 1 else linears[0].output, tuple(linears))
        for linears in by_input.values()
        for name in [_usual_name(linears)]
    ]


def quantize_columns(weights: Floats) -> tuple[Bytes, Floats]:
    """Return a (k, n) matrix in -64..64 and one scale a column.

    >>> values, scales = quantize_columns(np.array([[1.0, -0.5], [0.5, 0.25]], np.float32))
    >>> values.tolist(), scales.tolist()
    ([[64, -64], [32, 32]], [0.015625, 0.0078125])
    """
    scales = _scales(np.abs(weights).max(axis=0), CHANNEL_WEIGHT_MAX)
    values = np.clip(np.rint(weights / scales), -CHANNEL_WEIGHT_MAX, CHANNEL_WEIGHT_MAX)
    return values.astype(np.int8), scales


def quantize_rows(table: Floats) -> tuple[Bytes, Floats]:
    """Return an embedding table in -127..127 and one scale a row, shape (rows, 1)."""
    scales = _scales(np.abs(table).max(axis=1, keepdims=True), ROW_MAX)
    return np.rint(table / scales).astype(np.int8), scales


def _usual_name(linears: Sequence[Linear]) -> str:
    """Return the name of the first bias, which exporters keep, else of the weight."""
    return linears[0].bias or linears[0].weight


def _scales(largest: Floats, limit: int) -> Floats:
    """Return steps that put the largest value at the limit; parts of nothing get step 1."""
    steps = (largest / limit).astype(np.float32)
    return np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1.0))


def _linear_at(node: Any, readers: Mapping[str, list[Any]], weights: Mapping[str, Any]) -> Linear:
    """Return the Linear that starts at a MatMul, with the constant Add behind it as its bias."""
    following = readers[node.output[0]]
    if len(following) == 1 and following[0].op_type == "Add":
        constants = [name for name in following[0].input if name in weights]
        if constants and len(weights[constants[0]].dims) == 1:
            return Linear(node.input[0], node.input[1], constants[0], following[0].output[0])
    return Linear(node.input[0], node.input[1], None, node.output[0])
