import hypothesis.extra.numpy as arrays
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tokenizers import Tokenizer

from training.onnx_graph import MICROSOFT
from training.quantize import (
    BLOCK_SIZE,
    CHANNEL_WEIGHT_MAX,
    find_matrices,
    quantize_blocks,
    quantize_columns,
    quantize_graph,
    quantize_rows,
)
from training.reference_texts import generate_texts

INT16_MAX = 32_767

finite = st.floats(-100, 100, width=32)
matrices = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=90), elements=finite
)


@given(matrices)
def test_a_column_value_is_off_by_at_most_half_a_step(weights):
    values, scales = quantize_columns(weights)
    assert np.abs(values).max() <= CHANNEL_WEIGHT_MAX
    assert (np.abs(values * scales - weights) <= scales * 0.501).all()


@given(matrices)
def test_a_row_value_is_off_by_at_most_half_a_step(table):
    values, scales = quantize_rows(table)
    assert (np.abs(values * scales - table) <= scales * 0.501).all()


@given(matrices)
def test_a_block_value_is_off_by_at_most_half_a_step(weights):
    values, scales = quantize_blocks(weights)
    back = (values.astype(np.float32) - 128) * scales[:, :, None]
    k, n = weights.shape
    errors = np.abs(back.reshape(n, -1)[:, :k].T - weights)
    assert (errors <= np.repeat(scales.T, BLOCK_SIZE, axis=0)[:k] * 0.501).all()


def saturating_dot(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What VPMADDUBSW and the additions after it give: pairs are summed in saturating int16."""
    products = activations.astype(np.int32)[:, :, None] * weights.astype(np.int32)[None]
    pairs = products[:, 0::2] + products[:, 1::2]
    return np.clip(pairs, -INT16_MAX - 1, INT16_MAX).sum(axis=1)


def test_the_simulation_shows_saturation_where_weights_use_all_8_bits():
    activations = np.full((1, 2), 255, dtype=np.uint8)
    assert saturating_dot(activations, np.full((2, 1), 127, dtype=np.int8))[0, 0] == INT16_MAX
    assert saturating_dot(activations, np.full((2, 1), 64, dtype=np.int8))[0, 0] == 255 * 64 * 2


def dynamic_u8(values: np.ndarray) -> np.ndarray:
    """ONNX DynamicQuantizeLinear, whose range always holds zero."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = (high - low) / 255 or 1.0
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(values / scale) + zero_point, 0, 255).astype(np.uint8)


def test_no_pair_of_the_shipped_weights_saturates_on_real_activations(minilm_bundle):
    model = onnx.load(str(minilm_bundle / "model.onnx"))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    fast = [node for node in model.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert fast
    sources = list(dict.fromkeys(node.input[0] for node in fast))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sources)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    tokenizer = Tokenizer.from_file(str(minilm_bundle / "tokenizer.json"))
    for text in generate_texts(4, seed=23):
        ids = np.array([tokenizer.encode(text).ids[:12]], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        inputs = dict(zip(sources, session.run(sources, feed), strict=True))
        for node in fast:
            weights = numpy_helper.to_array(tensors[node.input[1]])
            assert np.abs(weights.astype(np.int32)).max() * 2 * 255 <= INT16_MAX
            row = dynamic_u8(inputs[node.input[0]].reshape(-1, weights.shape[0]))[:1]
            exact = row.astype(np.int32) @ weights.astype(np.int32)
            np.testing.assert_array_equal(saturating_dot(row, weights), exact)


def two_layer_model(rng: np.random.Generator):
    """x -> two matrices that read x -> their sum, with biases: a graph to quantize."""
    weights = {f"w{n}": rng.normal(size=(192, 128)).astype(np.float32) for n in (0, 1)}
    biases = {f"b{n}": rng.normal(size=128).astype(np.float32) for n in (0, 1)}
    nodes = []
    for n in (0, 1):
        nodes.append(helper.make_node("MatMul", ["x", f"w{n}"], [f"m{n}"]))
        nodes.append(helper.make_node("Add", [f"m{n}", f"b{n}"], [f"y{n}"]))
    nodes.append(helper.make_node("Sub", ["y0", "y1"], ["out"]))
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", floats, [None, None, 192])],
        [helper.make_tensor_value_info("out", floats, [None, None, 128])],
        [numpy_helper.from_array(value, name) for name, value in (weights | biases).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(("scheme", "error_max"), [("channel7", 0.02), ("block8", 0.01)])
def test_matrices_that_read_one_input_are_joined_and_stay_close(scheme, error_max):
    rng = np.random.default_rng(3)
    model = two_layer_model(rng)
    (matrix,) = find_matrices(model.graph)
    assert len(matrix.linears) == 2
    small = quantize_graph(model, {matrix.name: scheme})
    assert sum(node.domain == MICROSOFT for node in small.graph.node) == 1
    assert not any(node.op_type == "MatMul" for node in small.graph.node)
    x = rng.normal(size=(1, 7, 192)).astype(np.float32)
    expected, got = (
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"x": x})[0]
        for each in (model, small)
    )
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < error_max
