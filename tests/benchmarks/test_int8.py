import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks import int8_kernels
from benchmarks.int8_kernels import FULL, KINDS, Graph, dynamic, full, measure
from benchmarks.int8_neighbours import neighbour_cosines, neighbour_texts
from benchmarks.int8_rewrites import (
    blockwise,
    capping_factors,
    shared_factors,
    smoothed,
    write_static,
)
from training.matrices import find_matrices
from training.onnx_run import open_session


def test_every_kernel_is_measured_against_full_precision():
    found = measure((128, 64), rows=[1, 3], rounds=1, seconds=0.0)
    assert set(found) == set(KINDS)
    assert found[FULL]["ratio"] == {1: 1.0, 3: 1.0}
    assert all(of_kind["us"][rows] > 0 for of_kind in found.values() for rows in (1, 3))


@pytest.mark.parametrize("signed", [True, False])
def test_kernels_multiply_by_the_same_matrix(signed, monkeypatch):
    monkeypatch.setattr(int8_kernels, "NUM_MATRICES", 1)
    x = np.random.default_rng(3).normal(size=(4, 128)).astype(np.float32)
    results = []
    for add in (full, dynamic(signed=signed)):
        graph = Graph(128, 64)
        graph.results = [add(graph, 0)]
        results.append(open_session(graph.serialized()).run(None, {"x": x})[0])
    exact, quantized = results
    assert np.abs(quantized / 0.01 - exact).max() < 0.02 * np.abs(exact).max()


def one_matrix_model(rng):
    """x @ w + b, of 256 channels to 128."""
    floats = onnx.TensorProto.FLOAT
    weights = rng.normal(size=(256, 128)).astype(np.float32)
    bias = rng.normal(size=128).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["out"]),
        ],
        "one",
        [helper.make_tensor_value_info("x", floats, [None, 256])],
        [helper.make_tensor_value_info("out", floats, [None, 128])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def relative_error(model, x, expected):
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    got = open_session(source).run(None, {"x": x})[0]
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


@pytest.fixture
def matrix_case():
    rng = np.random.default_rng(4)
    model = one_matrix_model(rng)
    x = rng.normal(size=(6, 256)).astype(np.float32)
    return model, x, open_session(model.SerializeToString()).run(None, {"x": x})[0]


def test_smoothing_changes_what_a_matrix_reads_and_not_what_it_makes(matrix_case):
    model, x, expected = matrix_case
    (matrix,) = find_matrices(model.graph)
    maxima = {matrix.name: np.abs(x).max(axis=0) * np.where(np.arange(256) == 7, 50, 1)}
    for factors in (capping_factors(maxima), shared_factors(model, maxima)):
        assert factors[matrix.name].argmax() == 7
        made = smoothed(model, factors)
        assert [node.op_type for node in made.graph.node] == ["Mul", "MatMul", "Add"]
        assert relative_error(made, x, expected) < 1e-5
        assert len(find_matrices(made.graph)) == 1


def test_a_matrix_in_blocks_is_near_full_precision(matrix_case):
    model, x, expected = matrix_case
    made = blockwise(model)
    assert [node.op_type for node in made.graph.node] == ["MatMulNBits", "Add"]
    assert relative_error(made, x, expected) < 0.02


@pytest.mark.parametrize("products", [True, False])
def test_static_quantization_has_fixed_scales_for_what_a_matrix_reads(
    matrix_case, products, tmp_path
):
    model, x, expected = matrix_case
    write_static(model, [{"x": x}], tmp_path / "made.onnx", reduced=True, products=products)
    made = onnx.load(tmp_path / "made.onnx")
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("QuantizeLinear") == (2 if products else 1)
    assert "w_quantized" in {tensor.name for tensor in made.graph.initializer}
    assert relative_error(tmp_path / "made.onnx", x, expected) < 0.03


class LongestCounts:
    """Turns a text by its own length and, where `leaks`, by that of the longest of its batch."""

    def __init__(self, leaks):
        self.leaks = leaks

    def encode(self, texts):
        longest = max(map(len, texts)) if self.leaks else 0
        angles = np.array([(len(text) + longest) / 400 for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_batch_that_changes_vectors_is_told_from_one_that_does_not():
    texts = ["a" * length for length in range(1, 65)]
    apart = neighbour_cosines(LongestCounts(leaks=False), texts)
    assert apart == {"cosine_mean": 1.0, "cosine_min": 1.0}
    leaking = neighbour_cosines(LongestCounts(leaks=True), texts)
    assert leaking["cosine_min"] == pytest.approx(np.cos(31 / 400), abs=1e-5)


def test_texts_with_neighbours_are_distinct_and_of_mixed_length():
    texts = neighbour_texts()
    assert len(set(texts)) == 200
    assert max(map(len, texts)) > 4 * min(map(len, texts))
