"""How long onnxruntime takes to multiply by a matrix in 8 bits, against FP32, one thread.

    python -m benchmarks.int8_kernels
    python -m benchmarks.int8_kernels --shapes 384x1536 --rows 1 8 32

Graphs of one kind of node with several different matrices one after another, so that weights come
from memory as they do in a model. Rows are what a text has tokens. Kinds are measured in turn, in
rounds; a figure is the median of rounds, and ratios to FP32 are of the same round.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.report import RESULTS, machine, median, write_result
from training.onnx_run import open_session

ROWS = (1, 6, 8, 16, 32, 128)
SHAPES = ("768x3072", "768x768", "3072x768", "384x1536")
FULL = "MatMul FP32"
NUM_MATRICES = 12
WEIGHT_MAX = 64
MICROSOFT = "com.microsoft"

Weights = Callable[[str, NDArray[Any]], str]


class Graph:
    """Nodes that all read x, each with a matrix of its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Start a graph of matrices of shape (inputs, outputs)."""
        self.shape = (inputs, outputs)
        self.nodes: list[Any] = []
        self.results: list[str] = []
        self._tensors: list[Any] = []
        self._rng = np.random.default_rng(0)

    def tensor(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant."""
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weights(self) -> NDArray[np.int8]:
        """Return a matrix of random bytes in -64..64."""
        return self._rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, self.shape).astype(np.int8)

    def scales(self, name: str, count: int) -> str:
        """Add steps for the weights."""
        return self.tensor(name, np.full(count, 0.01, np.float32))

    def octets(self, *shape: int) -> NDArray[np.uint8]:
        """Return random bytes."""
        return self._rng.integers(0, 256, shape).astype(np.uint8)

    def add(self, kind: str, inputs: list[str], result: str, **attributes: Any) -> None:
        """Add a node."""
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))

    def serialized(self) -> bytes:
        """Return the model's bytes."""
        graph = helper.make_graph(
            self.nodes,
            "kernels",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, self.shape[0]])],
            [helper.make_empty_tensor_value_info(name) for name in self.results],
            self._tensors,
        )
        sets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
        model: bytes = helper.make_model(
            graph, opset_imports=sets, ir_version=10
        ).SerializeToString()
        return model


def full(graph: Graph, number: int) -> str:
    """Add x @ W in full precision."""
    weights = graph.tensor(f"w{number}", graph.weights().astype(np.float32))
    graph.add("MatMul", ["x", weights], f"o{number}")
    return f"o{number}"


def dynamic(*, signed: bool) -> Callable[[Graph, int], str]:
    """Return what adds a DynamicQuantizeMatMul."""

    def add(graph: Graph, number: int) -> str:
        weights: NDArray[Any] = graph.weights()
        inputs = ["x", f"w{number}", graph.scales(f"s{number}", graph.shape[1])]
        if not signed:
            weights = (weights.astype(np.int16) + 128).astype(np.uint8)
            zeros = np.full(graph.shape[1], 128, np.uint8)
            inputs.append(graph.tensor(f"z{number}", zeros))
        graph.tensor(f"w{number}", weights)
        graph.add("DynamicQuantizeMatMul", inputs, f"o{number}", domain=MICROSOFT)
        return f"o{number}"

    return add


def shared_quantization(graph: Graph, number: int) -> str:
    """Add a MatMulInteger; all of them read what one DynamicQuantizeLinear makes of x."""
    if number == 0:
        graph.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "step", "zero"]))
    weights = graph.tensor(f"w{number}", graph.weights())
    graph.add("MatMulInteger", ["q", weights, "zero"], f"i{number}")
    graph.add("Cast", [f"i{number}"], f"o{number}", to=onnx.TensorProto.FLOAT)
    return f"o{number}"


def static(graph: Graph, number: int) -> str:
    """Add a QLinearMatMul: scales of activations are constants."""
    if number == 0:
        graph.tensor("step", np.array(0.03, np.float32))
        graph.tensor("zero", np.array(128, np.uint8))
        graph.add("QuantizeLinear", ["x", "step", "zero"], "q")
    weights = graph.tensor(f"w{number}", graph.weights())
    zeros = graph.tensor(f"z{number}", np.zeros(graph.shape[1], np.int8))
    scales = graph.scales(f"s{number}", graph.shape[1])
    graph.add(
        "QLinearMatMul",
        ["q", "step", "zero", weights, scales, zeros, "step", "zero"],
        f"o{number}",
    )
    return f"o{number}"


def blockwise(bits: int, block: int, level: int) -> Callable[[Graph, int], str]:
    """Return what adds a MatMulNBits."""

    def add(graph: Graph, number: int) -> str:
        inputs, outputs = graph.shape
        blocks = -(-inputs // block)
        weights = graph.tensor(f"w{number}", graph.octets(outputs, blocks, block * bits // 8))
        graph.add(
            "MatMulNBits",
            ["x", weights, graph.scales(f"s{number}", outputs * blocks)],
            f"o{number}",
            domain=MICROSOFT,
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=block,
            accuracy_level=level,
        )
        return f"o{number}"

    return add


KINDS: dict[str, Callable[[Graph, int], str]] = {
    FULL: full,
    "DynamicQuantizeMatMul, signed weights": dynamic(signed=True),
    "DynamicQuantizeMatMul, unsigned weights": dynamic(signed=False),
    "MatMulInteger behind one DynamicQuantizeLinear": shared_quantization,
    "QLinearMatMul (static)": static,
    "MatMulNBits 8 bit, blocks of 64, level 4": blockwise(8, 64, 4),
    "MatMulNBits 8 bit, blocks of 128, level 4": blockwise(8, 128, 4),
    "MatMulNBits 8 bit, blocks of 256, level 4": blockwise(8, 256, 4),
    "MatMulNBits 8 bit, blocks of 64, level 0": blockwise(8, 64, 0),
    "MatMulNBits 4 bit, blocks of 64, level 4": blockwise(4, 64, 4),
}


def measure(shape: tuple[int, int], rows: list[int], rounds: int, seconds: float) -> dict[str, Any]:
    """Return, by kind and number of rows, microseconds a matrix and the ratio to FP32."""
    sessions = {}
    for kind, add in KINDS.items():
        graph = Graph(*shape)
        graph.results = [add(graph, number) for number in range(NUM_MATRICES)]
        sessions[kind] = open_session(graph.serialized())
    found: dict[str, dict[str, Any]] = {kind: {"us": {}, "ratio": {}} for kind in KINDS}
    rng = np.random.default_rng(1)
    for num_rows in rows:
        feed = {"x": rng.normal(size=(num_rows, shape[0])).astype(np.float32)}
        spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind, session in sessions.items():
                spent[kind].append(_median_us(session, feed, seconds) / NUM_MATRICES)
        for kind, values in spent.items():
            ratios = [here / base for here, base in zip(values, spent[FULL], strict=True)]
            found[kind]["us"][num_rows] = median(values)
            found[kind]["ratio"][num_rows] = median(ratios, 3)
    return found


def _median_us(session: Any, feed: dict[str, Any], seconds: float) -> float:
    session.run(None, feed)
    spent_us: list[float] = []
    stop_s = time.perf_counter() + seconds
    while len(spent_us) < 3 or time.perf_counter() < stop_s:
        started_s = time.perf_counter()
        session.run(None, feed)
        spent_us.append((time.perf_counter() - started_s) * 1e6)
    return float(np.median(spent_us))


def print_table(shape: str, found: dict[str, Any], rows: list[int]) -> None:
    """Print microseconds, and in brackets the ratio to FP32, as Markdown."""
    print(f"| {shape} | " + " | ".join(f"M = {number}" for number in rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for kind, of_kind in found.items():
        cells = [f"{of_kind['us'][n]:,.0f} ({of_kind['ratio'][n]:.2f})" for n in rows]
        print(f"| {kind} | " + " | ".join(cells) + " |")


def main() -> None:
    """Measure every shape, print tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), help="as 768x3072")
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.15, help="a kind, case and round")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "matrices": NUM_MATRICES, "shapes": {}}
    for shape in options.shapes:
        inputs, outputs = map(int, shape.split("x"))
        found = measure((inputs, outputs), options.rows, options.rounds, options.seconds)
        figures["shapes"][shape] = found
        print_table(shape, found, options.rows)
    print(f"written to {write_result('int8_kernels', figures, options.results)}")


if __name__ == "__main__":
    main()
