"""Small rewrites of ONNX graphs: what an exporter leaves behind is removed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

MICROSOFT = "com.microsoft"


def tidy(model: Any, output_name: str) -> None:
    """Rewrite an exported graph in place: fewer nodes, same result, no trace of where it was made.

    Args:
        model: a ModelProto with one output.
        output_name: what the output is to be called.
    """
    model.graph.doc_string = ""
    model.producer_version = ""
    del model.metadata_props[:]
    _drop_idle_reshapes(model.graph)
    _rename_output(model.graph, output_name)
    prune(model.graph)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]


def weights_of(graph: Any) -> dict[str, Any]:
    """Return a graph's initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def readers_of(graph: Any) -> Mapping[str, list[Any]]:
    """Return which nodes read each value."""
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def prune(graph: Any) -> None:
    """Remove nodes and initializers that nothing reads, and shape notes that are no longer true."""
    alive = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(name in alive for name in node.output):
            kept.append(node)
            alive.update(node.input)
    replace_nodes(graph, reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in alive]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    del graph.value_info[:]


def replace_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Set a graph's nodes."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def add_tensor(graph: Any, name: str, values: NDArray[Any]) -> str:
    """Add an initializer and return its name."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def _drop_idle_reshapes(graph: Any) -> None:
    """Read through chains of Reshape that end in the shape they started from."""
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    origins: dict[str, str] = {}
    same: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type != "Reshape":
            continue
        origin = origins.get(node.input[0], node.input[0])
        node.input[0] = origin
        origins[node.output[0]] = origin
        if origin in shapes and shapes[origin] == shapes.get(node.output[0]):
            same[node.output[0]] = origin


def _rename_output(graph: Any, name: str) -> None:
    """Rename the only output; an inner value of that name steps aside."""
    (output,) = graph.output
    renamed = {name: f"{name}_inner", output.name: name}
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    output.name = name
