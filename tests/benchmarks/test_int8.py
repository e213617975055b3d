import numpy as np
import pytest

from benchmarks import int8_kernels
from benchmarks.int8_kernels import FULL, KINDS, Graph, dynamic, full, measure
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
